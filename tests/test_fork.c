/*
 * Fork: a child sees the memory of the fork, wherever it is, and both go on with it independently. Needs userfaultfd.
 *
 *   test_fork [--swap] [--encrypt]      with a disk
 */
#include "disk.h"
#include "service.h"
#include "uffd.h"

#include <jemalloc/jemalloc.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "pools.h"

enum { PAGES = 40 * PAGES_PER_MIB, SWAP_MIB = 64, CHILDREN = 200, GENERATIONS = 4, STREAMS = 50 };

static int swaps, encrypts;
static char *base;

/* Of four pages one does not compress; with a disk, three. */
static uint64_t word_at(size_t page, uint64_t generation, size_t i)
{
	return (page % 4 == 0) != swaps ? mix(page << 20 ^ generation << 44 ^ i) : word_of(page, generation, i);
}

static void fill(size_t page, uint64_t generation)
{
	for (size_t i = 0; i < WORDS; i++)
		((uint64_t *)(base + page * PAGE))[i] = word_at(page, generation, i);
}

/* The first page that is not of the generation that generation_of(page) says, or PAGES. */
static size_t wrong_page(uint64_t (*generation_of)(size_t page))
{
	for (size_t page = 0; page < PAGES; page++)
		for (size_t i = 0; i < WORDS; i++)
			if (((const volatile uint64_t *)(base + page * PAGE))[i] !=
			    word_at(page, generation_of(page), i))
				return page;
	return PAGES;
}

static uint64_t first_generation(size_t page)
{
	(void)page;
	return 1;
}

static uint64_t second_generation(size_t page)
{
	(void)page;
	return 2;
}

static void fill_all(uint64_t generation)
{
	for (size_t page = 0; page < PAGES; page++)
		fill(page, generation);
}

/* Twice: what a fork has left shared is made movable by the first. */
static void evict_everything(void)
{
	for (int i = 0; i < 3; i++)
		larder_reclaim(EVERYTHING);
}

static struct larder_stats stats_now(void)
{
	struct larder_stats s = { 0 };

	larder_get_stats(&s);
	return s;
}

