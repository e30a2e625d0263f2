/*
 * splitmix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", 2014): a word that looks random,
 * from a counter.
 */
#ifndef LARDER_TEST_MIX_H
#define LARDER_TEST_MIX_H

#include <stdint.h>

static inline uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

#endif
