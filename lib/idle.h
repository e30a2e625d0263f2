/*
 * Idle: work in time that nobody else wants.
 *
 * A thread under SCHED_IDLE runs on a CPU that has nothing else to do and leaves it at once when something has. It must
 * hold nothing then that others wait for. Who may not be nicer than others (CAP_SYS_NICE, RLIMIT_NICE) could not come
 * back, so it does not go.
 */
#ifndef LARDER_IDLE_H
#define LARDER_IDLE_H

/* May the calling thread come back? */
int idle_may_return(void);

/* The calling thread works in idle time from now on. Returns 0 or a negative errno. Only if idle_may_return(). */
int idle_begin(void);

/* Thread `tid` (0: the calling one) does not any more. */
void idle_end(int tid);

#endif
