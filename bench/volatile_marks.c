/*
 * Marks. A pair is a mark and its end. Every thread has ranges of its own and goes over them in random order: it marks
 * them all, then takes them all back, so that with many ranges neither call finds in the caches what the other left
 * there. With one range both do: that is the best case, of all sides.
 *
 * The judged figures are those of one thread and one range; the others say what they are worth.
 */
#include "clock.h"
#include "numbers.h"
#include "progress.h"
#include "random.h"
#include "volatile.h"

#include <err.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MANY_RANGES = 10000, HOT_PAIRS = 64, THREADS_MAX = 16 };

static const double target_4k_ns = 200, target_1m_ratio = 20;
static const size_t sizes[] = { 4096, 65536, 1 << 20 };

enum { SIZES = sizeof(sizes) / sizeof(sizes[0]) };
enum side { LARDER, PLAIN, REGISTERED, SIDES };

static const char *const side_names[] = { "larder", "madvise", "madvise_registered" };

struct marks_case {
	struct volatile_bench *bench;
	size_t range_bytes, ranges; /* of each thread */
	unsigned threads;
	char **larder_ranges;	  /* threads * ranges of them */
	char *plain[SIDES];	  /* one mapping of as many bytes */
	struct samples ns[SIDES]; /* a pair */
};

/* ---- the pair on each side ---- */

static void mark(const struct marks_case *c, enum side side, char *range)
{
	if (side == LARDER)
		volatile_check(larder_volatile(c->bench->pool, range, c->range_bytes, NULL), "larder_volatile");
	else if (madvise(range, c->range_bytes, MADV_FREE))
		err(2, "MADV_FREE");
}

static void take_back(const struct marks_case *c, enum side side, char *range)
{
	int64_t answer;

	if (side != LARDER) {
		if (madvise(range, c->range_bytes, MADV_POPULATE_WRITE))
			err(2, "MADV_POPULATE_WRITE");
		return;
	}
	answer = larder_nonvolatile(c->bench->pool, range, c->range_bytes, 0, NULL);
	if (volatile_check(answer, "larder_nonvolatile") == LARDER_PURGED)
		errx(1, "a range was purged though nothing asked for it");
}

/* ---- the threads ---- */

struct marker {
	pthread_t thread;
	pthread_barrier_t *start;
	const struct marks_case *c;
	enum side side;
	char **ranges; /* in the order in which they are visited */
	double ns_a_pair;
};

static void sweep(const struct marker *m)
{
	for (size_t i = 0; i < m->c->ranges; i++)
		mark(m->c, m->side, m->ranges[i]);
	for (size_t i = 0; i < m->c->ranges; i++)
		take_back(m->c, m->side, m->ranges[i]);
}

/* The clock is not looked at after each pair of a single range: it would take as long as the pair. */
static void *run_marker(void *arg)
{
	struct marker *m = arg;
	size_t sweeps = m->c->ranges == 1 ? HOT_PAIRS : 1;
	uint64_t pairs = 0, least_ns = m->c->bench->milliseconds * 1000000ull, start, now;

	sweep(m);
	pthread_barrier_wait(m->start);
	start = clock_ns();
	do {
		for (size_t i = 0; i < sweeps; i++)
			sweep(m);
		pairs += sweeps * m->c->ranges;
		now = clock_ns();
	} while (now - start < least_ns);
	m->ns_a_pair = (double)(now - start) / (double)pairs;
	return NULL;
}

static void shuffle(char **ranges, size_t n, uint64_t seed)
{
	struct random r = { seed };

	for (size_t i = n; i-- > 1;) {
		size_t j = random_below(&r, (uint32_t)i + 1);
		char *swap = ranges[i];

		ranges[i] = ranges[j];
		ranges[j] = swap;
	}
}

/* The visiting order of thread `number`. */
static char **order_of(const struct marks_case *c, enum side side, unsigned number)
{
	char **ranges = calloc(c->ranges, sizeof(*ranges));

	if (!ranges)
		err(2, "no memory");
	for (size_t i = 0; i < c->ranges; i++) {
		size_t n = number * c->ranges + i;

		ranges[i] = side == LARDER ? c->larder_ranges[n] : c->plain[side] + n * c->range_bytes;
	}
	shuffle(ranges, c->ranges, number);
	return ranges;
}

