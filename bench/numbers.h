/*
 * Numbers of the benchmarks: those that options give, parsed strictly, and those that the runs gave, as medians.
 */
#ifndef BENCH_NUMBERS_H
#define BENCH_NUMBERS_H

#include <json-c/json.h>
#include <stdint.h>

enum { SAMPLES_MAX = 100 };

/* One figure of every run, in the order of the runs, so that figures of one run can be compared. */
struct samples {
	double values[SAMPLES_MAX];
	unsigned count;
};

/* The value of the option `name`; exits with 2 and a message unless it is a number from `least` to `most`. */
uint64_t number_parse(const char *text, const char *name, uint64_t least, uint64_t most);

/* Beyond SAMPLES_MAX, samples are ignored. */
void samples_add(struct samples *s, double value);

/* The mean of the two middle values when their number is even. All are 0 when there are no samples. */
double samples_median(const struct samples *s);
double samples_min(const struct samples *s);
double samples_max(const struct samples *s);

/* a / b, run by run. */
struct samples samples_ratio(const struct samples *a, const struct samples *b);

/* Add { "median": , "min": , "max": } to `to` as `name`. */
void samples_to_json(const struct samples *s, struct json_object *to, const char *name);

#endif
