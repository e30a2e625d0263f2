/*
 * A redis-server of our own: on a unix socket in a private directory, with nothing on disk, gone with this process
 * however it ends.
 *
 * One at a time: what must be cleaned up when a signal arrives is kept in one static place. A server that does not
 * start, or that dies, ends this program after its last words have been shown.
 */
#ifndef BENCH_REDIS_SERVER_H
#define BENCH_REDIS_SERVER_H

#include <stdint.h>
#include <sys/types.h>

/*
 * Start `redis`; under `larder run OPTION...` when larder is not NULL (options ends with NULL, and has no more than
 * SERVER_OPTIONS_MAX). `before` is called in its process, before it becomes the server; NULL = nothing. Returns when it
 * answers on the socket. Exits with 2 when a plain server does not start or `larder run` refuses, with 1 when a server
 * under Larder fails otherwise.
 */
enum { SERVER_OPTIONS_MAX = 12 };
void server_start(const char *redis, const char *larder, const char *const *options, void (*before)(void));

/* Ask it to end, wait, remove the directory. */
void server_stop(void);

pid_t server_pid(void);
const char *server_socket(void);

/* Say what went wrong while talking to it, show its last words, exit with 1; with 128 and the signal, when one has
 * ended it and there was a `before`, which may have put it where the kernel ends processes for want of memory. */
void server_lost(const char *what) __attribute__((noreturn));

/* RAM mapped by the server now, how much of it is files (code, libraries), and the most ever (VmHWM); 0 when it cannot
 * be read. */
uint64_t server_rss_bytes(void);
uint64_t server_file_bytes(void);
uint64_t server_peak_bytes(void);

#endif
