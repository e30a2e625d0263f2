/*
 * mmap_family: mprotect, and what collectors, compilers and guard pages make of it. Also what the kernel does with
 * protected memory on the program's behalf, and the whole family by way of syscall().
 */
#include "mmap_family.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static void protect(void *at, size_t pages, int protection)
{
	if (mprotect(at, pages * PAGE, protection))
		FAIL("mprotect(%p, %zu pages, %d) failed with errno %d", at, pages, protection, errno);
}

static void read_only_memory_can_be_read(void)
{
	unsigned char *p = map_filled(AREA);

	protect(p + 100 * PAGE, 200, PROT_READ);
	EXPECT_SIGNAL(p + 100 * PAGE, 200, WRITES, SIGSEGV);
	EXPECT_SAME(signal_code, SEGV_ACCERR);
	EXPECT_CONTENT(p, 0, AREA, 1);
	evict_all();
	EXPECT_CONTENT(p, 0, AREA, 1);
	EXPECT_SIGNAL(p + 99 * PAGE, 1, WRITES, 0);
	EXPECT_SIGNAL(p + 300 * PAGE, 1, WRITES, 0);
	protect(p + 100 * PAGE, 200, PROT_READ | PROT_WRITE);
	fill(p + 100 * PAGE, 0, 200, 2);
	EXPECT_CONTENT(p + 100 * PAGE, 0, 200, 2);
	unmap(p, AREA);
}

static void a_guard_page_faults(void)
{
	unsigned char *p = map(AREA);

	protect(p + 500 * PAGE, 1, PROT_NONE);
	fill(p, 0, 500, 1);
	fill(p + 501 * PAGE, 501, AREA - 501, 1);
	for (int i = 0; i < 2; i++) {
		evict_all();
		EXPECT_SIGNAL(p + 500 * PAGE, 1, READS, SIGSEGV);
		EXPECT_SAME(signal_code, SEGV_ACCERR);
		EXPECT_SIGNAL(p + 500 * PAGE, 1, WRITES, SIGSEGV);
	}
	EXPECT_CONTENT(p, 0, 500, 1);
	EXPECT_CONTENT(p + 501 * PAGE, 501, AREA - 501, 1);
	unmap(p, AREA);
	EXPECT_SIGNAL(p, 1, READS, SIGSEGV);
}

static void what_is_out_of_reach_keeps_its_content(void)
{
	unsigned char *p = map(AREA);

	fill(p, 0, AREA, 1);
	protect(p, AREA, PROT_NONE);
	evict_all();
	EXPECT_SIGNAL(p, AREA, READS, SIGSEGV);
	protect(p, AREA, PROT_READ);
	EXPECT_CONTENT(p, 0, AREA, 1);
	protect(p, AREA, PROT_NONE);
	evict_all();
	protect(p, AREA, PROT_READ | PROT_WRITE);
	EXPECT_CONTENT(p, 0, AREA, 1);
	EXPECT_SIGNAL(p, AREA, WRITES, 0);
	unmap(p, AREA);
}

static void every_other_page_may_differ(void)
{
	unsigned char *p = map_filled(AREA);

	for (size_t i = 0; i < AREA; i += 2)
		protect(p + i * PAGE, 1, PROT_READ);
	evict_all();
	EXPECT_CONTENT(p, 0, AREA, 1);
	for (size_t i = 0; i < AREA; i++)
		EXPECT_SIGNAL(p + i * PAGE, 1, WRITES, i % 2 ? 0 : SIGSEGV);
	protect(p, AREA, PROT_READ | PROT_WRITE);
	evict_all();
	EXPECT_CONTENT(p, 0, AREA, 1);
	unmap(p, AREA);
}

/* ---- a write barrier, as collectors of garbage have it ---- */

static struct {
	unsigned char *base;
	_Atomic unsigned faults[AREA];
} barrier;

static void on_barrier(int signal, siginfo_t *info, void *context)
{
	size_t page = (size_t)((unsigned char *)info->si_addr - barrier.base) / PAGE;

	(void)signal;
	(void)context;
	if (page >= AREA || mprotect(barrier.base + page * PAGE, PAGE, PROT_READ | PROT_WRITE))
		_exit(3);
	barrier.faults[page]++;
}

