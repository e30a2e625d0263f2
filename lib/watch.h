/*
 * Watch: how handlers wait for faults.
 *
 * A message of a userfaultfd wakes every thread that sleeps on it, and the thread that faulted should be served on its
 * own CPU. Which CPU that is, nobody knows when faults are rare; then all handlers are *listening*, each wakes, and the
 * one whose CPU has just become free is first. When faults come in quick succession, waking costs more than serving: a
 * wake-up across CPUs is an interrupt there, and in a virtual machine an exit on both sides. So from then on only the
 * handlers are *on duty* on whose CPUs threads fault (/proc says where a thread is), and the others stand by.
 *
 * A handler on duty *attends*: it does not sleep. It lets the program run by giving up the CPU, and has it again when
 * the program faults, without being woken. Its policy is SCHED_IDLE meanwhile, for two reasons: the program's threads
 * never wait for it; and the scheduler, which likes to wake a thread on an idle CPU, leaves the program where it is,
 * because a CPU where only such threads run counts as idle. A third thread that keeps the CPU busy holds such a handler
 * up for a slice, some milliseconds. So when a look comes late and finds something that may have waited, the handler
 * goes back to its own policy and sleeps, on duty, for some time. Who may not leave SCHED_IDLE again (it takes
 * CAP_SYS_NICE or RLIMIT_NICE) never attends.
 *
 * With a disk, a handler waits for what it reads in the same way, beside messages.
 *
 * Nothing here runs while nothing faults: who attends sleeps when there has been nothing to do for some microseconds,
 * duty ends, and everybody sleeps.
 */
#ifndef LARDER_WATCH_H
#define LARDER_WATCH_H

#include "swap_in.h"

struct uffd_msg;

enum { WATCH_MAX = 8, WATCH_NO_CPU = SWAP_IN_NO_CPU };

struct watcher {
	int uffd, cpu;
	struct larder_reader *reader; /* what it reads with; NULL: there is no disk */
	int may_attend;
	_Atomic uint32_t on_duty; /* set by anybody, cleared by itself */
	int attends;		  /* its policy is SCHED_IDLE */
	unsigned soon;		  /* faults in a row that came soon after the last */
	unsigned away;		  /* located faults in a row that were of other CPUs */
	unsigned served;	  /* messages read */
	uint64_t looked_ns;	  /* when it last looked for a message, while it attends */
	uint64_t not_before_ns;	  /* it does not attend before */
	uint64_t away_ns;	  /* for how long it had stayed away then */
	int rests;		  /* nor before the next message */
};

/* Before any handler starts. Returns 0 or a negative errno. */
int watch_open(void);

/* The calling thread, which runs on `cpu` alone (WATCH_NO_CPU: anywhere), waits for messages of uffd from now on, and
 * for its reader (NULL: none). */
void watch_join(struct watcher *w, int uffd, struct larder_reader *reader, int cpu);

/*
 * Keep an internal thread `tid` (0: the calling one) off the CPUs where threads fault all the time, and off `cpu`
 * (WATCH_NO_CPU: no other): handlers have what time the program leaves there, and must not be late. *off is what it is
 * kept off now; 0 before the first call. Returns 0 when no CPU would be left; then nothing changes.
 */
int watch_keep_off(int tid, int cpu, _Atomic uint64_t *off);

/* The calling thread is kept off no CPU any more. */
void watch_let_go(_Atomic uint64_t *off);

/* Wait for a message, or for the reader. Returns the message's size, -EAGAIN when there is none (the reader may have
 * something to do then), or another negative errno. */
long watch_read(struct watcher *w, struct uffd_msg *message);

/* What the thread is about to do must not wait for idle time: it attends no more until it waits again. */
void watch_hurry(struct watcher *w);

#endif
