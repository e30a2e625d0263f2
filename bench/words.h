/*
 * Prose-like words for benchmark data: 2,048 different ones, the short and common ones more often, as in any language.
 */
#ifndef BENCH_WORDS_H
#define BENCH_WORDS_H

#include "random.h"

enum { WORD_MAX_BYTES = 16 }; /* room that word_put may write to, whatever it returns */

/* Write one word at p; returns its end. No terminating zero. */
char *word_put(char *p, struct random *r);

/* Write n in decimal at p (at most 20 digits); returns its end. */
char *word_put_number(char *p, uint64_t n);

#endif
