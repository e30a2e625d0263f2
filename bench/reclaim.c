/*
 * How fast, and at what cost in CPU time, Larder and the kernel push the same pages out: larder_reclaim() against
 * MADV_PAGEOUT to zram with lz4. Each round fills both buffers anew and pushes both out, in alternating order.
 *
 * CPU time is the whole process's, user and system: Larder compresses on its own thread, the kernel inside the system
 * call. "RAM held" is what the peer takes to hold the pages: all that it costs to have them out.
 *
 * "lz4 alone" is one thread that compresses the same pages where they are, and keeps nothing: what one reclaim thread
 * could reach if nothing else had to be done (with `taskset -c 0` Larder has no compressors beside it).
 */
#include "clock.h"
#include "paging.h"

#include <lz4.h>
#include <stdio.h>
#include <sys/resource.h>

enum { MAX_ROUNDS = 1000 };

static const double target = 1.0; /* larder's speed / zram's speed */

struct samples {
	double gb_s[MAX_ROUNDS], cpu_us_page[MAX_ROUNDS], held_mib[MAX_ROUNDS];
};

static struct samples samples[PEERS];
static double speed_ratio[MAX_ROUNDS], held_ratio[MAX_ROUNDS], lz4_gb_s[MAX_ROUNDS], lz4_ratio[MAX_ROUNDS];

static double cpu_seconds(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static double lz4_alone(const char *buffer, size_t bytes)
{
	static LZ4_stream_t state;
	char to[PAGING_PAGE_BYTES];
	uint64_t start = clock_ns();

	for (size_t at = 0; at < bytes; at += PAGING_PAGE_BYTES)
		LZ4_compress_fast_extState(&state, buffer + at, to, PAGING_PAGE_BYTES, PAGING_PAGE_BYTES / 8 * 7, 1);
	return (double)bytes / seconds_since(start) / 1e9;
}

static void measure(const struct paging_options *o, enum peer peer, unsigned round)
{
	struct samples *s = &samples[peer];
	double seconds, cpu, bytes;
	uint64_t start;

	paging_fill(o, peer, round);
	if (peer == PEER_LARDER)
		lz4_gb_s[round] = lz4_alone(paging_buffer(peer), o->bytes);
	cpu = cpu_seconds();
	start = clock_ns();
	paging_push_out(o, peer);
	seconds = seconds_since(start);
	cpu = cpu_seconds() - cpu;
	paging_settle(o, peer);
	bytes = (double)paging_check_out(o, peer);
	s->gb_s[round] = bytes / seconds / 1e9;
	s->cpu_us_page[round] = cpu * 1e6 / (bytes / PAGING_PAGE_BYTES);
	s->held_mib[round] = (double)paging_held_bytes(peer) / (1 << 20);
	paging_check_contents(o, peer, round);
}

static void print_peer(enum peer peer, unsigned rounds)
{
	struct samples *s = &samples[peer];

	printf("%-10s%12.2f%16.2f%14.1f\n", paging_name(peer), paging_median(s->gb_s, rounds),
	       paging_median(s->cpu_us_page, rounds), paging_median(s->held_mib, rounds));
}

int main(int argc, char **argv)
{
	struct paging_options o = { .bytes = 128 << 20, .rounds = 7, .seed = 1 };

	paging_parse(argc, argv, "Push the same pages out with larder_reclaim() and with MADV_PAGEOUT to zram.", &o);
	paging_begin(&o);
	for (unsigned round = 0; round < o.rounds; round++) {
		measure(&o, round % 2 ? PEER_LARDER : PEER_KERNEL, round);
		measure(&o, round % 2 ? PEER_KERNEL : PEER_LARDER, round);
		speed_ratio[round] = samples[PEER_LARDER].gb_s[round] / samples[PEER_KERNEL].gb_s[round];
		lz4_ratio[round] = samples[PEER_LARDER].gb_s[round] / lz4_gb_s[round];
		held_ratio[round] = samples[PEER_KERNEL].held_mib[round] / samples[PEER_LARDER].held_mib[round];
	}
	printf("%-10s%12s%16s%14s\n", "", "GB/s", "CPU us a page", "MiB RAM held");
	print_peer(PEER_KERNEL, o.rounds);
	print_peer(PEER_LARDER, o.rounds);
	putchar('\n');
	printf("larder / lz4 alone (%.2f GB/s): %.2f\n", paging_median(lz4_gb_s, o.rounds),
	       paging_median(lz4_ratio, o.rounds));
	printf("RAM held: zram / larder %.2f\n", paging_median(held_ratio, o.rounds));
	paging_print_target("speed", paging_median(speed_ratio, o.rounds), target, 0);
	return 0;
}
