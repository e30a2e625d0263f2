/*
 * Internal threads: bare clone(2), without libc's knowledge.
 *
 * Why not pthreads:
 *  - pthread_create allocates (the dynamic thread vector comes from malloc, so from managed memory, and a thread that
 *    serves faults would fault on its own bookkeeping);
 *  - libc counts pthreads: a program whose last thread calls pthread_exit would never end;
 *  - the first internal thread gets its own descriptor table, so a program that closes every descriptor it finds
 * (daemons do) cannot close the userfaultfd, whose release would turn evicted pages into zeroes, and the program's own
 *    descriptor numbers stay as they would be without us.
 *
 * Each thread has a private block where libc expects its thread control block. Code that runs here must not use
 * thread-local storage; a stray errno lands in that block and harms nobody, a stray dynamic TLS access crashes at once.
 * All signals are blocked.
 */
#ifndef LARDER_THREAD_H
#define LARDER_THREAD_H

enum { THREAD_OWN_FILES = 1 }; /* start with a private copy of the starter's descriptor table, instead of sharing it */

/*
 * Start `run(arg)` on a new thread called `name` (15 characters at most). run must not return.
 * returns the thread id, or a negative errno when there is no memory or no thread to be had.
 */
int thread_start(const char *name, void (*run)(void *), void *arg, unsigned flags);

/* A thread with a table of its own: close all of it but standard error and these. */
void thread_close_files(const int *keep, unsigned n);

/* Keep the calling thread on one CPU (below THREAD_CPUS_MAX), if the system lets it. */
enum { THREAD_CPUS_MAX = 1024 };
void thread_pin(int cpu);

/* Keep a thread off these CPUs, of all that thread_cpus() found. Returns 0, or a negative errno when the system does
 * not let it, or no CPU would be left. */
int thread_keep_off(int tid, const int *cpus, unsigned n);

/* The CPUs that the calling thread may use. Returns how many there are, 0: unknown; cpus[] gets the first `max`. */
int thread_cpus(int *cpus, int max);

/* True when `tid` is a thread that thread_start made in this process. */
int thread_is_internal(int tid);

/* Number of internal threads. */
int thread_count(void);

/* After a fork, in the child: there are none. */
void thread_inherit(void);

/* RAM that one internal thread costs, as far as it is known from here: stack pages touched and the control block. */
enum { THREAD_COST_BYTES = 32 << 10 };

#endif