static void arm_barrier(struct sigaction *old)
{
	struct sigaction action = { .sa_sigaction = on_barrier, .sa_flags = SA_SIGINFO };

	EXPECT(sigaction(SIGSEGV, &action, old) == 0);
	protect(barrier.base, AREA, PROT_READ);
	for (size_t i = 0; i < AREA; i++)
		barrier.faults[i] = 0;
}

static void a_write_barrier_sees_each_first_write(void)
{
	struct sigaction old;

	barrier.base = map_filled(AREA);
	for (uint64_t round = 1; round <= 3; round++) {
		arm_barrier(&old);
		evict_all();
		EXPECT_CONTENT(barrier.base, 0, AREA, round);
		for (size_t i = 0; i < AREA; i++)
			EXPECT_SAME(barrier.faults[i], 0);
		fill(barrier.base, 0, AREA, round + 1);
		for (size_t i = 0; i < AREA; i++)
			EXPECT_SAME(barrier.faults[i], 1);
		sigaction(SIGSEGV, &old, NULL);
	}
	unmap(barrier.base, AREA);
}

enum { WRITERS = 4 };

static void *write_share(void *arg)
{
	for (size_t i = (uintptr_t)arg; i < AREA; i += WRITERS)
		fill(barrier.base + i * PAGE, i, 1, 2);
	return NULL;
}

static void a_write_barrier_sees_writes_of_several_threads(void)
{
	pthread_t threads[WRITERS];
	struct sigaction old;

	barrier.base = map_filled(AREA);
	arm_barrier(&old);
	evict_all();
	for (uintptr_t i = 0; i < WRITERS; i++)
		EXPECT(pthread_create(&threads[i], NULL, write_share, (void *)i) == 0);
	for (int i = 0; i < WRITERS; i++)
		pthread_join(threads[i], NULL);
	for (size_t i = 0; i < AREA; i++)
		EXPECT_SAME(barrier.faults[i], 1);
	EXPECT_CONTENT(barrier.base, 0, AREA, 2);
	sigaction(SIGSEGV, &old, NULL);
	unmap(barrier.base, AREA);
}

/* ---- code ---- */

/* mov eax, n; ret */
static void write_function(unsigned char *at, uint32_t n)
{
	at[0] = 0xb8;
	memcpy(at + 1, &n, 4);
	at[5] = 0xc3;
}

static void code_runs_though_evicted(void)
{
	unsigned char *p = map(AREA);

	for (uint32_t i = 0; i < AREA; i++)
		write_function(p + i * PAGE + 64, i * 7);
	protect(p, AREA, PROT_READ | PROT_EXEC);
	evict_all();
	for (int i = 0; i < AREA; i++) {
		int (*function)(void) = (int (*)(void))(uintptr_t)(p + i * PAGE + 64);

		EXPECT_SAME(function(), i * 7);
	}
	protect(p, AREA, PROT_READ | PROT_WRITE);
	write_function(p + 64, 1);
	protect(p, AREA, PROT_READ | PROT_EXEC);
	EXPECT_SAME(((int (*)(void))(uintptr_t)(p + 64))(), 1);
	unmap(p, AREA);
}

/* ---- what the kernel does for the program ---- */

static void system_calls_see_protections(void)
{
	unsigned char *p = map_filled(AREA), page[PAGE];
	int ends[2];

	EXPECT(pipe(ends) == 0);
	protect(p, 100, PROT_READ);
	protect(p + 100 * PAGE, 100, PROT_NONE);
	EXPECT_SAME(write(ends[1], p, PAGE), PAGE);
	EXPECT_ERROR(read(ends[0], p, PAGE), EFAULT);
	EXPECT_ERROR(write(ends[1], p + 100 * PAGE, PAGE), EFAULT);
	evict_all();
	EXPECT_SAME(write(ends[1], p + 200 * PAGE, PAGE), PAGE);
	EXPECT_ERROR(read(ends[0], p + 150 * PAGE, PAGE), EFAULT);
	for (size_t i = 0; i <= 200; i += 200) {
		EXPECT_SAME(read(ends[0], page, PAGE), PAGE);
		EXPECT_CONTENT(page, i, 1, 1);
	}
	protect(p, 200, PROT_READ | PROT_WRITE);
	EXPECT_CONTENT(p, 0, AREA, 1);
	unmap(p, 100);
	EXPECT_SAME(write(ends[1], p + 100 * PAGE, PAGE), PAGE);
	EXPECT_ERROR(write(ends[1], p, PAGE), EFAULT);
	EXPECT_ERROR(read(ends[0], p + 99 * PAGE, PAGE), EFAULT);
	close(ends[0]);
	close(ends[1]);
	unmap(p, AREA);
}

