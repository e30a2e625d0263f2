#include "redis_client.h"

#include "clock.h"
#include "progress.h"
#include "random.h"
#include "records.h"
#include "redis_server.h"
#include "zipf.h"

#include <err.h>
#include <hiredis/hiredis.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIB ((double)(1 << 20))

enum { PIPELINE = 64, WRITE_PERCENT = 5, TICK_US = 250000 };
static const double skew = 0.99;

/* ---- the plan ---- */

void records_plan(struct records_written *w, uint64_t seed, uint64_t bytes)
{
	*w = (struct records_written){ .seed = seed };
	while (w->bytes < bytes)
		w->bytes += record_bytes(seed, w->count++, 0);
	w->versions = calloc(w->count, sizeof(*w->versions));
	if (!w->versions)
		err(2, "no memory for %u records", w->count);
}

void records_free(struct records_written *w)
{
	free(w->versions);
	*w = (struct records_written){ 0 };
}

/* ---- one request ---- */

static redisContext *connect_to(const char *socket)
{
	redisContext *c = redisConnectUnix(socket);

	if (!c || c->err)
		server_lost(c ? c->errstr : "no memory");
	return c;
}

/* Queue SET of one version. Returns the value's size. */
static size_t append_set(redisContext *c, const struct records_written *w, uint32_t index, uint32_t version)
{
	char key[RECORD_KEY_BYTES], value[RECORD_ROOM_BYTES];
	size_t bytes = record_value(value, w->seed, index, version);
	const char *args[] = { "SET", key, value };
	size_t sizes[] = { 3, record_key(key, index), bytes };

	if (redisAppendCommandArgv(c, 3, args, sizes))
		server_lost(c->errstr);
	return bytes;
}

static void append_get(redisContext *c, uint32_t index)
{
	char key[RECORD_KEY_BYTES];
	const char *args[] = { "GET", key };
	size_t sizes[] = { 3, record_key(key, index) };

	if (redisAppendCommandArgv(c, 2, args, sizes))
		server_lost(c->errstr);
}

static redisReply *next_reply(redisContext *c)
{
	void *reply;

	if (redisGetReply(c, &reply))
		server_lost(c->errstr);
	return reply;
}

static void finish_set(redisReply *reply)
{
	if (reply->type != REDIS_REPLY_STATUS)
		server_lost(reply->type == REDIS_REPLY_ERROR ? reply->str : "a strange answer to SET");
	freeReplyObject(reply);
}

/* Compare with the version that it must be, and count. */
static void finish_get(redisReply *reply, const struct records_written *w, uint32_t index, uint32_t version,
		       struct client_result *result)
{
	char expected[RECORD_ROOM_BYTES];
	size_t bytes = record_value(expected, w->seed, index, version);

	if (reply->type == REDIS_REPLY_ERROR)
		server_lost(reply->str);
	if (reply->type == REDIS_REPLY_NIL)
		result->missing++;
	else if (reply->type != REDIS_REPLY_STRING || reply->len != bytes || memcmp(reply->str, expected, bytes))
		result->wrong++;
	result->bytes += bytes;
	freeReplyObject(reply);
}

/* ---- load and verify: batches of PIPELINE requests ---- */

static uint32_t batch_end(const struct records_written *w, uint32_t start)
{
	return w->count - start < PIPELINE ? w->count : start + PIPELINE;
}

static void load_batch(redisContext *c, const struct records_written *w, uint32_t start, struct client_result *result)
{
	for (uint32_t i = start; i < batch_end(w, start); i++)
		result->bytes += append_set(c, w, i, 0);
	for (uint32_t i = start; i < batch_end(w, start); i++)
		finish_set(next_reply(c));
}

static void verify_batch(redisContext *c, const struct records_written *w, uint32_t start, struct client_result *result)
{
	for (uint32_t i = start; i < batch_end(w, start); i++)
		append_get(c, i);
	for (uint32_t i = start; i < batch_end(w, start); i++)
		finish_get(next_reply(c), w, i, w->versions[i], result);
}

typedef void batch_fn(redisContext *c, const struct records_written *w, uint32_t start, struct client_result *result);

static struct client_result for_all_records(const struct records_written *w, const char *socket, const char *phase,
					    batch_fn *batch)
{
	struct client_result result = { .requests = w->count };
	redisContext *c = connect_to(socket);
	uint64_t start = clock_ns();
	struct progress progress;

	progress_start(&progress, phase, "MiB", (double)w->bytes / MIB);
	for (uint32_t i = 0; i < w->count; i += PIPELINE) {
		batch(c, w, i, &result);
		progress_show(&progress, (double)result.bytes / MIB);
	}
	result.seconds = seconds_since(start);
	progress_end(&progress);
	redisFree(c);
	return result;
}

