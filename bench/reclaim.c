/*
 * How fast, and at what cost in CPU time, pages are taken out, and what RAM then holds them.
 *
 * CPU time is the whole process's, user and system: Larder compresses on threads of its own, the kernel inside the
 * system call. "RAM that holds them" is all that it costs to have them out; of the kernel's tables only what it tells
 * of is in it.
 */
#include "bench.h"
#include "clock.h"
#include "compare.h"
#include "diskstats.h"
#include "fio.h"
#include "memory.h"

#include <math.h>
#include <unistd.h>

#define MIB ((double)(1 << 20))

enum figure_index { GB_S, CALL_GB_S, CPU_US, HELD, RATIO, METADATA, DENSITY, WRITTEN, DEVICE, IDLE, FIGURES };

static const struct figure figures[] = {
	[GB_S] = { "out, until RAM is free", "GB/s", "gb_s" },
	[CALL_GB_S] = { "out, until the call returns", "GB/s", "call_gb_s" },
	[CPU_US] = { "CPU time a page", "us", "cpu_us" },
	[HELD] = { "RAM that holds them", "MiB", "held_mib" },
	[RATIO] = { "content / that RAM", "", "ratio" },
	[METADATA] = { "tables a page", "bytes", "metadata_bytes" },
	[DENSITY] = { "compressed / its space", "", "density" },
	[WRITTEN] = { "written / taken out", "", "written" },
	[DEVICE] = { "device wrote / taken out", "", "device_written" },
	[IDLE] = { "CPU time while idle", "ms/s", "idle_ms_s" },
};

/* ---- a contender's process ---- */

static void measure_stats(const struct memory *m, double *to)
{
	double pages = (double)(m->setup.bytes / CONTENDER_PAGE_BYTES);
	struct contender_stats s = { NAN, NAN, NAN, NAN, NAN };

	m->contender->stats(&s);
	if (s.held_bytes > 0) {
		to[HELD] = s.held_bytes / MIB;
		to[RATIO] = s.content_bytes / s.held_bytes;
	}
	to[METADATA] = s.metadata_bytes / pages;
	to[DENSITY] = s.density;
	to[WRITTEN] = s.written_bytes / (double)m->setup.bytes;
}

/* Everybody's writes to the device, the filesystem's own included. */
static void set_disk_figures(const struct memory *m, double *to, double call_seconds, double device_before)
{
	to[CALL_GB_S] = (double)m->setup.bytes / call_seconds / 1e9;
	to[DEVICE] = (diskstats_written_bytes(m->setup.disk_dir) - device_before) / (double)m->setup.bytes;
}

static void measure_idle(const struct memory *m, struct turn *t)
{
	double cpu = turn_cpu_seconds(t, 0), seconds = m->options->idle_seconds;
	uint64_t start = clock_ns();

	while (seconds_since(start) < seconds)
		usleep((useconds_t)((seconds - seconds_since(start)) * 1e6) + 1);
	t->figures[IDLE] = (turn_cpu_seconds(t, 0) - cpu) * 1e3 / seconds;
}

static void body(struct turn *t, void *arg)
{
	struct memory *m = arg;
	double seconds, call_seconds, cpu, device;
	uint64_t start;

	memory_open(m, t);
	device = m->setup.disk_dir ? diskstats_written_bytes(m->setup.disk_dir) : NAN;
	cpu = turn_cpu_seconds(t, 0);
	start = clock_ns();
	call_seconds = m->contender->out();
	seconds = seconds_since(start);
	t->figures[CPU_US] = (turn_cpu_seconds(t, 0) - cpu) * 1e6 / (double)(m->setup.bytes / CONTENDER_PAGE_BYTES);
	memory_settle(m);
	memory_check_out(m);
	t->figures[GB_S] = (double)m->setup.bytes / seconds / 1e9;
	if (m->setup.disk_dir && m->contender->kind != CONTENDER_BOUND)
		set_disk_figures(m, t->figures, call_seconds, device);
	measure_stats(m, t->figures);
	if (m->options->idle_seconds && m->contender->kind != CONTENDER_BOUND)
		measure_idle(m, t);
	memory_verify(m, t);
}

static void fio_body(struct turn *t, void *arg)
{
	const struct memory *m = arg;
	struct fio_speed write;

	close(fio_make_file(m->options->dir, m->setup.bytes, &write));
	t->figures[GB_S] = write.mb_s / 1e3;
}

/* ---- cases ---- */

static void run_case(const struct memory_entrants *e, struct table *t, const struct options *o, uint64_t pages)
{
	static struct memory memories[COLUMNS_MAX];
	struct turn_setup setups[COLUMNS_MAX] = { 0 };
	struct table_case *c = table_add_case(t, "%llu pages", (unsigned long long)pages);

	json_object_object_add(c->parameters, "pages", json_object_new_int64((int64_t)pages));
	for (unsigned i = 0; i < t->columns_count; i++) {
		memory_set_up(&memories[i], o, e->contenders[i], pages, &(struct limit){ 0 });
		setups[i] = (struct turn_setup){
			.peer = memory_peer(&memories[i]),
			.body = e->contenders[i] == &contender_fio ? fio_body : body,
			.arg = &memories[i],
		};
	}
	compare_case(t, c, setups, o->runs, NULL);
}

static const char what[] =
	"Take pages out: with Larder, with the kernel's peer (MADV_PAGEOUT), and as fast as the machine could do it.\v"
	"The defaults: --peer none, --pages 32768, --data mixed, --runs 5.";

int reclaim_main(int argc, char **argv)
{
	static const struct contender *const bounds[] = { &contender_lz4, &contender_memcpy, NULL };
	struct options o = { .pages = { 32768 }, .pages_count = 1, .runs = 5, .seed = 1, .dir = "/var/tmp" };
	struct table t = { .benchmark = "reclaim", .figures = figures, .figures_count = FIGURES, .base = -1 };
	struct memory_entrants entrants = { 0 };

	options_parse(&o, argc, argv,
		      TAKES_PEER | TAKES_PAGES | TAKES_DATA | TAKES_IDLE | TAKES_DIR | TAKES_SETTLE | TAKES_CONTENDERS,
		      NULL, what);
	memory_begin(&entrants, &t, &o, bounds);
	options_describe(&o, t.head, sizeof(t.head), &t.options);
	turns_expect("reclaim", t.columns_count * o.runs * o.pages_count);
	for (unsigned i = 0; i < o.pages_count; i++)
		run_case(&entrants, &t, &o, o.pages[i]);
	turns_end();
	return table_show(&t, o.json);
}
