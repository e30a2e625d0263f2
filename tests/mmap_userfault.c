/*
 * mmap_family: programs that serve their own faults. What they register is theirs: Larder takes nothing out of it, and
 * puts nothing into it. Sealed memory, too, which nobody may unmap.
 */
#include "mmap_family.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_mseal
#define SYS_mseal 462
#endif

/* What is missing in `base` is given the content `seed` by a thread. */
static struct {
	unsigned char *base;
	int fd;
	_Atomic int stop;
	_Atomic unsigned faults, write_faults;
	pthread_t thread;
} pager;

static uint64_t pager_seed;

static void resolve(const struct uffd_msg *message)
{
	static unsigned char page[PAGE] __attribute__((aligned(PAGE)));
	uintptr_t at = message->arg.pagefault.address & -(uintptr_t)PAGE;
	size_t number = (at - (uintptr_t)pager.base) / PAGE;
	struct uffdio_copy copy = { .dst = at, .src = (uintptr_t)page, .len = PAGE };
	struct uffdio_writeprotect protect = { .range = { at, PAGE } };

	if (message->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP) {
		pager.write_faults++;
		EXPECT(ioctl(pager.fd, UFFDIO_WRITEPROTECT, &protect) == 0);
		return;
	}
	pager.faults++;
	fill(page, number, 1, pager_seed);
	if (ioctl(pager.fd, UFFDIO_COPY, &copy) && errno != EEXIST)
		FAIL("UFFDIO_COPY to page %zu failed with errno %d", number, errno);
}

static void *serve(void *arg)
{
	struct pollfd fd = { .fd = pager.fd, .events = POLLIN };
	struct uffd_msg message;

	(void)arg;
	while (!pager.stop)
		if (poll(&fd, 1, 20) > 0 && read(pager.fd, &message, sizeof(message)) == sizeof(message) &&
		    message.event == UFFD_EVENT_PAGEFAULT)
			resolve(&message);
	return NULL;
}

static void open_pager(unsigned char *base, uint64_t seed)
{
	struct uffdio_api api = { .api = UFFD_API };

	pager.base = base;
	pager_seed = seed;
	pager.stop = 0;
	pager.faults = pager.write_faults = 0;
	pager.fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (pager.fd < 0)
		skip("the process may not have a userfaultfd");
	EXPECT(ioctl(pager.fd, UFFDIO_API, &api) == 0);
	EXPECT(pthread_create(&pager.thread, NULL, serve, NULL) == 0);
}

static void close_pager(void)
{
	pager.stop = 1;
	pthread_join(pager.thread, NULL);
	close(pager.fd);
}

static int register_range(void *at, size_t pages, uint64_t mode)
{
	struct uffdio_register range = { .range = { (uintptr_t)at, pages * PAGE }, .mode = mode };

	return ioctl(pager.fd, UFFDIO_REGISTER, &range);
}

static void unregister_range(void *at, size_t pages)
{
	struct uffdio_range range = { (uintptr_t)at, pages * PAGE };

	EXPECT(ioctl(pager.fd, UFFDIO_UNREGISTER, &range) == 0);
}

/* Each page is asked for once: nothing takes it away again. */
static void memory_that_the_program_pages_is_the_programs(void)
{
	unsigned char *p = map(AREA);

	open_pager(p, 2);
	EXPECT(register_range(p, AREA, UFFDIO_REGISTER_MODE_MISSING) == 0);
	EXPECT_CONTENT(p, 0, AREA, 2);
	EXPECT_SAME(pager.faults, AREA);
	evict_all();
	EXPECT_CONTENT(p, 0, AREA, 2);
	EXPECT_SAME(pager.faults, AREA);
	EXPECT_SAME(present_pages(p, AREA), AREA);
	EXPECT(madvise(p, 100 * PAGE, MADV_DONTNEED) == 0);
	EXPECT_CONTENT(p, 0, 100, 2);
	EXPECT_SAME(pager.faults, AREA + 100);
	unregister_range(p, AREA);
	EXPECT(madvise(p, 100 * PAGE, MADV_DONTNEED) == 0);
	EXPECT_ZEROES(p, 100);
	EXPECT_CONTENT(p + 100 * PAGE, 100, AREA - 100, 2);
	evict_all();
	EXPECT_CONTENT(p + 100 * PAGE, 100, AREA - 100, 2);
	close_pager();
	unmap(p, AREA);
}

