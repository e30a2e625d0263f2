/*
 * Redis: a server of our own gets as many records as --pages stands for, then two connections read and write for
 * --seconds, then every record is read and compared. The server alone is what counts; this process is the client.
 */
#include "app.h"
#include "larder_stat.h"
#include "progress.h"
#include "redis_client.h"
#include "redis_server.h"

#include <err.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

enum { PAGE_BYTES = 4096 };

static const char server[] = "/usr/bin/redis-server";

static void start(const struct app_turn *a)
{
	const char *options[PROGRAM_OPTIONS_MAX];

	if (access(server, X_OK))
		err(2, "%s: install redis-server", server);
	program_larder_options(a->limit_bytes, options);
	server_start(server, a->how == PROGRAM_LARDER ? program_path("larder") : NULL, options,
		     a->how == PROGRAM_PEER ? turn_join_cgroup : NULL);
}

/* What is out, and the RAM that holds it. */
static double compression_ratio(const struct app_turn *a)
{
	uint64_t content = 0, occupied = 0;
	struct larder_stat s;

	if (a->how == PROGRAM_LARDER)
		return larder_stat_read(program_path("larder"), server_pid(), &s) ? NAN
										  : s.compression_ratio * s.density;
	if (a->how == PROGRAM_PEER && a->options->peer->held)
		a->options->peer->held(&content, &occupied);
	return occupied ? (double)content / (double)occupied : NAN;
}

static void say_how_far(void *arg)
{
	struct turn *t = arg;

	atomic_store(&t->done, 0.6);
}

static void check(const struct client_result *r)
{
	if (r->wrong || r->missing)
		errx(1, "redis: %llu values are wrong, %llu are missing", (unsigned long long)r->wrong,
		     (unsigned long long)r->missing);
}

struct settle {
	const struct app_turn *app;
	struct records_written *written;
};

static void no_tick(void *arg)
{
	(void)arg;
}

static void settle_round(void *arg)
{
	const struct settle *s = arg;
	const struct client_mixture mixture = {
		.seconds = 1,
		.pipeline = s->app->app->pipeline,
		.is_uniform = s->app->load == TOUCH_RANDOM,
	};
	struct latency *nobodys = latency_create();
	struct client_result r = client_mix(s->written, server_socket(), &mixture, nobodys, no_tick, NULL);

	latency_destroy(nobodys);
	check(&r);
}

static void mix(struct turn *t, const struct app_turn *a, struct records_written *w)
{
	const struct client_mixture mixture = {
		.seconds = a->options->seconds,
		.pipeline = a->app->pipeline,
		.is_uniform = a->load == TOUCH_RANDOM,
	};
	struct settle s = { a, w };
	struct client_result r;
	double cpu;

	job_settle(t, server_pid(), settle_round, &s);
	cpu = turn_cpu_seconds(t, server_pid());
	r = client_mix(w, server_socket(), &mixture, &t->latency, say_how_far, t);
	job_set_figures(t, server_pid(), r.seconds, (double)r.requests, cpu);
	check(&r);
}

void app_run_redis(struct turn *t, const struct app_turn *a)
{
	struct records_written written;
	struct client_result r;

	progress_is_silent = 1; /* the whole benchmark has a bar */
	records_plan(&written, a->options->seed + t->run, a->options->pages[0] * PAGE_BYTES);
	start(a);
	r = client_load(&written, server_socket());
	t->figures[APP_LOAD_S] = r.seconds;
	atomic_store(&t->done, 0.3);
	mix(t, a, &written);
	t->figures[APP_RATIO] = compression_ratio(a);
	r = client_verify(&written, server_socket());
	check(&r);
	server_stop();
}
