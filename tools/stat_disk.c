/*
 * larder stat, of the tier on disk.
 */
#include "stat.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

static const struct larder_tier_stats *tier_on_disk(const struct larder_stats *s)
{
	static const struct larder_tier_stats none;

	for (int i = 0; i < LARDER_TIERS_MAX && s->tiers[i].name[0]; i++)
		if (is_on_disk(&s->tiers[i]))
			return &s->tiers[i];
	return &none;
}

/* Bytes written for each byte of the program's that was evicted to disk: compression makes it less than 1, cleaning
 * and the ends of blocks make it more. 0 when nothing was evicted. */
static double written_per_evicted(const struct larder_stats *s)
{
	return ratio(s->disk.write_bytes, (s->demoted + s->direct) * s->page_bytes);
}

static double live_fraction(const struct larder_tier_stats *t)
{
	return ratio(t->stored_bytes, t->occupied_bytes);
}

/* ---- JSON ---- */

static void add_counters(struct json_object *o, const struct larder_stats *s)
{
	const struct larder_disk_stats *d = &s->disk;

	add_number(o, "reads", d->reads);
	add_number(o, "read_bytes", d->read_bytes);
	add_number(o, "read_errors", d->read_errors);
	add_number(o, "reads_in_flight", d->reads_in_flight);
	add_number(o, "peak_reads_in_flight", d->peak_reads_in_flight);
	add_number(o, "writes", d->writes);
	add_number(o, "write_bytes", d->write_bytes);
	add_number(o, "write_errors", d->write_errors);
	add_number(o, "writes_in_flight", d->writes_in_flight);
	add_number(o, "retries", d->retries);
	add_number(o, "mismatches", d->mismatches);
	add_number(o, "refused", d->refused);
	add_number(o, "refusing", d->refusing);
	add_number(o, "cleaned_bytes", d->cleaned_bytes);
	add_number(o, "freed_bytes", d->freed_bytes);
	add_number(o, "copies", s->copies);
	add_number(o, "compressed_limit_bytes", s->compressed_limit_bytes);
	add_number(o, "demoted", s->demoted);
	add_number(o, "direct", s->direct);
	add_number(o, "clean_evictions", s->clean_evictions);
	add_number(o, "readahead", s->readahead);
}

struct json_object *disk_json(const struct larder_stats *s)
{
	const struct larder_tier_stats *t = tier_on_disk(s);
	struct json_object *o = json_object_new_object();

	json_object_object_add(o, "kind", json_object_new_string(s->disk.is_device ? "device" : "file"));
	json_object_object_add(o, "encrypted", json_object_new_boolean(s->disk.is_encrypted != 0));
	add_number(o, "limit_bytes", s->disk.limit_bytes);
	add_number(o, "occupied_bytes", t->occupied_bytes);
	add_number(o, "live_bytes", t->stored_bytes);
	json_object_object_add(o, "live_fraction", json_object_new_double(live_fraction(t)));
	add_number(o, "objects", t->objects);
	add_counters(o, s);
	if (s->demoted + s->direct)
		json_object_object_add(o, "written_per_evicted", json_object_new_double(written_per_evicted(s)));
	json_object_object_add(o, "read_latency_us", latency_json(s->disk.read_latency));
	json_object_object_add(o, "write_latency_us", latency_json(s->disk.write_latency));
	return o;
}

/* ---- text ---- */

static void print_space(const struct larder_stats *s)
{
	const struct larder_tier_stats *t = tier_on_disk(s);

	printf("\ndisk       %10.1f MiB of %.1f occupied, in a %s, %s\n", mib(t->occupied_bytes),
	       mib(s->disk.limit_bytes), s->disk.is_device ? "block device" : "file",
	       s->disk.is_encrypted ? "encrypted" : "not encrypted");
	printf("live       %10.1f MiB in %" PRIu64 " pages, %.1f %% of what is occupied\n", mib(t->stored_bytes),
	       t->objects, 100 * live_fraction(t));
	if (s->disk.refusing)
		printf("refusing   nothing is written for a while: %s\n",
		       s->disk.refusing == ETIMEDOUT ? "the device does not answer" : strerror((int)s->disk.refusing));
}

static void print_transfers(const struct larder_disk_stats *d)
{
	printf("reads      %12" PRIu64 " of %.1f MiB in all; %" PRIu64 " in flight (peak %" PRIu64 "), %" PRIu64
	       " failed\n",
	       d->reads, mib(d->read_bytes), d->reads_in_flight, d->peak_reads_in_flight, d->read_errors);
	printf("           %12" PRIu64 " tried again; %" PRIu64 " were not what was written\n", d->retries,
	       d->mismatches);
	printf("writes     %12" PRIu64 " of %.1f MiB in all; %" PRIu64 " in flight, %" PRIu64 " failed; %" PRIu64
	       " pages refused\n",
	       d->writes, mib(d->write_bytes), d->writes_in_flight, d->write_errors, d->refused);
	printf("cleaned    %12.1f MiB moved together; %.1f MiB given back to the filesystem\n", mib(d->cleaned_bytes),
	       mib(d->freed_bytes));
}

static void print_traffic(const struct larder_stats *s)
{
	if (s->compressed_limit_bytes)
		printf("in RAM     %10.1f MiB compressed, of %.1f before some goes on to disk\n",
		       mib(TIER_SUM(s, occupied_bytes)), mib(s->compressed_limit_bytes));
	printf("to disk    %12" PRIu64 " pages (from RAM %" PRIu64 ", at once %" PRIu64 ")", s->demoted + s->direct,
	       s->demoted, s->direct);
	if (s->demoted + s->direct)
		printf(", %.2f bytes written for each evicted", written_per_evicted(s));
	printf("\nclean      %12" PRIu64 " pages left again without a write; %" PRIu64
	       " resident pages have a copy now\n",
	       s->clean_evictions, s->copies);
	printf("readahead  %12" PRIu64 " pages\n", s->readahead);
}

void print_disk(const struct larder_stats *s)
{
	print_space(s);
	print_transfers(&s->disk);
	print_traffic(s);
	print_latency("disk reads, us:", s->disk.read_latency);
	print_latency("disk writes, us:", s->disk.write_latency);
}