/* In a child: say what is not so, and end. */
#define child_expect(condition)                                                                                        \
	do {                                                                                                           \
		if (!(condition)) {                                                                                    \
			fprintf(stderr, "child: line %d: not so: %s\n", __LINE__, #condition);                         \
			_exit(1);                                                                                      \
		}                                                                                                      \
	} while (0)

static void assert_ends_well(pid_t pid)
{
	int status = -1;

	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

/* ---- tests ---- */

static void a_child_sees_evicted_memory_and_reclaims_by_itself(void **state)
{
	pid_t pid;

	(void)state;
	fill_all(1);
	evict_everything();
	pid = fork();
	if (pid == 0) {
		struct larder_stats before = stats_now();

		child_expect(before.pid == getpid() && before.forks == 0);
		child_expect(before.pages[LARDER_PAGES_STORED] > PAGES / 2);
		child_expect(!swaps || before.disk.limit_bytes == (uint64_t)SWAP_MIB * MIB);
		child_expect(wrong_page(first_generation) == PAGES);
		evict_everything();
		child_expect(stats_now().evictions > PAGES / 2);
		child_expect(stats_now().pages[LARDER_PAGES_STORED] > PAGES / 2);
		child_expect(wrong_page(first_generation) == PAGES);
		fill_all(2);
		evict_everything();
		child_expect(wrong_page(second_generation) == PAGES);
		process_check();
		_exit(0);
	}
	assert_int_equal(wrong_page(first_generation), PAGES);
	evict_everything();
	assert_ends_well(pid);
	assert_int_equal(wrong_page(first_generation), PAGES);
}

static void what_the_parent_changes_does_not_reach_the_child(void **state)
{
	int ends[2];
	pid_t pid;
	char go = 0;

	(void)state;
	assert_int_equal(pipe(ends), 0);
	fill_all(1);
	evict_everything();
	pid = fork();
	if (pid == 0) {
		child_expect(read(ends[0], &go, 1) == 1);
		child_expect(wrong_page(first_generation) == PAGES);
		_exit(0);
	}
	for (int i = 0; i < 3; i++) { /* what was on disk is there no more, and its place may be used again */
		fill_all(2);
		evict_everything();
	}
	assert_int_equal(write(ends[1], "g", 1), 1);
	assert_int_equal(wrong_page(second_generation), PAGES);
	assert_ends_well(pid);
	close(ends[0]);
	close(ends[1]);
}

static uint64_t oldest;

/* In generation g every page whose number is g modulo GENERATIONS was written to. */
static uint64_t mixed_generation(size_t page)
{
	return page % GENERATIONS <= oldest ? 10 + page % GENERATIONS : 1;
}

/* Each generation changes its share, forks the next one, and lives on beside it. */
__attribute__((noreturn)) static void found_a_family(void)
{
	pid_t pid = 0;
	int status = 0;

	for (oldest = 0; pid == 0; oldest++) {
		for (size_t page = oldest; page < PAGES; page += GENERATIONS)
			fill(page, 10 + oldest);
		evict_everything();
		pid = oldest + 1 < GENERATIONS ? fork() : -1;
		if (pid)
			break;
	}
	child_expect(wrong_page(mixed_generation) == PAGES);
	evict_everything();
	child_expect(wrong_page(mixed_generation) == PAGES);
	if (pid > 0)
		child_expect(waitpid(pid, &status, 0) == pid && status == 0);
	child_expect(wrong_page(mixed_generation) == PAGES);
	_exit(0);
}

static void children_have_children(void **state)
{
	pid_t pid;

	(void)state;
	fill_all(1);
	evict_everything();
	pid = fork();
	if (pid == 0)
		found_a_family();
	assert_ends_well(pid);
	assert_int_equal(wrong_page(first_generation), PAGES);
}

/* What a daemon does: its parent ends at once. */
static void a_child_outlives_its_parent(void **state)
{
	int ends[2];
	char all_is_well = 0;
	pid_t pid;

	(void)state;
	assert_int_equal(pipe(ends), 0);
	fill_all(1);
	evict_everything();
	pid = fork();
	if (pid == 0) {
		pid_t parent = getpid();

		if (fork() != 0)
			_exit(0);
		while (getppid() == parent)
			sched_yield();
		fill(0, 1);
		evict_everything();
		child_expect(wrong_page(first_generation) == PAGES);
		child_expect(write(ends[1], "y", 1) == 1);
		_exit(0);
	}
	close(ends[1]);
	assert_ends_well(pid);
	assert_int_equal(read(ends[0], &all_is_well, 1), 1);
	close(ends[0]);
}

static void hundreds_of_children_come_and_go(void **state)
{
	pid_t pids[CHILDREN];

	(void)state;
	fill_all(1);
	evict_everything();
	for (int i = 0; i < CHILDREN; i++) {
		pids[i] = fork();
		if (pids[i] == 0) {
			size_t page = (size_t)i * 7 % PAGES;

			child_expect(*(volatile uint64_t *)(base + page * PAGE) == word_at(page, 1, 0));
			_exit(0);
		}
		if (i >= 20) /* so many at once */
			assert_ends_well(pids[i - 20]);
	}
	for (int i = CHILDREN - 20; i < CHILDREN; i++)
		assert_ends_well(pids[i]);
	assert_int_equal(wrong_page(first_generation), PAGES);
}

/* A disk that does not answer for a while refuses as well, but not each time. */
static int everything_fits_on_disk(void)
{
	for (int tries = 0; tries < 5; tries++) {
		uint64_t refused = stats_now().disk.refused;

		fill_all(1);
		evict_everything();
		if (stats_now().disk.refused == refused)
			return 1;
		sleep(1);
	}
	return 0;
}

/* Killed while it holds half the disk: the parent, which needed other places for what it wrote since, has all of it
 * again. */
static void what_a_killed_child_held_on_disk_is_free_again(void **state)
{
	pid_t pid;

	(void)state;
	if (!swaps)
		skip();
	for (int round = 0; round < 6; round++) { /* each time another part of the disk would be lost for ever */
		fill_all(2 + (uint64_t)round);
		evict_everything();
		pid = fork();
		if (pid == 0)
			for (;;)
				pause();
		fill_all(1);
		evict_everything();
		assert_int_equal(wrong_page(first_generation), PAGES);
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, NULL, 0), pid);
		usleep(50000); /* the kernel takes rings and descriptors apart in the background */
		assert_true(everything_fits_on_disk());
		assert_true(stats_now().pages[LARDER_PAGES_STORED] > PAGES / 4 * 3);
	}
	assert_int_equal(wrong_page(first_generation), PAGES);
}

/* What jemalloc had before it was hooked: small objects lie there as long as there is room. Returns 0 if malloc is
 * another's, as under a sanitizer. */
static int use_up_what_is_not_managed(void)
{
	static void **used_up;					     /* a list of what is kept */
	enum { STREAM_BYTES = 552, MOST = 16 * MIB / STREAM_BYTES }; /* with its lock */

	for (int i = 0; i < MOST; i++) {
		void **p = malloc(STREAM_BYTES);

		*p = used_up;
		used_up = p;
		if (region_contains(&process_service()->memory.region, p))
			return 1;
	}
	return 0;
}

