/*
 * The whole service in one process: memory from hooked jemalloc arenas, evicted on request at the worst moment. Each
 * test is named for the claim that it proves. Needs userfaultfd.
 */
#include "mix.h"
#include "sys.h"

#include <fcntl.h>
#include <jemalloc/jemalloc.h>
#include <liburing.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fixture.h"

enum { PAGE = 4096, PAGES = 512 };

/* The lz4 tier, with errors on demand. */
static struct {
	_Atomic int put_error, get_error;
} inject;

static int faulty_put(void *backend, const struct larder_object *object, uint64_t *handle)
{
	int err = atomic_load(&inject.put_error);

	return err ? err : larder_backend_lz4.put(backend, object, handle);
}

static int faulty_get(void *backend, void *scratch, uint64_t handle, void *page)
{
	int err = atomic_load(&inject.get_error);

	return err ? err : larder_backend_lz4.get(backend, scratch, handle, page);
}

static struct larder_backend_ops faulty;

static int start(void **state)
{
	static const struct larder_backend_ops *const tiers[] = { &faulty };

	(void)state;
	faulty = larder_backend_lz4;
	faulty.put = faulty_put;
	faulty.get = faulty_get;
	return start_process((struct process_setup){ .tiers = tiers, .ntiers = 1 });
}

/* Word i of a buffer: text-like, with pages in between that are same-filled (every 5th) or incompressible (every 7th).
 */
static uint64_t word_at(size_t i)
{
	size_t page = i / 512;

	if (page % 5 == 4)
		return page * 0x0101010101010101u;
	if (page % 7 == 6)
		return mix(i);
	return i % 16 ? 0x2022656d616e2200u + i % 16 : mix(i);
}

/*
 * At least 2 MiB, because up to that much of jemalloc's first arena dates from before it was hooked, and is not
 * managed.
 */
static uint64_t *buffer_new(size_t pages)
{
	uint64_t *p = mallocx((pages < PAGES ? PAGES : pages) * PAGE, MALLOCX_ALIGN(PAGE));

	assert_non_null(p);
	for (size_t i = 0; i < pages * 512; i++)
		p[i] = word_at(i);
	return p;
}

static void buffer_verify(const uint64_t *p, size_t pages)
{
	for (size_t i = 0; i < pages * 512; i++)
		if (p[i] != word_at(i))
			fail_msg("word %zu of page %zu is %016lx, not %016lx", i % 512, i / 512, p[i], word_at(i));
}

static void buffer_free(uint64_t *p)
{
	dallocx(p, 0);
}

static int is_present(const void *p)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t entry = 0;

	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &entry, 8, (off_t)((uintptr_t)p / PAGE * 8)), 8);
	close(fd);
	return entry >> 63;
}

static size_t present_pages(const void *p, size_t pages)
{
	size_t n = 0;

	for (size_t i = 0; i < pages; i++)
		n += (size_t)is_present((const char *)p + i * PAGE);
	return n;
}

/* More than once: what the kernel has in hand just now (a huge page that it cannot split yet, say) can leave later. */
static void evict_everything(void)
{
	for (int i = 0; i < 3; i++)
		assert_true(larder_reclaim((uint64_t)1 << 40) >= 0);
}

static void evicted_content_comes_back(void **state)
{
	uint64_t *p = buffer_new(PAGES);

	(void)state;
	for (int round = 0; round < 3; round++) {
		evict_everything();
		assert_true(present_pages(p, PAGES) < PAGES / 5);
		buffer_verify(p, PAGES);
		assert_int_equal(present_pages(p, PAGES), PAGES);
	}
	buffer_free(p);
}

static void same_filled_pages_take_no_space(void **state)
{
	char *p = mallocx(PAGES * PAGE, MALLOCX_ALIGN(PAGE));
	struct larder_stats before, after;

	(void)state;
	memset(p, 0x5a, PAGES * PAGE);
	before = now();
	evict_everything();
	after = now();
	assert_true(after.same_filled - before.same_filled >= PAGES);
	assert_true(after.pages[LARDER_PAGES_SAME] >= PAGES);
	for (size_t i = 0; i < PAGES * PAGE; i++)
		if (p[i] != 0x5a)
			fail_msg("byte %zu is %02x", i, p[i]);
	dallocx(p, 0);
}

