/*
 * Shared volatile ranges: memory of several processes with one volatile state. See the section of that name in
 * larder/larder.h.
 *
 * THE FILE. A memfd, sealed against resizing: a header (struct shared_header, one record a unit behind it), then the
 * data at a page boundary. Every process maps all of it. The header is never punched; the data of a unit is punched
 * (MADV_REMOVE on the mapping, which needs no descriptor) whenever its content is dropped.
 *
 * SLOTS. Each of at most 62 openings has a slot, that is a bit in every unit's pin mask. A slot is *live* while
 * somebody holds an open-file-description write lock on the byte of the file whose offset is the slot's number. The
 * description that holds it has no descriptor: a mapping of one page, the *anchor*, holds it alone. So
 *   - the kernel drops the lock when the address space goes, by whatever death, in whatever pid namespace;
 *   - not before: a descriptor's lock would go when the last thread that shares the program's descriptor table has
 *     exited, but the reclaim thread has a table of its own and may be inside MADV_REMOVE for a little longer, and a
 *     unit purged that late may be somebody's content by then;
 *   - a program that closes all its descriptors keeps its slots;
 *   - a forked child does not keep its parent's slot alive: the anchor is MADV_DONTFORK, as is the range itself. What
 *     tells the child that a handle is its parent's is a MADV_WIPEONFORK page, so that needs no fork handler. One there
 *     is, before fork: it keeps fork out of the few system calls during which a lock does have a descriptor. (A raw
 *     clone(2) in just that moment makes a child that keeps a dead parent's slot until it execs or ends.)
 * Whatever is done for a dead slot is done while holding that slot's lock: so by one process at a time, never while a
 * new owner of the slot is at work, and again from the start when that process dies too.
 *
 * UNITS. One 64-bit word decides: two bits of state and the mask of the slots that pin the unit. In the states that
 * have an owner the mask is just the owner's bit, so that a state and its owner change in one compare-and-swap.
 *
 *               pin                 refilled                 last unpin, all bits gone: volatile
 *     LOST ------------> FILLING --------------> VALID <-----------------------------------> VALID
 *     mask 0           mask = filler          mask = pinners              pin               mask 0
 *       ^                   | unpin                                                            | purge
 *       |                   v                                                                  v
 *       +--- punched --- PURGING <------------------------------------------------------ mask = purger
 *
 * A LOST unit reads as zeroes, always.
 *
 * The second word is the unit's *rank*, the order of purging: priority class in the upper 4 bits, time of the last
 * unpin (CLOCK_MONOTONIC) below. It is written by those who hold a pin, just before they give it up, and only ever to a
 * later time; so it stands still while the mask is empty, and a purger that owns the unit reads the truth. (Processes
 * in different time namespaces do not share a clock: among them the order by age is arbitrary, the one by priority is
 * kept only as far as their clocks agree.)
 *
 * CRASHES. What a SIGKILL at any instant leaves behind, and what happens then. "Recovery" is slot_recover(), by the
 * next opener, by whoever waits for the unit, or by the sweep that every unpin and purge makes every 100 ms.
 *
 *     killed                                         found by others                   afterwards
 *     opening, slot locked, not yet in slots_used    lock gone, nothing to clear       slot is free
 *     pinned (VALID, own bit)                        dead bit; the unit is intact      recovery clears the bit
 *     filling, at any word of the content            FILLING, dead owner               recovery: PURGING, punch, LOST
 *     content made, before refilled's exchange       the same                          the same: nobody was told
 *     after refilled's exchange, before the wake     VALID; sleepers have a time-out   intact, as it should be
 *     unpin: rank written, bit still set             VALID, dead bit                   bit cleared, rank as written
 *     unpin: bit cleared                             VALID                             nothing to do
 *     unpin of a unit not refilled, before punch     PURGING, dead owner               recovery: punch, LOST
 *     purge: owner, before or in MADV_REMOVE         PURGING, dead owner               recovery: punch, LOST
 *     purge: punched, before LOST                    the same                          punched again: no harm, LOST
 *     purge: LOST, before the wake                   LOST; sleepers have a time-out    nothing to do
 *     recovering another slot, anywhere              that slot's lock is gone too      recovered again; every step may
 *                                                                                      be repeated
 *     closing, before slots_used is cleared          dead slot without pins            recovery finds nothing to clear
 *     between two units of a pin or unpin            each unit by itself               as above
 *
 * What is lost with the process is counts: a statistic may miss its last step.
 *
 * LOCKS, all private to the process, in this order: victims.mutex, list.mutex; session.mutex; opening. A program
 * thread holds none of them while it sleeps for a unit. Internal threads only try list.mutex and their own
 * victims.mutex, so that they never wait for a program thread.
 *
 * WAITING without deadlock is the callers' part: a pin call takes its units in ascending order and keeps what it has
 * while it waits. So a thread that has units it has not refilled (or whose process has) may pin only units behind them;
 * the same across several ranges, in one order that all processes follow. LARDER_NOWAIT is free of this rule. Pinned
 * units that are intact hold nobody up.
 *
 * TRUST. Whoever can map the range can write anywhere in it, records included. A process that does is not defended
 * against, beyond that the geometry checked at opening is not read again.
 */