/* The kernel does not wait for pages that are away there, but never gives anything else for them. */
static void memory_in_proc_is_right_or_an_error(void)
{
	unsigned char *p = map_filled(AREA), page[PAGE];
	int fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC);

	EXPECT(fd >= 0);
	protect(p, 100, PROT_READ);
	for (size_t i = 0; i < AREA; i++) {
		off_t at = (off_t)(uintptr_t)(p + i * PAGE);
		ssize_t done = pread(fd, page, PAGE, at);

		EXPECT(done == PAGE || done == -1);
		if (done == PAGE)
			EXPECT_CONTENT(page, i, 1, 1);
		fill(page, i, 1, 2);
		if (i % 2 && pwrite(fd, page, PAGE, at) == PAGE)
			EXPECT_CONTENT(p + i * PAGE, i, 1, 2);
		else
			EXPECT_CONTENT(p + i * PAGE, i, 1, 1);
		EXPECT_SAME(pread(fd, page, PAGE, at), PAGE); /* since it is there now */
	}
	close(fd);
	unmap(p, AREA);
}

/* The protections that the kernel shows in [at, at + pages), as the "rwxp" of each page, "---p" where nothing is. */
static void read_protections(const void *at, size_t pages, char (*protections)[5])
{
	FILE *f = fopen("/proc/self/maps", "re");
	uintptr_t start, end, from = (uintptr_t)at;
	char line[4096], shown[8];

	for (size_t i = 0; i < pages; i++)
		strcpy(protections[i], "---p");
	EXPECT(f != NULL);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "%lx-%lx %7s", &start, &end, shown) == 3)
			for (size_t i = 0; i < pages; i++)
				if (from + i * PAGE >= start && from + i * PAGE < end)
					memcpy(protections[i], shown, 5);
	fclose(f);
}

static void maps_show_what_was_mapped(void)
{
	static char protections[AREA][5];
	unsigned char *p = map_filled(AREA);

	protect(p + 100 * PAGE, 100, PROT_READ);
	protect(p + 300 * PAGE, 100, PROT_NONE);
	unmap(p + 500 * PAGE, 100);
	read_protections(p, AREA, protections);
	for (size_t i = 0; i < AREA; i++) {
		const char *want = i / 100 == 1 ? "r--p" : i / 100 == 3 || i / 100 == 5 ? "---p" : "rw-p";

		if (strcmp(protections[i], want) != 0)
			FAIL("page %zu is shown as '%s', not '%s'", i, protections[i], want);
	}
	unmap(p, AREA);
	read_protections(p, AREA, protections);
	for (size_t i = 0; i < AREA; i++)
		if (strcmp(protections[i], "---p") != 0)
			FAIL("page %zu is shown as '%s' though unmapped", i, protections[i]);
}

/* ---- errors ---- */

static void protection_errors_are_the_kernels(void)
{
	unsigned char *p = map_filled(AREA);

	EXPECT_ERROR(mprotect(p + 1, PAGE, PROT_READ), EINVAL);
	EXPECT_ERROR(mprotect(p, PAGE, PROT_READ | PROT_GROWSDOWN | PROT_GROWSUP), EINVAL);
	EXPECT_ERROR(mprotect(p, PAGE, 0x800), EINVAL);
	EXPECT_ERROR(mprotect(p, SIZE_MAX - PAGE, PROT_READ), ENOMEM);
	EXPECT(mprotect(p, 0, PROT_NONE) == 0);
	EXPECT_CONTENT(p, 0, AREA, 1);
	unmap(p + 100 * PAGE, 100);
	EXPECT_ERROR(mprotect(p + 100 * PAGE, PAGE, PROT_READ), ENOMEM);
	EXPECT_ERROR(mprotect(p + 150 * PAGE, 100 * PAGE, PROT_READ), ENOMEM);
	EXPECT_SIGNAL(p + 200 * PAGE, 1, WRITES, 0);
	/* What comes before the hole is changed. */
	EXPECT_ERROR(mprotect(p + 50 * PAGE, 200 * PAGE, PROT_READ), ENOMEM);
	EXPECT_SIGNAL(p + 50 * PAGE, 50, WRITES, SIGSEGV);
	EXPECT_SIGNAL(p + 200 * PAGE, 1, WRITES, 0);
	EXPECT_CONTENT(p, 0, 100, 1);
	EXPECT_CONTENT(p + 200 * PAGE, 200, AREA - 200, 1);
	unmap(p, AREA);
}