struct client_result client_load(struct records_written *w, const char *socket)
{
	memset(w->versions, 0, w->count * sizeof(*w->versions));
	return for_all_records(w, socket, "load", load_batch);
}

struct client_result client_verify(const struct records_written *w, const char *socket)
{
	return for_all_records(w, socket, "verify", verify_batch);
}

/* ---- mix ---- */

static atomic_int mix_over;

struct mixer {
	pthread_t thread;
	uint32_t number;
	const struct client_mixture *mix;
	struct records_written *written;
	redisContext *connection;
	struct zipf zipf; /* over the keys that this thread owns */
	struct random random;
	struct latency *latency;
	struct client_result result;
};

/* A request that is under way: other writes to the same key may follow it. */
struct request {
	uint32_t index, version;
	int is_write;
};

static uint32_t draw_index(struct mixer *m)
{
	uint32_t own = m->mix->is_uniform ? random_below(&m->random, m->zipf.n) : zipf_draw(&m->zipf, &m->random);

	return own * CLIENT_THREADS + m->number;
}

static struct request append_request(struct mixer *m)
{
	struct records_written *w = m->written;
	struct request q = { .index = draw_index(m), .is_write = random_below(&m->random, 100) < WRITE_PERCENT };

	q.version = q.is_write ? ++w->versions[q.index] : w->versions[q.index];
	if (q.is_write)
		m->result.bytes += append_set(m->connection, w, q.index, q.version);
	else
		append_get(m->connection, q.index);
	return q;
}

/* Latency is from sending the requests to each one's answer. */
static void mix_batch(struct mixer *m)
{
	struct request requests[CLIENT_PIPELINE_MAX];
	uint64_t start;

	for (unsigned i = 0; i < m->mix->pipeline; i++)
		requests[i] = append_request(m);
	start = clock_ns();
	for (unsigned i = 0; i < m->mix->pipeline; i++) {
		redisReply *reply = next_reply(m->connection);

		latency_add(m->latency, clock_ns() - start);
		if (requests[i].is_write)
			finish_set(reply);
		else
			finish_get(reply, m->written, requests[i].index, requests[i].version, &m->result);
	}
	m->result.requests += m->mix->pipeline;
}

static void *mix_thread(void *arg)
{
	struct mixer *m = arg;

	while (!atomic_load_explicit(&mix_over, memory_order_relaxed))
		mix_batch(m);
	return NULL;
}

static void mixer_open(struct mixer *m, uint32_t number, struct records_written *w, const char *socket,
		       const struct client_mixture *mix)
{
	*m = (struct mixer){ .number = number, .mix = mix, .written = w, .connection = connect_to(socket) };
	zipf_init(&m->zipf, w->count / CLIENT_THREADS, skew);
	m->random.state = random_mix(w->seed) + number;
	m->latency = latency_create();
}

static void mixer_close(struct mixer *m, struct latency *latency, struct client_result *sum)
{
	latency_append(latency, m->latency);
	latency_destroy(m->latency);
	redisFree(m->connection);
	sum->requests += m->result.requests;
	sum->bytes += m->result.bytes;
	sum->wrong += m->result.wrong;
	sum->missing += m->result.missing;
}

static void wait_ticking(double seconds, void (*tick)(void *), void *arg)
{
	uint64_t start = clock_ns();
	struct progress progress;

	progress_start(&progress, "mix", "s", seconds);
	while (seconds_since(start) < seconds) {
		usleep(TICK_US);
		tick(arg);
		progress_show(&progress, seconds_since(start));
	}
	progress_end(&progress);
}

struct client_result client_mix(struct records_written *w, const char *socket, const struct client_mixture *mix,
				struct latency *latency, void (*tick)(void *), void *arg)
{
	static struct mixer mixers[CLIENT_THREADS];
	struct client_result sum = { 0 };
	uint64_t start;

	atomic_store(&mix_over, 0);
	for (uint32_t i = 0; i < CLIENT_THREADS; i++)
		mixer_open(&mixers[i], i, w, socket, mix);
	start = clock_ns();
	for (uint32_t i = 0; i < CLIENT_THREADS; i++)
		if (pthread_create(&mixers[i].thread, NULL, mix_thread, &mixers[i]))
			errx(2, "cannot create a thread");
	wait_ticking(mix->seconds, tick, arg);
	atomic_store(&mix_over, 1);
	for (uint32_t i = 0; i < CLIENT_THREADS; i++)
		pthread_join(mixers[i].thread, NULL);
	sum.seconds = seconds_since(start);
	for (uint32_t i = 0; i < CLIENT_THREADS; i++)
		mixer_close(&mixers[i], latency, &sum);
	return sum;
}