static void measure(struct marks_case *c, enum side side)
{
	static struct marker markers[THREADS_MAX];
	pthread_barrier_t start;
	double sum = 0;

	pthread_barrier_init(&start, NULL, c->threads);
	for (unsigned i = 0; i < c->threads; i++) {
		markers[i] = (struct marker){ .start = &start, .c = c, .side = side, .ranges = order_of(c, side, i) };
		if (pthread_create(&markers[i].thread, NULL, run_marker, &markers[i]))
			errx(2, "cannot create a thread");
	}
	for (unsigned i = 0; i < c->threads; i++) {
		pthread_join(markers[i].thread, NULL);
		free(markers[i].ranges);
		sum += markers[i].ns_a_pair;
	}
	pthread_barrier_destroy(&start);
	samples_add(&c->ns[side], sum / c->threads);
}

/* ---- memory ---- */

/* Watch the memory for missing pages, as a pager would. Returns the descriptor, or -1 when it is not permitted. */
static int register_memory(char *p, size_t bytes)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register r = {
		.range = { (uintptr_t)p, bytes },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);

	if (fd >= 0 && !ioctl(fd, UFFDIO_API, &api) && !ioctl(fd, UFFDIO_REGISTER, &r))
		return fd;
	if (fd >= 0)
		close(fd);
	return -1;
}

static void make_larder_ranges(struct marks_case *c)
{
	size_t n = c->threads * c->ranges;

	c->larder_ranges = calloc(n, sizeof(*c->larder_ranges));
	if (!c->larder_ranges)
		err(2, "no memory");
	for (size_t i = 0; i < n; i++) {
		c->larder_ranges[i] = volatile_map_larder(c->bench, c->range_bytes);
		volatile_write(c->larder_ranges[i], c->range_bytes);
	}
}

static void free_larder_ranges(struct marks_case *c)
{
	for (size_t i = 0; i < c->threads * c->ranges; i++) {
		if (volatile_wrong_pages(c->larder_ranges[i], c->range_bytes))
			errx(1, "a range that was called intact is not as it was written");
		volatile_check(larder_pages_free(c->bench->pool, c->larder_ranges[i]), "larder_pages_free");
	}
	free(c->larder_ranges);
}

static void make_plain_ranges(struct marks_case *c, enum side side)
{
	size_t bytes = c->threads * c->ranges * c->range_bytes;

	c->plain[side] = volatile_map_plain(bytes);
	volatile_write(c->plain[side], bytes);
}

/* ---- cases ---- */

static int is_judged(const struct marks_case *c)
{
	return c->threads == 1 && c->ranges == 1;
}

static const char *judge(const struct marks_case *c, double ns, double ratio)
{
	static char text[64];

	*text = 0;
	if (is_judged(c) && c->range_bytes == sizes[0])
		snprintf(text, sizeof(text), "<= %.0f ns: %s", target_4k_ns,
			 volatile_verdict(c->bench, ns <= target_4k_ns));
	if (is_judged(c) && c->range_bytes == sizes[SIZES - 1])
		snprintf(text, sizeof(text), ">= %.0f x: %s", target_1m_ratio,
			 volatile_verdict(c->bench, ratio >= target_1m_ratio));
	return text;
}

static void print_head(void)
{
	printf("%-44s%-22s%-20s%-22s%-20s\n", "a mark and its end", "larder, ns", "madvise, ns", "madvise / larder",
	       "");
	printf("%-8s%-8s%-8s%20s%22s%20s%14s  %s\n", "threads", "range", "ranges", "median (min-max)",
	       "median (min-max)", "median (min-max)", "registered", "target");
}

