/*
 * Shared volatile ranges. Several openings in one process are as good as several processes, but for dying: where that
 * matters, a child kills itself at a named step of the code (shared_test_step).
 */
#include "shared.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { UNIT = 8192, WORDS = UNIT / 8, UNITS = 8, ALL = UNITS * UNIT };

static const char *self; /* argv[0] */

/* In a child: cmocka's assertions would jump into the parent's stack. */
#define CHECK(condition)                                                                                               \
	do {                                                                                                           \
		if (!(condition)) {                                                                                    \
			fprintf(stderr, "child: line %d: %s is not so\n", __LINE__, #condition);                       \
			_exit(1);                                                                                      \
		}                                                                                                      \
	} while (0)

static uint64_t *words_of(larder_shared *s, uint64_t unit)
{
	return (uint64_t *)((char *)larder_shared_address(s) + unit * UNIT);
}

static void write_unit(larder_shared *s, uint64_t unit, uint64_t value)
{
	for (unsigned i = 0; i < WORDS; i++)
		words_of(s, unit)[i] = value + i;
}

static int holds(larder_shared *s, uint64_t unit, uint64_t value)
{
	for (unsigned i = 0; i < WORDS; i++)
		if (words_of(s, unit)[i] != value + i)
			return 0;
	return 1;
}

static int is_zero(larder_shared *s, uint64_t unit)
{
	for (unsigned i = 0; i < WORDS; i++)
		if (words_of(s, unit)[i])
			return 0;
	return 1;
}

static enum shared_state state_of(larder_shared *s, uint64_t unit)
{
	return shared_state_of(atomic_load(&s->header->unit[unit].word));
}

static larder_shared *create(void)
{
	larder_shared *s = NULL;

	assert_int_equal(larder_shared_create(&s, ALL, UNIT), 0);
	return s;
}

static larder_shared *open_again(larder_shared *s)
{
	larder_shared *other = NULL;

	assert_int_equal(larder_shared_open(&other, larder_shared_fd(s)), 0);
	return other;
}

static void fill(larder_shared *s, uint64_t unit, int priority)
{
	assert_int_equal(larder_shared_pin(s, unit * UNIT, UNIT, 0, NULL), LARDER_PURGED);
	write_unit(s, unit, unit << 32 | 1);
	assert_int_equal(larder_shared_refilled(s, unit * UNIT, UNIT), 0);
	assert_int_equal(larder_shared_unpin(s, unit * UNIT, UNIT, priority), 0);
}

static int pin(larder_shared *s, uint64_t unit)
{
	return larder_shared_pin(s, unit * UNIT, UNIT, 0, NULL);
}

static int unpin(larder_shared *s, uint64_t unit, int priority)
{
	return larder_shared_unpin(s, unit * UNIT, UNIT, priority);
}

/* Run fn in a child with an opening of its own. returns its wait status. */
static int in_child(int (*fn)(larder_shared *), larder_shared *s)
{
	pid_t pid = fork();
	int status;

	assert_true(pid >= 0);
	if (pid == 0) {
		larder_shared *own;

		CHECK(larder_shared_open(&own, larder_shared_fd(s)) == 0);
		_exit(fn(own));
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

/* ---- states and pins ---- */

static void a_new_range_is_lost_and_zero(void **state)
{
	unsigned char lost[UNITS];
	larder_shared *s;

	(void)state;
	assert_int_equal(larder_shared_create(&s, ALL - UNIT + 1, UNIT), 0);
	assert_int_equal(larder_shared_bytes(s), ALL);
	assert_int_equal(larder_shared_unit_bytes(s), UNIT);
	assert_int_equal((uintptr_t)larder_shared_address(s) % 4096, 0);
	assert_true(larder_shared_fd(s) >= 0);
	assert_true(fcntl(larder_shared_fd(s), F_GETFD) & FD_CLOEXEC);
	memset(lost, 7, sizeof(lost));
	assert_int_equal(larder_shared_pin(s, 0, ALL, 0, lost), LARDER_PURGED);
	for (unsigned i = 0; i < UNITS; i++) {
		assert_int_equal(lost[i], 1);
		assert_true(is_zero(s, i));
		write_unit(s, i, i + 1);
	}
	assert_int_equal(larder_shared_refilled(s, 0, ALL), 0);
	assert_int_equal(larder_shared_unpin(s, 0, ALL, 0), 0);
	assert_int_equal(larder_shared_pin(s, 0, ALL, 0, lost), LARDER_INTACT);
	for (unsigned i = 0; i < UNITS; i++) {
		assert_int_equal(lost[i], 0);
		assert_true(holds(s, i, i + 1));
	}
	assert_int_equal(larder_shared_unpin(s, 0, ALL, 0), 0);
	assert_int_equal(larder_shared_close(s), 0);
}

static void lost_says_which_units_are_to_be_made(void **state)
{
	larder_shared *s = create();
	unsigned char lost[4];

	(void)state;
	fill(s, 1, 0);
	fill(s, 3, 0);
	assert_int_equal(larder_shared_pin(s, 0, 4 * UNIT, 0, lost), LARDER_PURGED);
	assert_memory_equal(lost, ((unsigned char[]){ 1, 0, 1, 0 }), 4);
	assert_int_equal(larder_shared_refilled(s, 0, UNIT), 0);
	assert_int_equal(larder_shared_refilled(s, 2 * UNIT, UNIT), 0);
	assert_int_equal(larder_shared_unpin(s, 0, 4 * UNIT, 0), 0);
	assert_int_equal(larder_shared_pin(s, 0, 4 * UNIT, 0, lost), LARDER_INTACT);
	assert_int_equal(larder_shared_unpin(s, 0, 4 * UNIT, 0), 0);
	larder_shared_close(s);
}

static void pins_nest_and_keep_the_content(void **state)
{
	larder_shared *s = create(), *other = open_again(s);

	(void)state;
	fill(s, 0, 0);
	assert_int_equal(pin(s, 0), LARDER_INTACT);
	assert_int_equal(pin(s, 0), LARDER_INTACT);
	assert_int_equal(pin(other, 0), LARDER_INTACT);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(larder_shared_purge(s, 7, ALL), 0);
		assert_int_equal(larder_shared_purge(other, 7, ALL), 0);
		assert_int_equal(unpin(i < 2 ? s : other, 0, 0), 0);
	}
	assert_int_equal(larder_shared_purge(other, 7, ALL), UNIT);
	assert_int_equal(pin(s, 0), LARDER_PURGED);
	assert_true(is_zero(s, 0));
	assert_int_equal(unpin(s, 0, 0), 0);
	larder_shared_close(other);
	larder_shared_close(s);
}

static void a_unit_not_refilled_stays_lost_and_is_zeroed(void **state)
{
	larder_shared *s = create(), *other = open_again(s);

	(void)state;
	assert_int_equal(pin(s, 0), LARDER_PURGED);
	assert_int_equal(pin(s, 0), LARDER_PURGED); /* the same thread again: the same duty */
	write_unit(s, 0, 5);
	assert_int_equal(unpin(s, 0, 0), 0);
	assert_int_equal(state_of(s, 0), SHARED_FILLING);
	assert_int_equal(unpin(s, 0, 0), 0);
	assert_int_equal(state_of(s, 0), SHARED_LOST);
	assert_int_equal(pin(other, 0), LARDER_PURGED);
	assert_true(is_zero(other, 0));
	assert_int_equal(unpin(other, 0, 0), 0);
	larder_shared_close(other);
	larder_shared_close(s);
}

struct pinner {
	larder_shared *s;
	int result;
	_Atomic int done;
};

static void *pin_unit_0(void *arg)
{
	struct pinner *p = arg;

	p->result = pin(p->s, 0);
	atomic_store(&p->done, 1);
	return NULL;
}

static void others_wait_for_who_fills(larder_shared *filler, larder_shared *waiter)
{
	struct pinner p = { .s = waiter };
	pthread_t thread;

	assert_int_equal(pin(filler, 0), LARDER_PURGED);
	assert_int_equal(pthread_create(&thread, NULL, pin_unit_0, &p), 0);
	sys_sleep_ns(50000000);
	assert_int_equal(atomic_load(&p.done), 0);
	write_unit(filler, 0, 9);
	assert_int_equal(larder_shared_refilled(filler, 0, UNIT), 0);
	pthread_join(thread, NULL);
	assert_int_equal(p.result, LARDER_INTACT);
	assert_true(holds(waiter, 0, 9));
	assert_int_equal(unpin(filler, 0, 0), 0);
	assert_int_equal(unpin(waiter, 0, 0), 0);
}

static void threads_and_processes_wait_for_who_fills(void **state)
{
	larder_shared *s = create(), *other = open_again(s);

	(void)state;
	others_wait_for_who_fills(s, s);
	assert_int_equal(larder_shared_purge(s, 7, ALL), UNIT);
	others_wait_for_who_fills(s, other);
	larder_shared_close(other);
	larder_shared_close(s);
}

static void a_waiter_takes_over_from_who_gives_up(void **state)
{
	larder_shared *s = create();
	struct pinner p = { .s = s };
	pthread_t thread;

	(void)state;
	assert_int_equal(pin(s, 0), LARDER_PURGED);
	assert_int_equal(pthread_create(&thread, NULL, pin_unit_0, &p), 0);
	sys_sleep_ns(20000000);
	assert_int_equal(unpin(s, 0, 0), 0);
	pthread_join(thread, NULL);
	assert_int_equal(p.result, LARDER_PURGED);
	assert_int_equal(unpin(s, 0, 0), 0);
	larder_shared_close(s);
}

static void nowait_fails_and_changes_nothing(void **state)
{
	larder_shared *s = create(), *other = open_again(s);
	uint64_t words[UNITS], ranks[UNITS];

	(void)state;
	fill(s, 1, 4);
	assert_int_equal(pin(s, 3), LARDER_PURGED);
	for (unsigned i = 0; i < UNITS; i++) {
		words[i] = s->header->unit[i].word;
		ranks[i] = s->header->unit[i].rank;
	}
	assert_int_equal(larder_shared_pin(other, 0, ALL, LARDER_NOWAIT, NULL), -EAGAIN);
	for (unsigned i = 0; i < UNITS; i++) {
		assert_int_equal(s->header->unit[i].word, words[i]);
		assert_int_equal(s->header->unit[i].rank, ranks[i]);
	}
	assert_int_equal(other->session->pinned, 0);
	assert_int_equal(larder_shared_pin(other, 0, 3 * UNIT, LARDER_NOWAIT, NULL), LARDER_PURGED);
	assert_int_equal(larder_shared_unpin(other, 0, 3 * UNIT, 0), 0);
	assert_int_equal(unpin(s, 3, 0), 0);
	larder_shared_close(other);
	larder_shared_close(s);
}

/* ---- purging ---- */

/* Purge one unit. returns which, or -1. */
static int purge_one(larder_shared *s, int upto)
{
	enum shared_state before[UNITS];
	int which = -1;

	for (unsigned i = 0; i < UNITS; i++)
		before[i] = state_of(s, i);
	if (larder_shared_purge(s, upto, 1) != UNIT)
		return -1;
	for (unsigned i = 0; i < UNITS; i++)
		if (before[i] != state_of(s, i)) {
			assert_int_equal(which, -1);
			which = (int)i;
		}
	return which;
}

static void purge_goes_by_priority_then_by_age(void **state)
{
	static const int priority[UNITS] = { 3, -1, 0, 3, 0, 7, -1, 0 };
	static const unsigned unpin_order[UNITS] = { 5, 6, 7, 0, 1, 4, 3, 2 };
	static const int expected[UNITS] = { 6, 1, 7, 4, 2, 0, 3, 5 };
	larder_shared *s = create(), *other = open_again(s);

	(void)state;
	for (unsigned i = 0; i < UNITS; i++)
		fill(i % 2 ? s : other, unpin_order[i], priority[unpin_order[i]]);
	for (unsigned i = 0; i < UNITS; i++)
		assert_int_equal(purge_one(i % 3 ? s : other, 7), expected[i]);
	assert_int_equal(purge_one(s, 7), -1);
	larder_shared_close(other);
	larder_shared_close(s);
}

static void purge_spares_higher_priorities_and_later_uses(void **state)
{
	larder_shared *s = create(), *other = open_again(s);

	(void)state;
	fill(s, 0, 5);
	fill(s, 1, 2);
	fill(s, 2, 2);
	assert_int_equal(larder_shared_purge(s, 1, ALL), 0);
	assert_int_equal(pin(s, 1), LARDER_INTACT); /* a use makes it the younger one */
	assert_int_equal(unpin(s, 1, 2), 0);
	assert_int_equal(purge_one(s, 4), 2);
	assert_int_equal(pin(s, 1), LARDER_INTACT); /* the last unpin's priority counts */
	assert_int_equal(pin(other, 1), LARDER_INTACT);
	assert_int_equal(unpin(s, 1, -1), 0);
	assert_int_equal(unpin(other, 1, 6), 0);
	assert_int_equal(larder_shared_purge(s, 4, ALL), 0);
	assert_int_equal(purge_one(s, 7), 0);
	assert_int_equal(purge_one(s, 7), 1);
	larder_shared_close(other);
	larder_shared_close(s);
}

/* More units than one scan can gather, in scrambled order of age. */
static void a_purge_of_many_units_takes_exactly_the_oldest(void **state)
{
	enum { MANY = 3 * CHOICE_MAX + 5, GONE = 2 * CHOICE_MAX + 100, STRIDE = 3779, SMALL = 4096 };
	larder_shared *s;

	(void)state;
	assert_int_equal(larder_shared_create(&s, (size_t)MANY * SMALL, SMALL), 0);
	for (unsigned i = 0; i < MANY; i++) {
		size_t offset = (size_t)i * STRIDE % MANY * SMALL;

		assert_int_equal(larder_shared_pin(s, offset, SMALL, 0, NULL), LARDER_PURGED);
		*(char *)(s->data + offset) = 1;
		assert_int_equal(larder_shared_refilled(s, offset, SMALL), 0);
		assert_int_equal(larder_shared_unpin(s, offset, SMALL, 0), 0);
	}
	assert_int_equal(shared_resident_bytes(), (uint64_t)MANY * SMALL);
	assert_int_equal(larder_shared_purge(s, 0, (uint64_t)GONE * SMALL - 1), (uint64_t)GONE * SMALL);
	for (unsigned i = 0; i < MANY; i++)
		assert_int_equal(state_of(s, (uint64_t)i * STRIDE % MANY), i < GONE ? SHARED_LOST : SHARED_VALID);
	assert_int_equal(shared_resident_bytes(), (uint64_t)(MANY - GONE) * SMALL);
	larder_shared_close(s);
}

static void purged_memory_is_given_back(void **state)
{
	larder_shared *s = create();
	struct stat before, after;

	(void)state;
	for (unsigned i = 0; i < UNITS; i++)
		fill(s, i, 0);
	assert_int_equal(fstat(larder_shared_fd(s), &before), 0);
	assert_int_equal(larder_shared_purge(s, 0, UINT64_MAX), ALL);
	assert_int_equal(fstat(larder_shared_fd(s), &after), 0);
	assert_int_equal((before.st_blocks - after.st_blocks) * 512, ALL);
	larder_shared_close(s);
}

/* For the reclaim thread: all ranges together. */
static void the_process_purges_all_its_ranges_in_one_order(void **state)
{
	larder_shared *a = create(), *b = create();

	(void)state;
	fill(a, 0, 3);
	fill(b, 0, 1);
	fill(a, 1, 1);
	fill(b, 1, 3);
	assert_int_equal(shared_resident_bytes(), 4 * UNIT);
	assert_int_equal(shared_purge_volatile(0, ALL), 0);
	assert_int_equal(shared_purge_volatile(7, 1), UNIT);
	assert_int_equal(state_of(b, 0), SHARED_LOST);
	assert_int_equal(shared_purge_volatile(2, ALL), UNIT);
	assert_int_equal(state_of(a, 1), SHARED_LOST);
	assert_int_equal(shared_purge_volatile(7, UNIT), UNIT);
	assert_int_equal(state_of(a, 0), SHARED_LOST);
	larder_shared_close(a);
	assert_int_equal(shared_resident_bytes(), UNIT);
	assert_int_equal(shared_purge_volatile(7, ALL), UNIT);
	larder_shared_close(b);
	assert_int_equal(shared_resident_bytes(), 0);
	assert_int_equal(shared_purge_volatile(7, ALL), 0);
}

/* MADV_REMOVE refuses locked memory. (Not by mlock(), which AddressSanitizer turns into nothing.) */
static void locked_memory_is_not_purged_but_never_left_half_made(void **state)
{
	larder_shared *s = create();

	(void)state;
	fill(s, 0, 0);
	if (sys_call3(SYS_mlock, (long)s->data, 2 * UNIT, 0) < 0) {
		larder_shared_close(s);
		skip();
	}
	assert_int_equal(larder_shared_purge(s, 7, ALL), 0);
	assert_int_equal(pin(s, 0), LARDER_INTACT);
	assert_true(holds(s, 0, 1));
	assert_int_equal(unpin(s, 0, 0), 0);
	assert_int_equal(pin(s, 1), LARDER_PURGED);
	write_unit(s, 1, 5);
	assert_int_equal(unpin(s, 1, 0), 0);
	assert_true(is_zero(s, 1));
	larder_shared_close(s);
}

static void statistics_count_by_priority(void **state)
{
	struct larder_volatile_stats st[LARDER_PRIORITIES], *p0 = &st[1], *p3 = &st[4];
	larder_shared *s = create(), *other = open_again(s);

	(void)state;
	fill(s, 0, 3); /* new units are of priority 0: a loss and a refill there, a mark here */
	fill(s, 1, 3);
	assert_int_equal(pin(other, 0), LARDER_INTACT);
	assert_int_equal(larder_shared_get_stats(s, st), 0);
	assert_int_equal(p0->bytes, 6 * UNIT);
	assert_int_equal(p0->lost_bytes, 6 * UNIT);
	assert_int_equal(p0->losses, 2);
	assert_int_equal(p0->refills, 2);
	assert_int_equal(p3->bytes, UNIT);
	assert_int_equal(p3->lost_bytes, 0);
	assert_int_equal(p3->marks, 2);
	assert_int_equal(p3->hits, 1);
	assert_int_equal(unpin(other, 0, 3), 0);
	assert_int_equal(larder_shared_purge(other, 3, UNIT), UNIT);
	assert_int_equal(larder_shared_get_stats(s, st), 0);
	assert_int_equal(p3->bytes, 2 * UNIT);
	assert_int_equal(p3->lost_bytes, UNIT);
	assert_int_equal(p3->marks, 3);
	assert_int_equal(p3->purges, 1);
	assert_int_equal(p3->purged_bytes, UNIT);
	larder_shared_close(other);
	larder_shared_close(s);
}

/* ---- other processes ---- */

/* The other half of a_program_opens_what_it_inherits, in another program. */
static int second_program(int fd)
{
	larder_shared *s;

	CHECK(larder_shared_open(&s, fd) == 0);
	CHECK(larder_shared_bytes(s) == ALL && larder_shared_unit_bytes(s) == UNIT);
	CHECK(pin(s, 2) == LARDER_INTACT);
	CHECK(holds(s, 2, (uint64_t)2 << 32 | 1));
	CHECK(unpin(s, 2, 0) == 0);
	CHECK(pin(s, 3) == LARDER_PURGED);
	write_unit(s, 3, 33);
	CHECK(larder_shared_refilled(s, 3 * UNIT, UNIT) == 0);
	CHECK(unpin(s, 3, 0) == 0);
	CHECK(larder_shared_close(s) == 0);
	CHECK(fcntl(fd, F_GETFD) >= 0); /* still the caller's */
	return 0;
}

static void a_program_opens_what_it_inherits(void **state)
{
	larder_shared *s = create();
	int fd = dup(larder_shared_fd(s)), status; /* without close-on-exec */
	char number[16];
	pid_t pid;

	(void)state;
	fill(s, 2, 0);
	snprintf(number, sizeof(number), "%d", fd);
	pid = fork();
	if (pid == 0) {
		execl("/proc/self/exe", self, "--second-program", number, (char *)NULL);
		_exit(2);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(pin(s, 3), LARDER_INTACT);
	assert_true(holds(s, 3, 33));
	assert_int_equal(unpin(s, 3, 0), 0);
	close(fd);
	larder_shared_close(s);
}

static int use_parents_handle(larder_shared *s)
{
	struct larder_volatile_stats st[LARDER_PRIORITIES];
	larder_shared *own;

	CHECK(pin(s, 0) == -ENOTCONN);
	CHECK(unpin(s, 0, 0) == -ENOTCONN);
	CHECK(larder_shared_refilled(s, 0, UNIT) == -ENOTCONN);
	CHECK(larder_shared_purge(s, 7, ALL) == -ENOTCONN);
	CHECK(larder_shared_get_stats(s, st) == -ENOTCONN);
	CHECK(shared_resident_bytes() == 0);
	CHECK(shared_purge_volatile(7, ALL) == 0);
	CHECK(larder_shared_bytes(s) == ALL);
	CHECK(larder_shared_open(&own, larder_shared_fd(s)) == 0);
	CHECK(larder_shared_close(s) == 0);
	CHECK(pin(own, 1) == LARDER_INTACT);
	CHECK(unpin(own, 1, 0) == 0);
	CHECK(larder_shared_purge(own, 7, ALL) == UNIT); /* not the one that the parent has pinned */
	CHECK(larder_shared_close(own) == 0);
	return 0;
}

static void a_forked_child_must_open_its_own(void **state)
{
	larder_shared *s = create();
	int status;
	pid_t pid;

	(void)state;
	fill(s, 0, 0);
	fill(s, 1, 0);
	assert_int_equal(pin(s, 0), LARDER_INTACT);
	pid = fork();
	if (pid == 0)
		_exit(use_parents_handle(s));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_true(holds(s, 0, 1));
	assert_int_equal(unpin(s, 0, 0), 0);
	assert_int_equal(larder_shared_close(s), 0);
}

static void sixty_two_can_open_it(void **state)
{
	larder_shared *s = create(), *others[SHARED_SLOTS], *one_more;

	(void)state;
	for (unsigned i = 1; i < SHARED_SLOTS; i++)
		others[i] = open_again(s);
	assert_int_equal(larder_shared_open(&one_more, larder_shared_fd(s)), -EAGAIN);
	assert_int_equal(larder_shared_close(others[40]), 0);
	others[40] = open_again(s);
	fill(others[61], 0, 0);
	for (unsigned i = 1; i < SHARED_SLOTS; i++)
		assert_int_equal(pin(others[i], 0), LARDER_INTACT);
	assert_int_equal(larder_shared_purge(s, 7, ALL), 0);
	for (unsigned i = 1; i < SHARED_SLOTS; i++) {
		assert_int_equal(unpin(others[i], 0, 0), 0);
		assert_int_equal(larder_shared_close(others[i]), 0);
	}
	assert_int_equal(larder_shared_purge(s, 7, ALL), UNIT);
	assert_int_equal(s->header->slots_used, s->bit);
	larder_shared_close(s);
}

/* ---- what is no shared range ---- */

/* A sealed file that begins with this header. */
static int make_file(const struct shared_geometry *g, uint64_t bytes, int seals)
{
	int fd = memfd_create("test", MFD_ALLOW_SEALING | MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
	if (g)
		assert_int_equal(pwrite(fd, g, sizeof(*g), 0), sizeof(*g));
	assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
	return fd;
}

static void assert_open_says(int fd, int expected)
{
	larder_shared *s = NULL;
	int result = larder_shared_open(&s, fd);

	close(fd);
	assert_int_equal(result, expected);
	if (!result)
		larder_shared_close(s);
}

static void what_is_no_shared_range_is_refused(void **state)
{
	enum { SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL };
	larder_shared *s = create();
	struct shared_geometry good = s->header->geometry, bad;
	uint64_t bytes = s->mapped_bytes;
	int ends[2];

	(void)state;
	assert_int_equal(pipe(ends), 0);
	close(ends[1]);
	assert_open_says(ends[0], -EINVAL);
	assert_open_says(ends[0], -EINVAL); /* closed */
	assert_open_says(-1, -EINVAL);
	assert_open_says(open("/dev/null", O_RDWR), -EINVAL);
	assert_open_says(make_file(&good, bytes, SEALS), 0);
	assert_open_says(make_file(NULL, bytes, SEALS), -EINVAL);
	assert_open_says(make_file(&good, bytes, 0), -EINVAL); /* not sealed: it could shrink */
	assert_open_says(make_file(&good, bytes - 1, SEALS), -EINVAL);
	assert_open_says(make_file(&good, bytes + UNIT, SEALS), -EINVAL);
	assert_open_says(make_file(NULL, 0, SEALS), -EINVAL);
	assert_open_says(make_file(&good, 100, SEALS), -EINVAL); /* truncated within the header */
	assert_open_says(make_file(&good, bytes, SEALS | F_SEAL_WRITE), -EACCES);
	bad = good, bad.magic++;
	assert_open_says(make_file(&bad, bytes, SEALS), -EINVAL);
	bad = good, bad.version++;
	assert_open_says(make_file(&bad, bytes, SEALS), -EINVAL);
	bad = good, bad.slots = 61;
	assert_open_says(make_file(&bad, bytes, SEALS), -EINVAL);
	bad = good, bad.unit_bytes = 0;
	assert_open_says(make_file(&bad, bytes, SEALS), -EINVAL);
	bad = good, bad.unit_bytes = UNIT + 1;
	assert_open_says(make_file(&bad, bytes, SEALS), -EINVAL);
	bad = good, bad.units = UINT64_MAX / UNIT + UNITS + 1;
	assert_open_says(make_file(&bad, bytes, SEALS), -EINVAL);
	bad = good, bad.units = 0;
	assert_open_says(make_file(&bad, bytes, SEALS), -EINVAL);
	bad = good, bad.data_offset = 0;
	assert_open_says(make_file(&bad, bytes, SEALS), -EINVAL);
	larder_shared_close(s);
}

/* ---- misuse: an error code, and in debug builds the end of the program ---- */

static int create_empty(larder_shared *s)
{
	return larder_shared_create(&s, 0, UNIT);
}

static int create_odd_unit(larder_shared *s)
{
	return larder_shared_create(&s, ALL, UNIT + 4096);
}

static int create_small_unit(larder_shared *s)
{
	return larder_shared_create(&s, ALL, 2048);
}

static int create_nowhere(larder_shared *s)
{
	(void)s;
	return larder_shared_create(NULL, ALL, UNIT);
}

static int open_nowhere(larder_shared *s)
{
	return larder_shared_open(NULL, s->fd);
}

static int pin_empty(larder_shared *s)
{
	return larder_shared_pin(s, 0, 0, 0, NULL);
}

static int pin_unaligned(larder_shared *s)
{
	return larder_shared_pin(s, 4096, UNIT, 0, NULL);
}

static int pin_part(larder_shared *s)
{
	return larder_shared_pin(s, 0, UNIT / 2, 0, NULL);
}

static int pin_beyond(larder_shared *s)
{
	return larder_shared_pin(s, ALL - UNIT, 2 * UNIT, 0, NULL);
}

static int pin_overflow(larder_shared *s)
{
	return larder_shared_pin(s, UNIT, (size_t)-UNIT, 0, NULL);
}

static int pin_unknown_flag(larder_shared *s)
{
	return larder_shared_pin(s, 0, UNIT, 2, NULL);
}

static int pin_nothing(larder_shared *s)
{
	(void)s;
	return larder_shared_pin(NULL, 0, UNIT, 0, NULL);
}

static int refilled_unaligned(larder_shared *s)
{
	return larder_shared_refilled(s, 1, UNIT);
}

static int refilled_unpinned(larder_shared *s)
{
	return larder_shared_refilled(s, 0, UNIT);
}

static int refilled_partly(larder_shared *s)
{
	CHECK(pin(s, 0) == LARDER_PURGED);
	return larder_shared_refilled(s, 0, 2 * UNIT);
}

static int unpin_unaligned(larder_shared *s)
{
	return larder_shared_unpin(s, 1, UNIT, 0);
}

static int unpin_priority_high(larder_shared *s)
{
	return unpin(s, 0, 8);
}

static int unpin_priority_low(larder_shared *s)
{
	return unpin(s, 0, -2);
}

static int unpin_partly(larder_shared *s)
{
	CHECK(pin(s, 0) == LARDER_PURGED);
	return larder_shared_unpin(s, 0, 2 * UNIT, 0);
}

static int purge_priority_high(larder_shared *s)
{
	return (int)larder_shared_purge(s, 8, ALL);
}

static int stats_nowhere(larder_shared *s)
{
	return larder_shared_get_stats(s, NULL);
}

static int close_pinned(larder_shared *s)
{
	CHECK(pin(s, 0) == LARDER_PURGED);
	return larder_shared_close(s);
}

static int close_nothing(larder_shared *s)
{
	(void)s;
	return larder_shared_close(NULL);
}

static const struct {
	const char *name;
	int (*call)(larder_shared *);
	int expected;
} misuses[] = {
	{ "create_empty", create_empty, -EINVAL },
	{ "create_odd_unit", create_odd_unit, -EINVAL },
	{ "create_small_unit", create_small_unit, -EINVAL },
	{ "create_nowhere", create_nowhere, -EINVAL },
	{ "open_nowhere", open_nowhere, -EINVAL },
	{ "pin_empty", pin_empty, -EINVAL },
	{ "pin_unaligned", pin_unaligned, -EINVAL },
	{ "pin_part", pin_part, -EINVAL },
	{ "pin_beyond", pin_beyond, -EINVAL },
	{ "pin_overflow", pin_overflow, -EINVAL },
	{ "pin_unknown_flag", pin_unknown_flag, -EINVAL },
	{ "pin_nothing", pin_nothing, -EINVAL },
	{ "refilled_unaligned", refilled_unaligned, -EINVAL },
	{ "refilled_unpinned", refilled_unpinned, -ENOENT },
	{ "refilled_partly", refilled_partly, -ENOENT },
	{ "unpin_unaligned", unpin_unaligned, -EINVAL },
	{ "unpin_priority_high", unpin_priority_high, -EINVAL },
	{ "unpin_priority_low", unpin_priority_low, -EINVAL },
	{ "unpin_partly", unpin_partly, -ENOENT },
	{ "purge_priority_high", purge_priority_high, -EINVAL },
	{ "stats_nowhere", stats_nowhere, -EINVAL },
	{ "close_pinned", close_pinned, -EBUSY },
	{ "close_nothing", close_nothing, -EINVAL },
};

static int (*misuse_call)(larder_shared *);
static int misuse_expected;

static int do_misuse(larder_shared *s)
{
	uint64_t words[UNITS];
	int result;

#ifdef LARDER_DEBUG
	struct rlimit no_core = { 0, 0 };

	setrlimit(RLIMIT_CORE, &no_core);
	close(2); /* the message is expected */
#endif
	result = misuse_call(s);
	if (result != misuse_expected)
		return 1;
	for (unsigned i = 0; i < UNITS; i++)
		words[i] = atomic_load(&s->header->unit[i].word);
	for (unsigned i = 1; i < UNITS; i++) /* unit 0 may have been pinned on purpose */
		if (words[i])
			return 2;
	return 0;
}

static void misuse_is_told_and_changes_nothing(void **state)
{
	larder_shared *s = create();

	(void)state;
	for (unsigned i = 0; i < sizeof(misuses) / sizeof(misuses[0]); i++) {
		int status;

		misuse_call = misuses[i].call;
		misuse_expected = misuses[i].expected;
		status = in_child(do_misuse, s);
#ifdef LARDER_DEBUG
		if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT)
			fail_msg("%s: status %#x", misuses[i].name, status);
#else
		if (status)
			fail_msg("%s: status %#x", misuses[i].name, status);
#endif
	}
	larder_shared_close(s);
}

static void impossible_sizes_are_refused(void **state)
{
	larder_shared *s;

	(void)state;
	assert_int_equal(larder_shared_create(&s, SIZE_MAX, 4096), -ENOMEM);
	assert_int_equal(larder_shared_create(&s, (size_t)1 << 62, (size_t)1 << 46), -ENOMEM);
}

/* ---- death ---- */

static enum shared_step deadly_step;

static void die_there(enum shared_step step)
{
	if (step == deadly_step)
		kill(getpid(), SIGKILL);
}

/* What children do until they die. Unit 0 is lost at first, unit 1 holds content of priority 0. */
static int fill_unit_0(larder_shared *s)
{
	shared_test_step = die_there;
	CHECK(pin(s, 0) == LARDER_PURGED);
	write_unit(s, 0, 77);
	CHECK(larder_shared_refilled(s, 0, UNIT) == 0);
	CHECK(unpin(s, 0, 2) == 0);
	return 0;
}

static int give_up_unit_0(larder_shared *s)
{
	shared_test_step = die_there;
	CHECK(pin(s, 0) == LARDER_PURGED);
	write_unit(s, 0, 77);
	CHECK(unpin(s, 0, 2) == 0);
	return 0;
}

static int purge_unit_1(larder_shared *s)
{
	shared_test_step = die_there;
	larder_shared_purge(s, 7, ALL);
	return 0;
}

static int close_range_again(larder_shared *s)
{
	shared_test_step = die_there;
	larder_shared_close(s);
	return 0;
}

static int die_holding_both(larder_shared *s)
{
	CHECK(pin(s, 0) == LARDER_PURGED);
	write_unit(s, 0, 77);
	words_of(s, 0)[WORDS / 2] = 0;
	CHECK(pin(s, 1) == LARDER_INTACT);
	kill(getpid(), SIGKILL);
	return 0;
}

/* Opens a range in which somebody has died: the recovery is what is to be interrupted. */
static void die_recovering(larder_shared *s)
{
	pid_t pid = fork();
	int status;

	assert_true(pid >= 0);
	if (pid == 0) {
		larder_shared *own;

		shared_test_step = die_there;
		CHECK(larder_shared_open(&own, larder_shared_fd(s)) == 0);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

/* A pin that must not hang. returns its result. */
static int pin_soon(larder_shared *s, uint64_t unit)
{
	uint64_t start = sys_now_ns();
	int result = pin(s, unit);

	assert_true(sys_now_ns() - start < 2000000000u);
	return result;
}

static void assert_lost(larder_shared *s, uint64_t unit)
{
	assert_int_equal(pin_soon(s, unit), LARDER_PURGED);
	assert_true(is_zero(s, unit));
	assert_int_equal(unpin(s, unit, 0), 0);
}

static void assert_intact(larder_shared *s, uint64_t unit, uint64_t value)
{
	assert_int_equal(pin_soon(s, unit), LARDER_INTACT);
	assert_true(holds(s, unit, value));
	assert_int_equal(unpin(s, unit, 0), 0);
}

/* Sweeps come every 100 ms. */
static void assert_only_we_are_left(larder_shared *s)
{
	uint64_t start = sys_now_ns();

	while (s->header->slots_used != s->bit) {
		assert_true(sys_now_ns() - start < 5000000000u);
		assert_int_equal(larder_shared_purge(s, -1, 1), 0);
		sys_sleep_ns(5000000);
	}
	for (unsigned i = 0; i < UNITS; i++)
		assert_int_equal(s->header->unit[i].word & SHARED_MASK, 0);
}

static const struct {
	enum shared_step step;
	int (*what)(larder_shared *);
	int unit_0_intact, unit_1_intact;
} deaths[] = {
	{ SHARED_STEP_FILL_BEGUN, fill_unit_0, 0, 1 },	  { SHARED_STEP_FILL_DONE, fill_unit_0, 0, 1 },
	{ SHARED_STEP_REFILLED, fill_unit_0, 1, 1 },	  { SHARED_STEP_RANKED, fill_unit_0, 1, 1 },
	{ SHARED_STEP_UNPINNED, fill_unit_0, 1, 1 },	  { SHARED_STEP_RANKED, give_up_unit_0, 0, 1 },
	{ SHARED_STEP_DROP_BEGUN, give_up_unit_0, 0, 1 }, { SHARED_STEP_PUNCHED, give_up_unit_0, 0, 1 },
	{ SHARED_STEP_PURGED, give_up_unit_0, 0, 1 },	  { SHARED_STEP_PURGE_BEGUN, purge_unit_1, 0, 0 },
	{ SHARED_STEP_PUNCHED, purge_unit_1, 0, 0 },	  { SHARED_STEP_PURGED, purge_unit_1, 0, 0 },
	{ SHARED_STEP_LEAVING, close_range_again, 0, 1 },
};

static void death_at_any_step_leaves_nothing_half_made(void **state)
{
	(void)state;
	for (unsigned i = 0; i < sizeof(deaths) / sizeof(deaths[0]); i++) {
		larder_shared *s = create();
		int status;

		fill(s, 1, 0);
		deadly_step = deaths[i].step;
		status = in_child(deaths[i].what, s);
		if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
			fail_msg("death %u: status %#x", i, status);
		if (deaths[i].unit_0_intact)
			assert_intact(s, 0, 77);
		else
			assert_lost(s, 0);
		if (deaths[i].unit_1_intact)
			assert_intact(s, 1, (uint64_t)1 << 32 | 1);
		else
			assert_lost(s, 1);
		assert_only_we_are_left(s);
		larder_shared_close(s);
	}
}

static void death_of_who_clears_up_is_cleared_up(void **state)
{
	static const enum shared_step steps[] = {
		SHARED_STEP_CLAIMED,	     SHARED_STEP_RECOVER_BEGUN, SHARED_STEP_RECOVER_UNIT,
		SHARED_STEP_RECOVER_PURGING, SHARED_STEP_PUNCHED,	SHARED_STEP_RECOVERED,
	};

	(void)state;
	for (unsigned i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
		larder_shared *s = create();

		fill(s, 1, 0);
		assert_true(WIFSIGNALED(in_child(die_holding_both, s)));
		deadly_step = steps[i];
		die_recovering(s);
		assert_lost(s, 0);
		assert_intact(s, 1, (uint64_t)1 << 32 | 1);
		assert_only_we_are_left(s);
		assert_int_equal(larder_shared_purge(s, 7, ALL), UNIT); /* the dead one's pin is gone */
		larder_shared_close(s);
	}
}

/* Start a child that fills unit 0, pins unit 1, does `then` and waits. */
static pid_t start_holder(larder_shared *s, void (*then)(void))
{
	int ends[2];
	pid_t pid;
	char c;

	assert_int_equal(pipe(ends), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		larder_shared *own;

		CHECK(larder_shared_open(&own, larder_shared_fd(s)) == 0);
		CHECK(pin(own, 0) == LARDER_PURGED);
		write_unit(own, 0, 77);
		CHECK(pin(own, 1) == LARDER_INTACT);
		then();
		CHECK(write(ends[1], "x", 1) == 1);
		for (;;)
			pause();
	}
	assert_int_equal(read(ends[0], &c, 1), 1);
	close(ends[0]);
	close(ends[1]);
	return pid;
}

static void end(pid_t pid)
{
	int status;

	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void do_nothing(void)
{
}

static void a_waiter_takes_over_from_the_dead(void **state)
{
	larder_shared *s = create();
	struct pinner p = { .s = s };
	pthread_t thread;
	pid_t pid;

	(void)state;
	fill(s, 1, 0);
	pid = start_holder(s, do_nothing);
	assert_int_equal(pthread_create(&thread, NULL, pin_unit_0, &p), 0);
	sys_sleep_ns(50000000);
	assert_int_equal(atomic_load(&p.done), 0);
	end(pid);
	pthread_join(thread, NULL);
	assert_int_equal(p.result, LARDER_PURGED);
	assert_true(is_zero(s, 0));
	assert_int_equal(unpin(s, 0, 0), 0);
	assert_int_equal(s->header->abandoned, 1);
	larder_shared_close(s);
}

static void nowait_learns_of_a_death_too(void **state)
{
	larder_shared *s = create();
	uint64_t start;
	int result;

	(void)state;
	fill(s, 1, 0);
	end(start_holder(s, do_nothing));
	start = sys_now_ns();
	while ((result = larder_shared_pin(s, 0, UNIT, LARDER_NOWAIT, NULL)) == -EAGAIN)
		assert_true(sys_now_ns() - start < 2000000000u);
	assert_int_equal(result, LARDER_PURGED);
	assert_int_equal(unpin(s, 0, 0), 0);
	larder_shared_close(s);
}

static void fork_and_wait(void)
{
	if (fork() == 0) {
		sys_sleep_ns(3000000000u);
		_exit(0);
	}
}

static void a_forked_child_does_not_keep_the_dead_alive(void **state)
{
	larder_shared *s = create();

	(void)state;
	fill(s, 1, 0);
	end(start_holder(s, fork_and_wait));
	assert_lost(s, 0);
	assert_only_we_are_left(s);
	larder_shared_close(s);
}

/* As daemons do. */
static int pipe_kept;

static void close_every_descriptor(void)
{
	for (int fd = 3; fd < 1000; fd++)
		if (fd != pipe_kept)
			close(fd);
}

static void a_program_that_closes_all_descriptors_keeps_its_slot(void **state)
{
	larder_shared *s = create();
	int ends[2];
	pid_t pid;

	(void)state;
	fill(s, 1, 0);
	assert_int_equal(pipe(ends), 0); /* the next pipe will have the numbers behind these */
	pipe_kept = ends[1] + 2;
	pid = start_holder(s, close_every_descriptor);
	for (int i = 0; i < 30; i++) {
		assert_int_equal(larder_shared_purge(s, 7, ALL), 0);
		assert_int_equal(larder_shared_pin(s, 0, UNIT, LARDER_NOWAIT, NULL), -EAGAIN);
		sys_sleep_ns(10000000);
	}
	end(pid);
	assert_lost(s, 0);
	assert_only_we_are_left(s);
	close(ends[0]);
	close(ends[1]);
	larder_shared_close(s);
}

/* ---- threads ---- */

enum { THREADS = 4 };

struct worker {
	larder_shared *s;
	unsigned number;
	uint64_t filled, intact, wrong;
};

static void *work(void *arg)
{
	struct worker *w = arg;

	for (unsigned turn = 0; turn < 4000; turn++) {
		uint64_t unit = (turn * 5 + w->number) % UNITS;
		int result = pin(w->s, unit);

		if (result == LARDER_PURGED) {
			w->filled++;
			w->wrong += !is_zero(w->s, unit);
			write_unit(w->s, unit, turn + 1);
			w->wrong += larder_shared_refilled(w->s, unit * UNIT, UNIT) != 0;
		} else {
			w->intact++;
			w->wrong += result != LARDER_INTACT || !holds(w->s, unit, words_of(w->s, unit)[0]) ||
				    words_of(w->s, unit)[0] == 0;
		}
		w->wrong += unpin(w->s, unit, (int)(turn % 8)) != 0;
		if (turn % 3 == 0)
			w->wrong += larder_shared_purge(w->s, 7, UNIT) < 0;
	}
	return NULL;
}

/* Two openings, two threads each. ThreadSanitizer checks that content is handed over properly. */
static void threads_share_openings(void **state)
{
	larder_shared *s = create(), *other = open_again(s);
	struct worker workers[THREADS];
	pthread_t threads[THREADS];
	uint64_t filled = 0, intact = 0;

	(void)state;
	for (unsigned i = 0; i < THREADS; i++) {
		workers[i] = (struct worker){ .s = i % 2 ? s : other, .number = i };
		assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
	}
	for (unsigned i = 0; i < THREADS; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(workers[i].wrong, 0);
		filled += workers[i].filled;
		intact += workers[i].intact;
	}
	assert_true(filled > 100);
	assert_true(intact > 100);
	assert_int_equal(s->header->waiters, 0);
	assert_int_equal(larder_shared_close(other), 0);
	assert_int_equal(larder_shared_close(s), 0);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_new_range_is_lost_and_zero),
		cmocka_unit_test(lost_says_which_units_are_to_be_made),
		cmocka_unit_test(pins_nest_and_keep_the_content),
		cmocka_unit_test(a_unit_not_refilled_stays_lost_and_is_zeroed),
		cmocka_unit_test(threads_and_processes_wait_for_who_fills),
		cmocka_unit_test(a_waiter_takes_over_from_who_gives_up),
		cmocka_unit_test(nowait_fails_and_changes_nothing),
		cmocka_unit_test(purge_goes_by_priority_then_by_age),
		cmocka_unit_test(purge_spares_higher_priorities_and_later_uses),
		cmocka_unit_test(a_purge_of_many_units_takes_exactly_the_oldest),
		cmocka_unit_test(purged_memory_is_given_back),
		cmocka_unit_test(the_process_purges_all_its_ranges_in_one_order),
		cmocka_unit_test(locked_memory_is_not_purged_but_never_left_half_made),
		cmocka_unit_test(statistics_count_by_priority),
		cmocka_unit_test(a_program_opens_what_it_inherits),
		cmocka_unit_test(a_forked_child_must_open_its_own),
		cmocka_unit_test(sixty_two_can_open_it),
		cmocka_unit_test(what_is_no_shared_range_is_refused),
		cmocka_unit_test(misuse_is_told_and_changes_nothing),
		cmocka_unit_test(impossible_sizes_are_refused),
		cmocka_unit_test(death_at_any_step_leaves_nothing_half_made),
		cmocka_unit_test(death_of_who_clears_up_is_cleared_up),
		cmocka_unit_test(a_waiter_takes_over_from_the_dead),
		cmocka_unit_test(nowait_learns_of_a_death_too),
		cmocka_unit_test(a_forked_child_does_not_keep_the_dead_alive),
		cmocka_unit_test(a_program_that_closes_all_descriptors_keeps_its_slot),
		cmocka_unit_test(threads_share_openings),
	};

	self = argv[0];
	if (argc == 3 && !strcmp(argv[1], "--second-program"))
		return second_program(atoi(argv[2]));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