#ifndef LARDER_SHARED_H
#define LARDER_SHARED_H

#include "choice.h"
#include "futex.h"
#include "log.h"

#include <larder/larder.h>

enum shared_state { SHARED_LOST, SHARED_VALID, SHARED_FILLING, SHARED_PURGING };

enum { SHARED_SLOTS = 62, SHARED_UNIT_MIN_BYTES = 4096, SHARED_VERSION = 1 };
#define SHARED_MAGIC	 0x64657261687372u /* "rshared" */
#define SHARED_MASK	 (((uint64_t)1 << SHARED_SLOTS) - 1)
#define SHARED_UNITS_MAX ((uint64_t)1 << 26) /* 1 GiB of records */
#define SHARED_TICK_NS	 10000000u	     /* a sleeper looks whether the owner lives */
#define SHARED_SWEEP_NS	 100000000u	     /* how often all slots are looked at, by all processes together */

struct shared_unit {
	_Atomic uint64_t word; /* state and mask: compare-and-swap by whoever the diagram above allows */
	_Atomic uint64_t rank; /* see above; written by pinners */
};

/* Of one priority class: relaxed increments by everybody. */
struct shared_counters {
	_Atomic uint64_t marks, hits, losses, refills, purges;
	uint64_t unused[3]; /* a cache line of its own */
};

/* What a range is. Constant once it exists. */
struct shared_geometry {
	uint64_t magic;
	uint32_t version, slots;
	uint64_t unit_bytes, units, data_offset;
	uint64_t unused[3];
};

/* The start of the file. */
struct shared_header {
	struct shared_geometry geometry;

	_Atomic uint64_t slots_used;	/* slots that may have left bits in units: set with the slot's lock held, before
					   the first bit; cleared with it held, after the last */
	_Atomic uint64_t last_sweep_ns; /* when somebody last looked for dead slots */
	_Atomic uint64_t recovered;	/* counter: dead slots cleared */
	_Atomic uint64_t abandoned;	/* counter: units dropped because who was filling them died */
	_Atomic uint32_t waiters;	/* sleepers; too high for ever when one is killed, which costs vain wakes */
	uint32_t unused2[7];

	struct shared_counters classes[LARDER_PRIORITIES]; /* [1 + priority] */
	struct shared_unit unit[];			   /* `units` of them */
};

/* One process's pins of a unit. Under session.mutex. */
struct shared_pins {
	uint32_t count;
	int32_t filler; /* the thread that was told to fill it; meaningful while FILLING */
};

/* What a forked child must not believe: in memory that is zeroed in it (MADV_WIPEONFORK). */
struct shared_session {
	int connected; /* 1; constant */
	struct larder_mutex mutex;
	uint64_t pinned; /* units with a count; under mutex */
	struct shared_pins pins[];
};

/* One opening. Constant once open, but for `next`. */
struct larder_shared {
	struct shared_header *header; /* the mapping of the whole file */
	char *data;
	struct shared_session *session;
	struct larder_shared *next; /* under shared_process->list */
	uint64_t units, unit_bytes, mapped_bytes, private_bytes;
	uint64_t device, inode; /* the file's: to know that fd still is it */
	uint64_t bit;		/* 1 << slot */
	void *anchor;		/* holds the slot's lock */
	unsigned slot;
	int fd; /* for larder_shared_fd(), and for asking about locks. Holds no lock: it may be handed out. */
};

/* Room for a purge to choose in. */
struct shared_victims {
	struct larder_mutex mutex; /* over `choice` */
	struct larder_choice choice;
};

/* All openings of this process; zeroed in a forked child, which so begins with none. */
struct shared_process {
	struct larder_mutex list;    /* over `first` and every next; what is on the list is not closed meanwhile */
	struct larder_mutex opening; /* no fork while a slot's lock has a descriptor */
	struct larder_shared *first;
	struct shared_victims for_program, for_internal;
};

/* NULL until the first opening; then constant. */
extern struct shared_process *_Atomic shared_process;

/* ---- for the reclaim thread ---- */

/* Bytes in units that are not lost, of all ranges open here. cost: a scan of all units' records, 1 ns each or less. */
uint64_t shared_resident_bytes(void);

