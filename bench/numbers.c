#include "numbers.h"

#include <err.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

uint64_t number_parse(const char *text, const char *name, uint64_t least, uint64_t most)
{
	char *end;
	uint64_t n;

	errno = 0;
	n = strtoull(text, &end, 10);
	if (errno || *end || end == text || *text == '-' || n < least || n > most)
		errx(2, "%s must be a number from %llu to %llu, not '%s'", name, (unsigned long long)least,
		     (unsigned long long)most, text);
	return n;
}

void samples_add(struct samples *s, double value)
{
	if (s->count < SAMPLES_MAX)
		s->values[s->count++] = value;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* The order of the runs must stay: samples_ratio() needs it. */
static struct samples sorted(const struct samples *s)
{
	struct samples copy = *s;

	qsort(copy.values, copy.count, sizeof(copy.values[0]), compare);
	return copy;
}

double samples_median(const struct samples *s)
{
	struct samples in_order = sorted(s);
	unsigned n = s->count;

	return n ? (in_order.values[(n - 1) / 2] + in_order.values[n / 2]) / 2 : 0;
}

double samples_min(const struct samples *s)
{
	return s->count ? sorted(s).values[0] : 0;
}

double samples_max(const struct samples *s)
{
	return s->count ? sorted(s).values[s->count - 1] : 0;
}

struct samples samples_ratio(const struct samples *a, const struct samples *b)
{
	struct samples ratio = { 0 };

	for (unsigned i = 0; i < a->count && i < b->count; i++)
		samples_add(&ratio, b->values[i] > 0 ? a->values[i] / b->values[i] : 0);
	return ratio;
}

void samples_to_json(const struct samples *s, struct json_object *to, const char *name)
{
	struct json_object *o = json_object_new_object();

	json_object_object_add(o, "median", json_object_new_double(samples_median(s)));
	json_object_object_add(o, "min", json_object_new_double(samples_min(s)));
	json_object_object_add(o, "max", json_object_new_double(samples_max(s)));
	json_object_object_add(to, name, o);
}
