/*
 * How far compression goes when it sees more than one page: LZ4 with dictionaries, in clusters of neighbours, with more
 * effort; against LZ4 of each page alone, which is what zram does. Offline: on pages of a real heap, in one thread,
 * without faults.
 */
#include "ratio.h"

#include <err.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] = "Usage: bench_ratio [OPTION...] SOURCE\n"
			    "Compress the same pages in several ways, and compare what they take and what it costs.\n"
			    "\n"
			    "SOURCE is one of\n"
			    "  redis           a redis-server full of the records of redis_job\n"
			    "  json, mixed, text    as for larder bench\n"
			    "  pid:N           the anonymous memory of a process\n"
			    "  file:PATH       a file\n"
			    "\n"
			    "  --megabytes N   of pages, at most (default 64)\n"
			    "  --seed N        of what is generated (default 1)\n"
			    "  --only TEXT     ways whose name contains it, and the first\n";

#define WITH(kind, kib, pages) .dictionary = kind, .dictionary_bytes = (kib) << 10, .scope_pages = pages

static const struct ratio_way ways[] = {
	{ .name = "lz4" },
	{ "lz4hc 3", .hc_level = 3 },
	{ "lz4hc 9", .hc_level = 9 },
	{ "lz4hc 12", .hc_level = 12 },
	{ "leader of 4", WITH(RATIO_LEADER, 0, 4) },
	{ "leader of 16", WITH(RATIO_LEADER, 0, 16) },
	{ "cluster of 2", .cluster_pages = 2 },
	{ "cluster of 4", .cluster_pages = 4 },
	{ "cluster of 8", .cluster_pages = 8 },
	{ "cluster of 16", .cluster_pages = 16 },
	{ "cluster of 4, partial", .cluster_pages = 4, .partial = 1 },
	{ "cluster of 16, partial", .cluster_pages = 16, .partial = 1 },
	{ "cluster of 4, hc 9", .cluster_pages = 4, .hc_level = 9 },
	{ "sample 16K", WITH(RATIO_SAMPLE, 16, 0) },
	{ "sample 64K", WITH(RATIO_SAMPLE, 64, 0) },
	{ "trained 16K", WITH(RATIO_TRAINED, 16, 0) },
	{ "trained 60K", WITH(RATIO_TRAINED, 60, 0) },
	{ "sample 16K / 2 MiB", WITH(RATIO_SAMPLE, 16, RATIO_CHUNK_PAGES) },
	{ "trained 16K / 2 MiB", WITH(RATIO_TRAINED, 16, RATIO_CHUNK_PAGES) },
	{ "sample 16K, hc 3", WITH(RATIO_SAMPLE, 16, 0), .hc_level = 3 },
	{ "sample 32K, hc 3", WITH(RATIO_SAMPLE, 32, 0), .hc_level = 3 },
	{ "sample 64K, hc 3", WITH(RATIO_SAMPLE, 64, 0), .hc_level = 3 },
	{ "sample 64K, hc 4", WITH(RATIO_SAMPLE, 64, 0), .hc_level = 4 },
	{ "sample 64K, hc 6", WITH(RATIO_SAMPLE, 64, 0), .hc_level = 6 },
	{ "sample 64K, hc 9", WITH(RATIO_SAMPLE, 64, 0), .hc_level = 9 },
	{ "trained 60K, hc 3", WITH(RATIO_TRAINED, 60, 0), .hc_level = 3 },
	{ "trained 60K, hc 9", WITH(RATIO_TRAINED, 60, 0), .hc_level = 9 },
	{ "sample 16K / 2 MiB, hc 3", WITH(RATIO_SAMPLE, 16, RATIO_CHUNK_PAGES), .hc_level = 3 },
};

enum { WAYS = sizeof(ways) / sizeof(ways[0]) };

static void get_pages(struct ratio_pages *pages, const char *source, uint64_t seed)
{
	if (!strcmp(source, "redis"))
		ratio_pages_of_redis(pages, seed);
	else if (!strncmp(source, "pid:", 4))
		ratio_pages_of_process(pages, atoi(source + 4));
	else if (!strncmp(source, "file:", 5))
		ratio_pages_of_file(pages, source + 5);
	else
		ratio_pages_of_contents(pages, source, seed);
	if (pages->n == 0)
		errx(2, "there are no pages in '%s'", source);
}

static void print_result(const struct ratio_way *way, const struct ratio_result *r, double all_bytes, double zram_bytes)
{
	printf("%-26s%12.2f%12.2f%10.2f%14.2f%12.2f\n", way->name, all_bytes / r->compressed_bytes,
	       all_bytes / r->stored_bytes, zram_bytes / r->stored_bytes, r->compress_us, r->expand_us);
	fflush(stdout);
}

static void compare(const struct ratio_pages *pages, const char *only)
{
	double all_bytes = (double)pages->n * RATIO_PAGE_BYTES, zram_bytes = 0;

	for (unsigned i = 0; i < WAYS; i++) {
		struct ratio_result r;

		if (i > 0 && only && !strstr(ways[i].name, only))
			continue;
		r = ratio_measure(&ways[i], pages);
		if (i == 0) {
			zram_bytes = r.zram_bytes;
			printf("%zu pages; zram's slots: ratio %.2f\n\n", pages->n, all_bytes / zram_bytes);
			printf("%-26s%12s%12s%10s%14s%12s\n", "", "compressed", "stored", "/ zram", "compress, us",
			       "expand, us");
		}
		print_result(&ways[i], &r, all_bytes, zram_bytes);
	}
}

int main(int argc, char **argv)
{
	const struct option known[] = {
		{ "megabytes", required_argument, NULL, 'm' },
		{ "seed", required_argument, NULL, 's' },
		{ "only", required_argument, NULL, 'o' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	size_t megabytes = 64;
	const char *only = NULL;
	struct ratio_pages pages;
	uint64_t seed = 1;
	int c;

	while ((c = getopt_long(argc, argv, "h", known, NULL)) != -1)
		switch (c) {
		case 'm':
			megabytes = strtoul(optarg, NULL, 0);
			if (megabytes < 1 || megabytes > 65536)
				errx(2, "--megabytes must be 1 to 65536, not '%s'", optarg);
			break;
		case 's':
			seed = strtoull(optarg, NULL, 0);
			break;
		case 'o':
			only = optarg;
			break;
		case 'h':
			fputs(usage, stdout);
			return 0;
		default:
			return 2;
		}
	if (optind != argc - 1)
		errx(2, "name one source of pages; try --help");
	ratio_pages_open(&pages, megabytes);
	get_pages(&pages, argv[optind], seed);
	compare(&pages, only);
	return 0;
}
