/*
 * SQLite with a database in memory: rows with JSON documents, read by their key and, one time in ten, written anew.
 * Every row that is read is compared, and all rows at the end.
 */
#include "clock.h"
#include "job.h"
#include "random.h"
#include "records.h"
#include "zipf.h"

#include <err.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE_BYTES = 4096, WRITE_PERCENT = 10, BATCH = 1000, SETTLE_SECONDS = 1 };
static const double skew = 0.99;

struct base {
	struct turn *turn;
	sqlite3 *db;
	sqlite3_stmt *insert, *select, *update;
	uint64_t seed;
	uint32_t rows;
	uint32_t *versions; /* notes, which are not on the heap */
	uint64_t wrong;
};

static void check(struct base *b, int result, int expected)
{
	if (result != expected)
		errx(1, "sqlite: %s", sqlite3_errmsg(b->db));
}

static sqlite3_stmt *prepare(struct base *b, const char *sql)
{
	sqlite3_stmt *s;

	check(b, sqlite3_prepare_v2(b->db, sql, -1, &s, NULL), SQLITE_OK);
	return s;
}

static void run(struct base *b, const char *sql)
{
	check(b, sqlite3_exec(b->db, sql, NULL, NULL, NULL), SQLITE_OK);
}

static size_t document(const struct base *b, uint32_t row, char text[RECORD_ROOM_BYTES])
{
	return record_document(text, b->seed, row, b->versions[row]);
}

static void put(struct base *b, sqlite3_stmt *s, uint32_t row, const char *text, size_t bytes)
{
	sqlite3_bind_int64(s, 1, row);
	sqlite3_bind_text(s, 2, text, (int)bytes, SQLITE_STATIC);
	check(b, sqlite3_step(s), SQLITE_DONE);
	sqlite3_reset(s);
}

/* The answer is compared outside of what is timed: that starts and ends here. */
static uint64_t timed_get(struct base *b, uint32_t row)
{
	char expected[RECORD_ROOM_BYTES];
	size_t bytes = document(b, row, expected);
	uint64_t start = clock_ns(), ns;
	int found;

	sqlite3_bind_int64(b->select, 1, row);
	found = sqlite3_step(b->select) == SQLITE_ROW;
	ns = clock_ns() - start;
	if (!found || (size_t)sqlite3_column_bytes(b->select, 0) != bytes ||
	    memcmp(sqlite3_column_text(b->select, 0), expected, bytes))
		b->wrong++;
	sqlite3_reset(b->select);
	return ns;
}

static uint64_t timed_update(struct base *b, uint32_t row)
{
	char text[RECORD_ROOM_BYTES];
	uint64_t start;
	size_t bytes;

	b->versions[row]++;
	bytes = document(b, row, text);
	start = clock_ns();
	put(b, b->update, row, text, bytes);
	return clock_ns() - start;
}

static void load(struct base *b, uint64_t bytes)
{
	char text[RECORD_ROOM_BYTES];

	run(b, "PRAGMA journal_mode = OFF; CREATE TABLE t (id INTEGER PRIMARY KEY, document TEXT); BEGIN");
	b->insert = prepare(b, "INSERT INTO t VALUES (?, ?)");
	for (uint64_t stored = 0; stored < bytes; b->rows++) {
		size_t size = document(b, b->rows, text);

		put(b, b->insert, b->rows, text, size);
		stored += size;
		if (b->rows % BATCH == 0)
			atomic_store(&b->turn->done, (double)stored / (double)bytes / 2);
	}
	run(b, "COMMIT");
	b->select = prepare(b, "SELECT document FROM t WHERE id = ?");
	b->update = prepare(b, "UPDATE t SET document = ?2 WHERE id = ?1");
}

struct mixture {
	struct base *base;
	struct latency *latency;
	struct random random;
	struct zipf zipf;
	int is_zipf;
	double seconds;
	uint64_t operations;
};

static void mix(void *arg)
{
	struct mixture *m = arg;
	struct base *b = m->base;
	uint64_t start = clock_ns();

	for (m->operations = 0; seconds_since(start) < m->seconds; m->operations++) {
		uint32_t row = m->is_zipf ? zipf_draw(&m->zipf, &m->random) : random_below(&m->random, b->rows);
		int writes = random_below(&m->random, 100) < WRITE_PERCENT;

		latency_add(m->latency, writes ? timed_update(b, row) : timed_get(b, row));
		if (m->operations % BATCH == 0)
			atomic_store(&b->turn->done, 0.5 + seconds_since(start) / m->seconds / 2);
	}
}

static void settle(struct mixture *m)
{
	m->latency = latency_create();
	m->seconds = SETTLE_SECONDS;
	job_settle(m->base->turn, getpid(), mix, m);
	latency_destroy(m->latency);
}

int job_sqlite(struct turn *t, int argc, char **argv)
{
	uint64_t bytes = strtoull(argv[0], NULL, 10) * PAGE_BYTES, start = clock_ns();
	struct base b = { .turn = t, .seed = strtoull(argv[3], NULL, 10) };
	struct mixture m = { .base = &b, .random = { random_mix(b.seed) }, .is_zipf = !strcmp(argv[4], "zipf") };
	double cpu;

	(void)argc;
	b.versions = mmap(NULL, bytes / RECORD_MIN_BYTES * sizeof(*b.versions), PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (b.versions == MAP_FAILED || sqlite3_open(":memory:", &b.db))
		errx(2, "no memory");
	load(&b, bytes);
	t->figures[APP_LOAD_S] = seconds_since(start);
	zipf_init(&m.zipf, b.rows, skew);
	settle(&m);
	m.latency = &t->latency;
	m.seconds = atof(argv[1]);
	cpu = turn_cpu_seconds(t, 0);
	start = clock_ns();
	mix(&m);
	job_set_figures(t, 0, seconds_since(start), (double)m.operations, cpu);
	for (uint32_t i = 0; i < b.rows; i++)
		timed_get(&b, i);
	if (b.wrong)
		warnx("%llu rows are not as they were written", (unsigned long long)b.wrong);
	return b.wrong != 0;
}