static void writes_to_evicted_pages_are_kept(void **state)
{
	uint64_t *p = buffer_new(PAGES);

	(void)state;
	evict_everything();
	for (size_t page = 0; page < PAGES; page++)
		p[page * 512 + 7] = ~word_at(page * 512 + 7);
	evict_everything();
	for (size_t page = 0; page < PAGES; page++)
		p[page * 512 + 7] = ~p[page * 512 + 7];
	buffer_verify(p, PAGES);
	buffer_free(p);
}

static void system_calls_reach_evicted_memory(void **state)
{
	uint64_t *p = buffer_new(16), *q = buffer_new(16);
	int fds[2];

	(void)state;
	assert_int_equal(pipe(fds), 0);
	evict_everything();
	assert_false(is_present(p));
	assert_int_equal(write(fds[1], p, 8 * PAGE), 8 * PAGE); /* the kernel reads evicted memory */
	memset(q, 0, 8 * PAGE);
	evict_everything();
	assert_int_equal(read(fds[0], q, 8 * PAGE), 8 * PAGE); /* and writes it */
	buffer_verify(p, 16);
	buffer_verify(q, 16);
	close(fds[0]);
	close(fds[1]);
	buffer_free(p);
	buffer_free(q);
}

struct locked {
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	int value;
};

static void *set_value(void *arg)
{
	struct locked *l = arg;

	pthread_mutex_lock(&l->mutex);
	l->value = 42;
	pthread_cond_signal(&l->changed);
	pthread_mutex_unlock(&l->mutex);
	return NULL;
}

static void futexes_in_evicted_memory_work(void **state)
{
	struct locked *l = mallocx(PAGES * PAGE, MALLOCX_ALIGN(PAGE) | MALLOCX_ZERO);
	pthread_t thread;

	(void)state;
	pthread_mutex_init(&l->mutex, NULL);
	pthread_cond_init(&l->changed, NULL);
	for (int i = 0; i < 20; i++) {
		l->value = 0;
		pthread_create(&thread, NULL, set_value, l);
		evict_everything();
		pthread_mutex_lock(&l->mutex);
		while (l->value != 42)
			pthread_cond_wait(&l->changed, &l->mutex);
		pthread_mutex_unlock(&l->mutex);
		pthread_join(thread, NULL);
	}
	dallocx(l, 0);
}

static void *verify_buffer(void *arg)
{
	buffer_verify(arg, PAGES);
	return NULL;
}

static void threads_that_fault_on_the_same_pages_all_go_on(void **state)
{
	uint64_t *p = buffer_new(PAGES);
	pthread_t threads[8];

	(void)state;
	for (int round = 0; round < 10; round++) {
		evict_everything();
		for (int i = 0; i < 8; i++)
			pthread_create(&threads[i], NULL, verify_buffer, p);
		for (int i = 0; i < 8; i++)
			pthread_join(threads[i], NULL);
	}
	buffer_free(p);
}

static _Atomic int stop_evicting;

static void *keep_evicting(void *arg)
{
	(void)arg;
	while (!atomic_load(&stop_evicting))
		evict_everything();
	return NULL;
}

static void pages_are_whole_while_eviction_races_with_writers(void **state)
{
	uint64_t *p = buffer_new(64);
	pthread_t thread;

	(void)state;
	atomic_store(&stop_evicting, 0);
	pthread_create(&thread, NULL, keep_evicting, NULL);
	for (uint64_t round = 1; round < 300; round++) {
		for (size_t page = 0; page < 64; page++)
			p[page * 512 + round % 512] = round * 64 + page;
		for (size_t page = 0; page < 64; page++)
			if (p[page * 512 + round % 512] != round * 64 + page)
				fail_msg("round %lu: page %zu lost a write", round, page);
	}
	atomic_store(&stop_evicting, 1);
	pthread_join(thread, NULL);
	buffer_free(p);
}