static void print_cell(const struct samples *s, int width, const char *format)
{
	char number[3][32], text[128];

	snprintf(number[0], 32, format, samples_median(s));
	snprintf(number[1], 32, format, samples_min(s));
	snprintf(number[2], 32, format, samples_max(s));
	snprintf(text, sizeof(text), "%s (%s-%s)", number[0], number[1], number[2]);
	printf("%*s", width, text);
}

static void print_case(const struct marks_case *c)
{
	struct samples ratio = samples_ratio(&c->ns[PLAIN], &c->ns[LARDER]);
	struct samples registered = samples_ratio(&c->ns[REGISTERED], &c->ns[LARDER]);

	printf("%-8u%-8s%-8zu", c->threads, volatile_size_text(c->range_bytes), c->ranges);
	print_cell(&c->ns[LARDER], 20, "%.0f");
	print_cell(&c->ns[PLAIN], 22, "%.0f");
	print_cell(&ratio, 20, "%.1f");
	if (registered.count)
		printf("%14.1f", samples_median(&registered));
	else
		printf("%14s", "-");
	printf("  %s\n", judge(c, samples_median(&c->ns[LARDER]), samples_median(&ratio)));
	fflush(stdout);
}

static void report_case(const struct marks_case *c, struct json_object *list)
{
	struct samples ratio = samples_ratio(&c->ns[PLAIN], &c->ns[LARDER]);
	struct json_object *o = json_object_new_object();
	const char *verdict = judge(c, samples_median(&c->ns[LARDER]), samples_median(&ratio));

	json_object_object_add(o, "threads", json_object_new_int((int)c->threads));
	json_object_object_add(o, "range_bytes", json_object_new_int64((int64_t)c->range_bytes));
	json_object_object_add(o, "ranges", json_object_new_int64((int64_t)c->ranges));
	for (int side = 0; side < SIDES; side++)
		if (c->ns[side].count)
			samples_to_json(&c->ns[side], o, side_names[side]);
	samples_to_json(&ratio, o, "madvise_to_larder");
	if (*verdict)
		json_object_object_add(o, "target", json_object_new_string(verdict));
	json_object_array_add(list, o);
}

/* The sides take turns at going first. */
static void run_case(struct marks_case *c)
{
	size_t bytes = c->threads * c->ranges * c->range_bytes;
	int fd;

	make_larder_ranges(c);
	make_plain_ranges(c, PLAIN);
	make_plain_ranges(c, REGISTERED);
	fd = register_memory(c->plain[REGISTERED], bytes);
	for (unsigned run = 0; run < c->bench->runs; run++)
		for (unsigned i = 0; i < SIDES; i++) {
			enum side side = (run + i) % SIDES;

			if (side != REGISTERED || fd >= 0)
				measure(c, side);
		}
	munmap(c->plain[PLAIN], bytes);
	munmap(c->plain[REGISTERED], bytes);
	if (fd >= 0)
		close(fd);
	free_larder_ranges(c);
}

static size_t many_ranges(const struct volatile_bench *b, size_t range_bytes, unsigned threads)
{
	size_t fit = b->working_set_bytes / range_bytes / threads;

	return fit < MANY_RANGES ? fit : MANY_RANGES;
}

static void finish_case(const struct marks_case *c, struct json_object *list)
{
	if (list)
		report_case(c, list);
	else
		print_case(c);
}

void volatile_measure_marks(struct volatile_bench *b)
{
	struct json_object *list = b->report ? json_object_new_array() : NULL;
	struct progress progress;
	unsigned done = 0;

	if (!list)
		print_head();
	progress_start(&progress, "marks", "cases", b->max_threads * 2 * SIZES);
	for (unsigned threads = 1; threads <= b->max_threads; threads++)
		for (int many = 0; many <= 1; many++)
			for (unsigned i = 0; i < SIZES; i++) {
				struct marks_case c = {
					.bench = b,
					.range_bytes = sizes[i],
					.ranges = many ? many_ranges(b, sizes[i], threads) : 1,
					.threads = threads,
				};

				run_case(&c);
				finish_case(&c, list);
				progress_show(&progress, ++done);
			}
	progress_end(&progress);
	if (list)
		json_object_object_add(b->report, "marks", list);
}
