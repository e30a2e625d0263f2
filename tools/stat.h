/*
 * What the parts of larder stat share.
 */
#ifndef LARDER_TOOL_STAT_H
#define LARDER_TOOL_STAT_H

#include <larder/stats.h>

#include <json-c/json.h>

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline double mib(uint64_t bytes)
{
	return (double)bytes / (1 << 20);
}

/* 0 when there is nothing to divide by. */
static inline double ratio(uint64_t a, uint64_t b)
{
	return b ? (double)a / (double)b : 0;
}

static inline int is_on_disk(const struct larder_tier_stats *t)
{
	return strcmp(t->name, "file") == 0;
}

/* The sum of a field over the tiers in RAM. */
uint64_t tier_sum(const struct larder_stats *s, size_t offset);
#define TIER_SUM(s, field) tier_sum(s, offsetof(struct larder_tier_stats, field))

/* Print percentiles of LARDER_LATENCY_BUCKETS buckets, after a title; or make an object of them, in us too. */
void print_latency(const char *title, const uint64_t *buckets);
struct json_object *latency_json(const uint64_t *buckets);

static inline void add_number(struct json_object *o, const char *name, uint64_t value)
{
	json_object_object_add(o, name, json_object_new_uint64(value));
}

/* The tier on disk. Only for processes that have one. */
void print_disk(const struct larder_stats *s);
struct json_object *disk_json(const struct larder_stats *s);

#endif