static void sequential_faults_bring_neighbours(void **state)
{
	uint64_t *p = buffer_new(PAGES);
	struct larder_stats before, after;

	(void)state;
	evict_everything();
	before = now();
	buffer_verify(p, PAGES);
	after = now();
	assert_true(after.fault_around - before.fault_around > PAGES / 2);
	assert_true(after.faults - before.faults < PAGES / 4);
	buffer_free(p);
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* Of the faults between two statistics; and how many were counted. */
static uint64_t median_fault_ns(const struct larder_stats *before, const struct larder_stats *after, uint64_t *all)
{
	uint64_t n = 0;
	unsigned bucket;

	*all = 0;
	for (bucket = 0; bucket < LARDER_LATENCY_BUCKETS; bucket++)
		*all += after->fault_latency[bucket] - before->fault_latency[bucket];
	for (bucket = 0; bucket < LARDER_LATENCY_BUCKETS && n <= *all / 2; bucket++)
		n += after->fault_latency[bucket] - before->fault_latency[bucket];
	return larder_latency_floor_ns(bucket - 1);
}

/* A handler may have to wait for the program as soon as it has served it: that is not what the fault took. */
static void what_a_fault_took_is_no_more_than_the_program_waited(void **state)
{
	enum { TOUCHED = 4096, STEP = 1237, THINK_NS = 20000 };
	static uint64_t waited[TOUCHED];
	uint64_t *p = buffer_new(TOUCHED), counted, median;
	struct larder_stats before, after;

	(void)state;
	evict_everything();
	before = now();
	for (size_t i = 0; i < TOUCHED; i++) {
		uint64_t start = sys_now_ns(), end;

		((volatile uint64_t *)p)[i * STEP % TOUCHED * 512];
		end = sys_now_ns();
		waited[i] = end - start;
		while (sys_now_ns() - end < THINK_NS)
			;
	}
	after = now();
	qsort(waited, TOUCHED, sizeof(waited[0]), compare);
	median = median_fault_ns(&before, &after, &counted);
	assert_true(counted > TOUCHED / 2 && counted < TOUCHED + TOUCHED / 8);
	if (median > waited[TOUCHED / 2])
		fail_msg("%lu ns a fault, but the program waited for %lu", median, waited[TOUCHED / 2]);
	buffer_free(p);
}

static void discarded_memory_reads_zero(void **state)
{
	uint64_t *p = buffer_new(PAGES);
	int result = -1;

	(void)state;
	evict_everything();
	p[0] = word_at(0); /* one page resident, the rest not */
	assert_int_equal(process_advise(p, PAGES / 2 * PAGE, MADV_DONTNEED, &result), 1);
	assert_int_equal(result, 0);
	for (size_t i = 0; i < PAGES / 2 * 512; i++)
		if (p[i])
			fail_msg("word %zu is %016lx after MADV_DONTNEED", i, p[i]);
	for (size_t i = PAGES / 2 * 512; i < PAGES * 512; i++)
		assert_int_equal(p[i], word_at(i));
	buffer_free(p);
}

static void memory_thrown_away_behind_our_back_reads_zero(void **state)
{
	uint64_t *p = buffer_new(8);

	(void)state;
	evict_everything();
	buffer_verify(p, 8);
	assert_int_equal(syscall(SYS_madvise, p, 4 * PAGE, MADV_DONTNEED), 0);
	for (size_t i = 0; i < 4 * 512; i++)
		assert_int_equal(p[i], 0);
	assert_int_equal(syscall(SYS_madvise, p, 4 * PAGE, MADV_DONTNEED), 0);
	evict_everything(); /* and eviction copes with the holes */
	for (size_t i = 0; i < 4 * 512; i++)
		assert_int_equal(p[i], 0);
	assert_int_equal(p[4 * 512], word_at(4 * 512));
	buffer_free(p);
}

static void freed_memory_is_zero_when_it_is_used_again(void **state)
{
	(void)state;
	for (int round = 0; round < 8; round++) {
		uint64_t *p = buffer_new(PAGES * 8), *z;

		if (round % 2)
			evict_everything();
		buffer_free(p);
		mallctl("arena.4096.purge", NULL, NULL, NULL, 0);
		z = mallocx(PAGES * 8 * PAGE, MALLOCX_ZERO);
		for (size_t i = 0; i < PAGES * 8 * 512; i++)
			if (z[i])
				fail_msg("round %d: word %zu of zeroed memory is %016lx", round, i, z[i]);
		dallocx(z, 0);
	}
}

static void memory_pinned_for_dma_stays_in_place(void **state)
{
	uint64_t *p = buffer_new(16);
	struct iovec iov = { p, 16 * PAGE };
	struct io_uring ring;
	struct io_uring_cqe *cqe;
	struct io_uring_sqe *sqe;
	struct larder_stats before = now();
	int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);

	(void)state;
	if (io_uring_queue_init(4, &ring, 0) < 0)
		skip();
	assert_int_equal(io_uring_register_buffers(&ring, &iov, 1), 0);
	evict_everything();
	assert_int_equal(present_pages(p, 16), 16);
	assert_true(now().move_busy > before.move_busy);
	sqe = io_uring_get_sqe(&ring);
	io_uring_prep_read_fixed(sqe, fd, p, 8 * PAGE, 0, 0);
	io_uring_submit(&ring);
	assert_int_equal(io_uring_wait_cqe(&ring, &cqe), 0);
	assert_in_range(cqe->res, PAGE, 8 * PAGE); /* the kernel may stop early, between pages */
	for (size_t i = 0; i < (size_t)cqe->res / 8; i++)
		assert_int_equal(p[i], 0);
	for (size_t i = (size_t)cqe->res / 8; i < 16 * 512; i++)
		assert_int_equal(p[i], word_at(i));
	io_uring_queue_exit(&ring);
	close(fd);
	buffer_free(p);
}