/* ---- by way of syscall() ---- */

static void calls_through_syscall_are_the_same(void)
{
	static unsigned char is_there[AREA];
	const size_t bytes = AREA * PAGE;
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS, read_write = PROT_READ | PROT_WRITE;
	unsigned char *p = (unsigned char *)syscall(SYS_mmap, NULL, bytes, read_write, flags, -1, 0L);

	EXPECT(p != MAP_FAILED);
	fill(p, 0, AREA, 1);
	evict_all();
	EXPECT(syscall(SYS_mincore, p, bytes, is_there) == 0);
	for (size_t i = 0; i < AREA; i++)
		EXPECT_SAME(is_there[i] & 1, 1);
	EXPECT(syscall(SYS_mprotect, p, (size_t)100 * PAGE, PROT_READ) == 0);
	EXPECT_SIGNAL(p, 100, WRITES, SIGSEGV);
	EXPECT(syscall(SYS_mprotect, p, (size_t)100 * PAGE, read_write) == 0);
	EXPECT_CONTENT(p, 0, AREA, 1);
	EXPECT(syscall(SYS_madvise, p, (size_t)100 * PAGE, MADV_DONTNEED) == 0);
	EXPECT_ZEROES(p, 100);
	EXPECT_ERROR(syscall(SYS_madvise, p + 1, (size_t)PAGE, MADV_DONTNEED), EINVAL);
	EXPECT(syscall(SYS_msync, p, bytes, MS_SYNC) == 0);
	EXPECT(syscall(SYS_mlock, p + 100 * PAGE, (size_t)100 * PAGE) == 0);
	evict_all();
	EXPECT_SAME(present_pages(p + 100 * PAGE, 100), 100);
	EXPECT(syscall(SYS_munlock, p + 100 * PAGE, (size_t)100 * PAGE) == 0);
	EXPECT(syscall(SYS_munmap, p + 200 * PAGE, (size_t)100 * PAGE) == 0);
	EXPECT_SIGNAL(p + 200 * PAGE, 100, READS, SIGSEGV);
	EXPECT(syscall(SYS_mmap, p + 200 * PAGE, (size_t)100 * PAGE, read_write, flags | MAP_FIXED, -1, 0L) ==
	       (long)(p + 200 * PAGE));
	EXPECT_ZEROES(p + 200 * PAGE, 100);
	evict_all();
	p = (unsigned char *)syscall(SYS_mremap, p, bytes, 2 * bytes, MREMAP_MAYMOVE, NULL);
	EXPECT(p != MAP_FAILED);
	EXPECT_ZEROES(p, 100);
	EXPECT_CONTENT(p + 100 * PAGE, 100, 100, 1);
	EXPECT_CONTENT(p + 300 * PAGE, 300, AREA - 300, 1);
	EXPECT_ZEROES(p + AREA * PAGE, AREA);
	EXPECT(syscall(SYS_munmap, p, 2 * bytes) == 0);
	EXPECT_SIGNAL(p, 2 * AREA, READS, SIGSEGV);
}

const struct check protect_checks[] = {
	CHECK(read_only_memory_can_be_read),
	CHECK(a_guard_page_faults),
	CHECK(what_is_out_of_reach_keeps_its_content),
	CHECK(every_other_page_may_differ),
	CHECK(a_write_barrier_sees_each_first_write),
	CHECK(a_write_barrier_sees_writes_of_several_threads),
	CHECK(code_runs_though_evicted),
	CHECK(system_calls_see_protections),
	CHECK(memory_in_proc_is_right_or_an_error),
	CHECK(maps_show_what_was_mapped),
	CHECK(protection_errors_are_the_kernels),
	CHECK(calls_through_syscall_are_the_same),
	END_OF_CHECKS,
};
