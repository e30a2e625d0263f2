#include "words.h"

#include <string.h>

static const char heads[64][8] = {
	"be",  "ma",  "con", "pro", "ver", "sta", "re",	 "un",	"in",  "de",  "per", "sub", "tra", "gla", "mer", "nor",
	"pla", "qui", "rou", "sil", "tem", "ur",  "val", "wes", "yel", "ar",  "bro", "cas", "dor", "el",  "fla", "gre",
	"har", "is",  "jun", "kel", "lam", "mon", "ned", "or",	"pen", "ras", "sol", "tor", "um",  "vin", "wal", "ad",
	"bir", "cor", "dan", "ex",  "fen", "gol", "hol", "im",	"jas", "kir", "lor", "mis", "nal", "ob",  "pic", "ros",
};

static const char tails[32][8] = {
	"",    "s",   "t",   "ing",  "ed",   "er",    "tion",  "ly",	"ment",	  "able", "ness",
	"ous", "al",  "ive", "ist",  "ure",  "ance",  "ent",   "ful",	"less",	  "ward", "ship",
	"dom", "ity", "ton", "ford", "land", "field", "stone", "water", "bridge", "mark",
};

/* 0 .. n-1 by the square of a uniform draw: half of all draws fall into the first quarter. */
static uint32_t biased(uint32_t uniform, uint32_t n)
{
	return (uint32_t)(((uint64_t)uniform * uniform >> 32) * n >> 32);
}

static char *put_part(char *p, const char part[8])
{
	memcpy(p, part, 8);
	return p + strlen(part);
}

char *word_put(char *p, struct random *r)
{
	uint64_t bits = random_next(r);

	p = put_part(p, heads[biased((uint32_t)bits, 64)]);
	return put_part(p, tails[biased((uint32_t)(bits >> 32), 32)]);
}

char *word_put_number(char *p, uint64_t n)
{
	char digits[20];
	size_t count = 0;

	do {
		digits[count++] = (char)('0' + n % 10);
	} while (n /= 10);
	while (count)
		*p++ = digits[--count];
	return p;
}