/* The kernel keeps references on pages that were pinned or locked for a while (EBUSY), and so does our credit. */
static void evict_in_time(const void *p, size_t pages)
{
	for (int i = 0; i < 100 && present_pages(p, pages) >= pages / 2; i++) {
		usleep(10000);
		evict_everything();
	}
	assert_true(present_pages(p, pages) < pages / 2);
}

/* (Not by mlock(), which AddressSanitizer turns into nothing.) */
static void locked_memory_stays_in_place(void **state)
{
	uint64_t *p = buffer_new(16);

	(void)state;
	evict_in_time(p, 16);
	assert_int_equal(syscall(SYS_mlock, p, 16 * PAGE), 0);
	evict_everything();
	assert_int_equal(present_pages(p, 16), 16);
	buffer_verify(p, 16);
	assert_int_equal(syscall(SYS_munlock, p, 16 * PAGE), 0);
	evict_in_time(p, 16);
	buffer_verify(p, 16);
	buffer_free(p);
}

static void read_only_memory_survives(void **state)
{
	uint64_t *p = buffer_new(16);

	(void)state;
	evict_everything();
	assert_int_equal(mprotect(p, 16 * PAGE, PROT_READ), 0);
	buffer_verify(p, 16);
	evict_everything();
	buffer_verify(p, 16);
	assert_int_equal(mprotect(p, 16 * PAGE, PROT_READ | PROT_WRITE), 0);
	evict_everything();
	buffer_verify(p, 16);
	buffer_free(p);
}