/* Of a mapping that has been used and evicted, the part that the program registers is whole. */
static void memory_that_was_evicted_can_be_registered(void)
{
	unsigned char *p = map_filled(AREA);

	EXPECT(madvise(p + 300 * PAGE, 100 * PAGE, MADV_DONTNEED) == 0);
	open_pager(p, 2);
	EXPECT(register_range(p + 100 * PAGE, 500, UFFDIO_REGISTER_MODE_MISSING) == 0);
	EXPECT_CONTENT(p, 0, 300, 1);
	EXPECT_SAME(pager.faults, 0);
	EXPECT_CONTENT(p + 300 * PAGE, 300, 100, 2);
	EXPECT_SAME(pager.faults, 100);
	evict_all();
	EXPECT_CONTENT(p, 0, 300, 1);
	EXPECT_CONTENT(p + 300 * PAGE, 300, 100, 2);
	EXPECT_CONTENT(p + 400 * PAGE, 400, AREA - 400, 1);
	EXPECT_SAME(pager.faults, 100);
	close_pager();
	EXPECT_CONTENT(p, 0, 300, 1);
	unmap(p, AREA);
}

static void the_program_sees_each_write_that_it_protects_against(void)
{
	struct uffdio_writeprotect protect = { .mode = UFFDIO_WRITEPROTECT_MODE_WP };
	unsigned char *p = map(AREA);

	fill(p, 0, AREA, 1);
	open_pager(p, 2);
	if (register_range(p, AREA, UFFDIO_REGISTER_MODE_WP))
		FAIL("registering for write protection failed with errno %d", errno);
	protect.range = (struct uffdio_range){ (uintptr_t)p, AREA * PAGE };
	EXPECT(ioctl(pager.fd, UFFDIO_WRITEPROTECT, &protect) == 0);
	evict_all();
	EXPECT_CONTENT(p, 0, AREA, 1);
	EXPECT_SAME(pager.write_faults, 0);
	fill(p, 0, AREA / 2, 2);
	EXPECT_SAME(pager.write_faults, AREA / 2);
	evict_all();
	EXPECT_CONTENT(p, 0, AREA / 2, 2);
	fill(p, 0, AREA, 3);
	EXPECT_SAME(pager.write_faults, AREA);
	close_pager();
	EXPECT_CONTENT(p, 0, AREA, 3);
	unmap(p, AREA);
}

static void sealed_memory_stays_as_it_is(void)
{
	unsigned char *small = map(2), *p;

	if (syscall(SYS_mseal, small, (size_t)PAGE, 0L))
		skip("the kernel cannot seal");
	p = map_filled(AREA);
	EXPECT(syscall(SYS_mseal, p + 100 * PAGE, (size_t)100 * PAGE, 0L) == 0);
	EXPECT_ERROR(munmap(p + 100 * PAGE, PAGE), EPERM);
	EXPECT_ERROR(mprotect(p + 100 * PAGE, PAGE, PROT_READ), EPERM);
	EXPECT_ERROR(mremap(p + 100 * PAGE, PAGE, 2 * PAGE, MREMAP_MAYMOVE), EPERM);
	EXPECT_ERROR(mmap(p + 100 * PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), EPERM);
	EXPECT_CONTENT(p, 0, AREA, 1);
	evict_all();
	fill(p + 100 * PAGE, 100, 100, 2);
	evict_all();
	EXPECT_CONTENT(p, 0, 100, 1);
	EXPECT_CONTENT(p + 100 * PAGE, 100, 100, 2);
	EXPECT_CONTENT(p + 200 * PAGE, 200, AREA - 200, 1);
}

const struct check userfault_checks[] = {
	CHECK(memory_that_the_program_pages_is_the_programs),
	CHECK(memory_that_was_evicted_can_be_registered),
	CHECK(the_program_sees_each_write_that_it_protects_against),
	CHECK(sealed_memory_stays_as_it_is),
	END_OF_CHECKS,
};