static int is_away(const void *p)
{
	const struct larder_region *r = &process_service()->memory.region;

	return region_contains(r, p) && page_state(page_load(&r->pages[region_index(r, p)])) == PAGE_STORED;
}

static void streams_in_evicted_memory_are_the_childs_too(void **state)
{
	FILE *streams[STREAMS];
	pid_t pid;

	(void)state;
	if (!use_up_what_is_not_managed())
		skip();
	for (int i = 0; i < STREAMS; i++) {
		streams[i] = fopen("/dev/null", "w");
		assert_non_null(streams[i]);
		fprintf(streams[i], "%d", i);
	}
	evict_everything();
	assert_true(is_away(streams[STREAMS / 2]));
	pid = fork();
	if (pid == 0) {
		for (int i = 0; i < STREAMS; i++)
			child_expect(fprintf(streams[i], "%d", i) > 0 && fclose(streams[i]) == 0);
		_exit(0);
	}
	assert_ends_well(pid);
	for (int i = 0; i < STREAMS; i++)
		fclose(streams[i]);
}

/* Then the disk cannot be lent, and pages come back from it first. */
static void a_full_descriptor_table_does_not_matter(void **state)
{
	struct rlimit limit, none;
	pid_t pid;

	(void)state;
	fill_all(1);
	evict_everything();
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	none = (struct rlimit){ 0, limit.rlim_max };
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	pid = fork();
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	if (pid == 0) {
		child_expect(wrong_page(first_generation) == PAGES);
		_exit(0);
	}
	assert_ends_well(pid);
	assert_int_equal(wrong_page(first_generation), PAGES);
}

/* From now on no userfaultfd can be had. */
static int forbid_userfaultfd(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)UFFDIO_API, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { .len = sizeof(filter) / sizeof(filter[0]), .filter = filter };

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static void a_child_that_can_have_no_service_has_its_memory_all_the_same(void **state)
{
	pid_t pid;

	(void)state;
	fill_all(1);
	evict_everything();
	pid = fork();
	if (pid == 0) {
		int status = -1;

		child_expect(forbid_userfaultfd() == 0);
		evict_everything();
		pid = fork();
		if (pid == 0) {
			struct larder_stats s;
			void *more;

			child_expect(larder_get_stats(&s) == -ENOTCONN);
			child_expect(wrong_page(first_generation) == PAGES);
			fill_all(2);
			more = malloc(8 << 20);
			memset(more, 1, 8 << 20);
			free(more);
			child_expect(wrong_page(second_generation) == PAGES);
			pid = fork(); /* and so does its child */
			if (pid == 0)
				_exit(wrong_page(second_generation) != PAGES);
			child_expect(waitpid(pid, &status, 0) == pid && status == 0);
			_exit(0);
		}
		child_expect(waitpid(pid, &status, 0) == pid && status == 0);
		child_expect(wrong_page(first_generation) == PAGES);
		_exit(0);
	}
	assert_ends_well(pid);
}

static int start(void **state)
{
	struct larder_options o = { .flags = LARDER_IGNORE_SYSTEM };
	int err;

	(void)state;
	if (swaps) {
		o.swap_dir = swap_dir();
		o.swap_bytes = (uint64_t)SWAP_MIB * MIB;
		o.limit_bytes = (uint64_t)16 * MIB; /* what is compressed in RAM may cost a quarter */
		o.flags |= encrypts ? LARDER_SWAP_ENCRYPT : 0;
	}
	err = start_process((struct process_setup){ .options = &o });
	if (!err)
		base = mallocx((size_t)PAGES * PAGE, MALLOCX_ALIGN(PAGE));
	return err;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_child_sees_evicted_memory_and_reclaims_by_itself),
		cmocka_unit_test(what_the_parent_changes_does_not_reach_the_child),
		cmocka_unit_test(children_have_children),
		cmocka_unit_test(a_child_outlives_its_parent),
		cmocka_unit_test(hundreds_of_children_come_and_go),
		cmocka_unit_test(what_a_killed_child_held_on_disk_is_free_again),
		cmocka_unit_test(streams_in_evicted_memory_are_the_childs_too),
		cmocka_unit_test(a_full_descriptor_table_does_not_matter),
		cmocka_unit_test(a_child_that_can_have_no_service_has_its_memory_all_the_same),
	};

	for (int i = 1; i < argc; i++) {
		swaps |= !strcmp(argv[i], "--swap");
		encrypts |= !strcmp(argv[i], "--encrypt");
	}
	return cmocka_run_group_tests_name(swaps ? "fork, with a disk" : "fork", tests, start, check_table);
}