static int exit_status(pid_t pid)
{
	int status = -1;

	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

/* In a child: the contents are there, can be changed, and memory can be allocated and freed. */
static void child_checks(uint64_t *p)
{
	for (size_t i = 0; i < PAGES * 512; i++)
		if (p[i] != word_at(i)) {
			fprintf(stderr, "child: word %zu of page %zu is %016lx, not %016lx\n", i % 512, i / 512, p[i],
				word_at(i));
			_exit(1);
		}
	for (size_t i = 0; i < PAGES * 512; i += 512)
		p[i] = 0;
	for (int i = 0; i < 100; i++)
		dallocx(mallocx(1 << 20, MALLOCX_ZERO), 0);
	dallocx(p, 0);
	_exit(0);
}

static void fork_child_sees_evicted_memory(void **state)
{
	uint64_t *p = buffer_new(PAGES);
	pid_t pid;

	(void)state;
	for (int round = 0; round < 5; round++) {
		evict_everything();
		pid = fork();
		assert_true(pid >= 0);
		if (pid == 0)
			child_checks(p);
		buffer_verify(p, PAGES);
		assert_int_equal(exit_status(pid), 0);
	}
	buffer_verify(p, PAGES);
	buffer_free(p);
}

static void pages_that_a_fork_shared_can_be_evicted_again(void **state)
{
	uint64_t *p = buffer_new(PAGES);
	pid_t pid = fork();

	(void)state;
	if (pid == 0)
		_exit(0);
	assert_int_equal(exit_status(pid), 0);
	for (int i = 0; i < 2; i++)
		evict_everything();
	assert_true(present_pages(p, PAGES) < PAGES / 5);
	buffer_verify(p, PAGES);
	buffer_free(p);
}

static void fork_while_threads_fault_and_evict(void **state)
{
	uint64_t *p = buffer_new(PAGES), *q = buffer_new(PAGES);
	pthread_t evictor, reader;

	(void)state;
	atomic_store(&stop_evicting, 0);
	pthread_create(&evictor, NULL, keep_evicting, NULL);
	for (int round = 0; round < 30; round++) {
		pid_t pid;

		pthread_create(&reader, NULL, verify_buffer, q);
		pid = fork();
		if (pid == 0)
			child_checks(p);
		assert_int_equal(exit_status(pid), 0);
		pthread_join(reader, NULL);
	}
	atomic_store(&stop_evicting, 1);
	pthread_join(evictor, NULL);
	buffer_verify(p, PAGES);
	buffer_free(p);
	buffer_free(q);
}

static void closing_every_descriptor_loses_nothing(void **state)
{
	uint64_t *p = buffer_new(PAGES);
	pid_t pid;

	(void)state;
	evict_everything();
	/* Descriptors up to 2 belong to the test runner. Larder has none in the program's table to begin with. */
	assert_int_equal(syscall(SYS_close_range, 3, ~0u, 0), 0);
	buffer_verify(p, PAGES);
	evict_everything();
	buffer_verify(p, PAGES);
	pid = fork();
	if (pid == 0)
		child_checks(p);
	assert_int_equal(exit_status(pid), 0);
	buffer_free(p);
}

static void a_full_tier_leaves_pages_in_ram_and_recovers(void **state)
{
	uint64_t *p = buffer_new(PAGES);
	struct larder_stats before;

	(void)state;
	atomic_store(&inject.put_error, -ENOSPC);
	before = now();
	evict_everything();
	assert_int_equal(now().pages[LARDER_PAGES_STORED], before.pages[LARDER_PAGES_STORED]);
	buffer_verify(p, PAGES);
	atomic_store(&inject.put_error, 0);
	for (int i = 0; i < 3; i++)
		evict_everything();
	assert_true(present_pages(p, PAGES) < PAGES / 5);
	buffer_verify(p, PAGES);
	buffer_free(p);
}

static sigjmp_buf bus_return;
static volatile uintptr_t bus_address;

static void on_bus(int sig, siginfo_t *info, void *context)
{
	(void)sig, (void)context;
	bus_address = (uintptr_t)info->si_addr;
	siglongjmp(bus_return, 1);
}

static void a_damaged_page_raises_sigbus_and_no_other_does(void **state)
{
	struct sigaction action = { .sa_sigaction = on_bus, .sa_flags = SA_SIGINFO }, old;
	uint64_t *p = buffer_new(64), *z;
	volatile int raised = 0;

	(void)state;
	sigaction(SIGBUS, &action, &old);
	evict_everything();
	assert_false(is_present(p + 8 * 512));
	atomic_store(&inject.get_error, -EIO);
	if (sigsetjmp(bus_return, 1) == 0)
		(void)*(volatile uint64_t *)(p + 8 * 512);
	else
		raised = 1;
	atomic_store(&inject.get_error, 0);
	assert_int_equal(raised, 1);
	assert_int_equal(bus_address & ~(uintptr_t)(PAGE - 1), (uintptr_t)(p + 8 * 512));
	raised = 0;
	if (sigsetjmp(bus_return, 1) == 0)
		(void)*(volatile uint64_t *)(p + 8 * 512 + 9);
	else
		raised = 1;
	assert_int_equal(raised, 1); /* it stays lost */
	for (int i = 0; i < 1000 && now().pages[LARDER_PAGES_POISONED] == 0; i++)
		usleep(1000); /* the signal may come before the handler has counted */
	assert_int_equal(now().pages[LARDER_PAGES_POISONED], 1);
	for (size_t i = 0; i < 64 * 512; i++)
		if (i / 512 != 8)
			assert_int_equal(p[i], word_at(i));
	sigaction(SIGBUS, &old, NULL);
	buffer_free(p); /* freed and purged, the addresses are good again */
	mallctl("arena.4096.purge", NULL, NULL, NULL, 0);
	assert_int_equal(now().pages[LARDER_PAGES_POISONED], 0);
	z = mallocx(64 * PAGE, MALLOCX_ZERO | MALLOCX_ALIGN(PAGE));
	for (size_t i = 0; i < 64 * 512; i++)
		assert_int_equal(z[i], 0);
	dallocx(z, 0);
}

static void arenas_of_every_thread_and_size_are_managed(void **state)
{
	struct larder_stats before = now(), after;
	unsigned arena;
	size_t bytes = sizeof(arena);
	void *huge, *own;

	(void)state;
	huge = mallocx(64 << 20, 0); /* jemalloc's arena for very large allocations */
	after = now();
	assert_true(after.allocated_bytes - before.allocated_bytes >= 64 << 20);
	dallocx(huge, 0);
	before = now();
	assert_int_equal(mallctl("arenas.create", &arena, &bytes, NULL, 0), 0);
	own = mallocx(4 << 20, MALLOCX_ARENA(arena) | MALLOCX_TCACHE_NONE);
	assert_non_null(own);
	dallocx(own, MALLOCX_TCACHE_NONE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(evicted_content_comes_back),
		cmocka_unit_test(same_filled_pages_take_no_space),
		cmocka_unit_test(writes_to_evicted_pages_are_kept),
		cmocka_unit_test(system_calls_reach_evicted_memory),
		cmocka_unit_test(futexes_in_evicted_memory_work),
		cmocka_unit_test(threads_that_fault_on_the_same_pages_all_go_on),
		cmocka_unit_test(pages_are_whole_while_eviction_races_with_writers),
		cmocka_unit_test(sequential_faults_bring_neighbours),
		cmocka_unit_test(what_a_fault_took_is_no_more_than_the_program_waited),
		cmocka_unit_test(discarded_memory_reads_zero),
		cmocka_unit_test(memory_thrown_away_behind_our_back_reads_zero),
		cmocka_unit_test(freed_memory_is_zero_when_it_is_used_again),
		cmocka_unit_test(memory_pinned_for_dma_stays_in_place),
		cmocka_unit_test(locked_memory_stays_in_place),
		cmocka_unit_test(read_only_memory_survives),
		cmocka_unit_test(a_full_tier_leaves_pages_in_ram_and_recovers),
		cmocka_unit_test(a_damaged_page_raises_sigbus_and_no_other_does),
		cmocka_unit_test(arenas_of_every_thread_and_size_are_managed),
		cmocka_unit_test(pages_that_a_fork_shared_can_be_evicted_again),
		cmocka_unit_test(fork_child_sees_evicted_memory),
		cmocka_unit_test(fork_while_threads_fault_and_evict),
		cmocka_unit_test(closing_every_descriptor_loses_nothing),
	};

	return cmocka_run_group_tests(tests, start, check_table);
}
