/*
 * What volatile memory costs: marking a range volatile and taking it back, and purging, each against the nearest that
 * the kernel has.
 *
 *   marks   larder_volatile() + larder_nonvolatile()   against   MADV_FREE + MADV_POPULATE_WRITE
 *   purges  larder_purge()                             against   MADV_DONTNEED, range by range
 *
 * Both sides hold written pages of 4 KiB and keep them through the marks; they take turns in one run. The kernel's side
 * has its best case: plain memory, nothing else mapped in between, nothing watching. What the kernel's pair does not
 * do - it does not say whether the content is still there - is not charged to it.
 */
#include "volatile.h"

#include "numbers.h"

#include <err.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define MIB ((size_t)1 << 20)

enum { PAGE_BYTES = 4096, FILLING = 0x5a };

/* ---- memory of both sides ---- */

int64_t volatile_check(int64_t result, const char *call)
{
	if (result < 0)
		errx(2, "%s: %s", call, strerror((int)-result));
	return result;
}

char *volatile_map_larder(const struct volatile_bench *b, size_t bytes)
{
	void *p;

	volatile_check(larder_pages_alloc(b->pool, bytes, &p), "larder_pages_alloc");
	return p;
}

char *volatile_map_plain(size_t bytes)
{
	char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		err(2, "no memory");
	madvise(p, bytes, MADV_NOHUGEPAGE); /* both sides have pages of 4 KiB */
	return p;
}

void volatile_write(char *p, size_t bytes)
{
	memset(p, FILLING, bytes);
}

size_t volatile_wrong_pages(const char *p, size_t bytes)
{
	size_t wrong = 0;

	for (size_t at = 0; at < bytes; at += PAGE_BYTES)
		wrong += p[at] != FILLING || p[at + PAGE_BYTES - 1] != FILLING;
	return wrong;
}

/* ---- output ---- */

const char *volatile_size_text(size_t bytes)
{
	static char text[32];

	if (bytes < MIB)
		snprintf(text, sizeof(text), "%zu KiB", bytes / 1024);
	else
		snprintf(text, sizeof(text), "%zu MiB", bytes / MIB);
	return text;
}

const char *volatile_verdict(struct volatile_bench *b, int met)
{
	b->missed += !met;
	return met ? "met" : "MISSED";
}

static void print_report(struct volatile_bench *b)
{
	json_object_object_add(b->report, "targets_missed", json_object_new_int(b->missed));
	puts(json_object_to_json_string_ext(b->report, JSON_C_TO_STRING_PRETTY));
	json_object_put(b->report);
}

/* ---- options ---- */

static void print_usage(const char *program)
{
	printf("Usage: %s [OPTION...]\n"
	       "Mark memory volatile, take it back and purge it, with Larder and with madvise(2).\n\n"
	       "  --runs N           each runs all sides; medians are printed (default 5)\n"
	       "  --threads N        marks by 1 to N threads (default 2)\n"
	       "  --milliseconds N   at least, for each measurement of marks (default 100)\n"
	       "  --working-set N    MiB of ranges at most, for the marks of many ranges (default 1024)\n"
	       "  --megabytes N      MiB to purge at once (default 512)\n"
	       "  --marks, --purges  only these\n"
	       "  --check            exit with 1 when a target is missed\n"
	       "  --json             a JSON document instead of tables\n",
	       program);
}

struct choice {
	int marks, purges, check, json;
};

static void parse(int argc, char **argv, struct volatile_bench *b, struct choice *choice)
{
	const struct option known[] = {
		{ "runs", required_argument, NULL, 'r' },
		{ "threads", required_argument, NULL, 't' },
		{ "milliseconds", required_argument, NULL, 'i' },
		{ "working-set", required_argument, NULL, 'w' },
		{ "megabytes", required_argument, NULL, 'm' },
		{ "marks", no_argument, &choice->marks, 1 },
		{ "purges", no_argument, &choice->purges, 1 },
		{ "check", no_argument, &choice->check, 1 },
		{ "json", no_argument, &choice->json, 1 },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "h", known, NULL)) != -1)
		switch (c) {
		case 0:
			break;
		case 'r':
			b->runs = (unsigned)number_parse(optarg, "--runs", 1, SAMPLES_MAX);
			break;
		case 't':
			b->max_threads = (unsigned)number_parse(optarg, "--threads", 1, 16);
			break;
		case 'i':
			b->milliseconds = (unsigned)number_parse(optarg, "--milliseconds", 1, 60000);
			break;
		case 'w':
			b->working_set_bytes = number_parse(optarg, "--working-set", 16, 65536) * MIB;
			break;
		case 'm':
			b->purge_bytes = number_parse(optarg, "--megabytes", 1, 65536) * MIB;
			break;
		case 'h':
			print_usage(argv[0]);
			exit(0);
		default:
			exit(2);
		}
	if (optind < argc)
		errx(2, "unexpected argument '%s'; try --help", argv[optind]);
	if (!choice->marks && !choice->purges)
		choice->marks = choice->purges = 1;
}

int main(int argc, char **argv)
{
	struct volatile_bench b = {
		.runs = 5,
		.max_threads = 2,
		.working_set_bytes = 1024 * MIB,
		.purge_bytes = 512 * MIB,
		.milliseconds = 100,
	};
	struct choice choice = { 0 };

	parse(argc, argv, &b, &choice);
	volatile_check(larder_start(&(struct larder_options){ .flags = LARDER_IGNORE_SYSTEM }), "larder_start");
	volatile_check(larder_pool_create(&b.pool, NULL), "larder_pool_create");
	if (choice.json)
		b.report = json_object_new_object();
	if (choice.marks)
		volatile_measure_marks(&b);
	if (choice.purges)
		volatile_measure_purges(&b);
	if (b.report)
		print_report(&b);
	volatile_check(larder_pool_destroy(b.pool), "larder_pool_destroy");
	return choice.check && b.missed ? 1 : 0;
}