/*
 * Purge volatile units of priority `upto` and below, of all ranges open here, in order of priority, then of age, until
 * `bytes` are gone. Waits for nobody: returns 0 when a program thread happens to open or close a range.
 * returns  bytes given back.
 */
uint64_t shared_purge_volatile(int upto, uint64_t bytes);

/* Called, if set, on the program thread that has made lost units again: so many bytes more are in RAM. */
extern void (*_Atomic shared_filled)(uint64_t bytes);

/* ---- between the files of this module ---- */

static inline enum shared_state shared_state_of(uint64_t word)
{
	return (enum shared_state)(word >> SHARED_SLOTS);
}

static inline uint64_t shared_word(enum shared_state state, uint64_t mask)
{
	return (uint64_t)state << SHARED_SLOTS | mask;
}

enum { SHARED_RANK_TIME_BITS = 60 };
#define SHARED_RANK_TIME (((uint64_t)1 << SHARED_RANK_TIME_BITS) - 1)

static inline uint64_t shared_rank(int priority, uint64_t time_ns)
{
	return (uint64_t)(priority - LARDER_PRIORITY_OBSOLETE) << SHARED_RANK_TIME_BITS | (time_ns & SHARED_RANK_TIME);
}

/* Index of a rank's priority in shared_header.classes. Records are not trusted to be in range. */
static inline unsigned shared_class(uint64_t rank)
{
	unsigned c = (unsigned)(rank >> SHARED_RANK_TIME_BITS);

	return c < LARDER_PRIORITIES ? c : LARDER_PRIORITIES - 1;
}

static inline void shared_count(_Atomic uint64_t *counter)
{
	atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

/* In debug builds a program's mistake ends the program. */
static inline int shared_misuse(int err, const char *call)
{
#ifdef LARDER_DEBUG
	log_panic(call, err);
#endif
	(void)call;
	return err;
}

static inline int shared_is_connected(const struct larder_shared *s)
{
	return s->session->connected;
}

/* Change the word of a unit that this process owns, and wake who waits for it. */
void shared_release(struct larder_shared *s, uint64_t unit, uint64_t word);

/* The unit is PURGING, and owned by this process or by a slot whose lock it holds: drop the content. LOST then. */
void shared_drop(struct larder_shared *s, uint64_t unit);

/* Purge this range alone, on a program thread. returns bytes given back. */
uint64_t shared_purge(struct larder_shared *s, int upto, uint64_t bytes);

/* A new description of the file behind `fd`, close-on-exec, or a negative errno. */
int shared_reopen(int fd);

/* Take a free slot for this opening. returns 0; -EAGAIN: all are taken; other negative errnos. */
int slot_claim(struct larder_shared *s);

/* Give it up; nothing of this opening is pinned or under way. */
void slot_leave(struct larder_shared *s);

/* Clear what a dead process left behind in `slot`. Does nothing while that slot is live. */
void slot_recover(struct larder_shared *s, unsigned slot);

/* Recover every dead slot, if nobody has looked in the last SHARED_SWEEP_NS before now_ns. */
void slots_sweep(struct larder_shared *s, uint64_t now_ns);

/* ---- for tests: called at each step, so that a process can die exactly there ---- */

enum shared_step {
	SHARED_STEP_CLAIMED,	     /* slot locked, not in slots_used */
	SHARED_STEP_FILL_BEGUN,	     /* FILLING */
	SHARED_STEP_FILL_DONE,	     /* in larder_shared_refilled(), before VALID */
	SHARED_STEP_REFILLED,	     /* VALID, nobody woken */
	SHARED_STEP_RANKED,	     /* in unpin: rank written, bit set */
	SHARED_STEP_UNPINNED,	     /* bit cleared */
	SHARED_STEP_DROP_BEGUN,	     /* PURGING, not punched: half-made content */
	SHARED_STEP_PURGE_BEGUN,     /* PURGING, not punched: intact content */
	SHARED_STEP_PUNCHED,	     /* PURGING, punched */
	SHARED_STEP_PURGED,	     /* LOST, nobody woken */
	SHARED_STEP_RECOVER_BEGUN,   /* holding a dead slot's lock */
	SHARED_STEP_RECOVER_UNIT,    /* one unit of it cleared */
	SHARED_STEP_RECOVER_PURGING, /* its half-made unit is PURGING */
	SHARED_STEP_RECOVERED,	     /* all cleared, still in slots_used */
	SHARED_STEP_LEAVING,	     /* closing, still in slots_used */
	SHARED_STEPS
};

extern void (*shared_test_step)(enum shared_step step);

static inline void shared_step(enum shared_step step)
{
	if (__builtin_expect(shared_test_step != NULL, 0))
		shared_test_step(step);
}

#endif
