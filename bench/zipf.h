/*
 * Zipf-distributed draws by the method of Gray et al. (SIGMOD 1994), as in YCSB: a few keys are asked for very often,
 * most hardly ever. Ranks are spread over the key space, so that popular keys do not lie side by side in memory.
 */
#ifndef BENCH_ZIPF_H
#define BENCH_ZIPF_H

#include "random.h"

struct zipf {
	uint32_t n;
	double skew, zeta_n, alpha, eta;
};

/* Draws from 0 .. n-1; 0 < skew < 1. Takes time proportional to n. */
void zipf_init(struct zipf *z, uint32_t n, double skew);
uint32_t zipf_draw(const struct zipf *z, struct random *r);

#endif
