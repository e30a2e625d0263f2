/*
 * System calls, without libc.
 *
 * The threads that serve faults and reclaim memory share the thread pointer of the thread that started them (they
 * are made by a bare clone, see lib/thread.c), so they must not touch errno, cancellation points or anything else that
 * lives in thread-local storage. Program threads use these too, inside allocator hooks, where changing errno would be
 * visible to the program. Every function returns the kernel's value: >= 0, or a negative errno.
 */
#ifndef LARDER_SYS_H
#define LARDER_SYS_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>

#if !defined(__x86_64__)
#error "Larder supports x86-64 only: add the system call sequence of this architecture here and in lib/thread.c"
#endif

static inline long sys_call6(long nr, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}

static inline long sys_call3(long nr, long a, long b, long c)
{
	long ret;

	__asm__ volatile("syscall" : "=a"(ret) : "a"(nr), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return ret;
}

static inline int sys_is_error(const void *p)
{
	return (uintptr_t)p > (uintptr_t)-4096L;
}

/* Returns the address, or a negative errno in the pointer: test it with sys_is_error(). */
static inline void *sys_mmap(void *addr, size_t bytes, int prot, int flags, int fd)
{
	return (void *)sys_call6(SYS_mmap, (long)addr, (long)bytes, prot, flags, fd, 0);
}

static inline long sys_munmap(void *addr, size_t bytes)
{
	return sys_call3(SYS_munmap, (long)addr, (long)bytes, 0);
}

static inline long sys_mprotect(void *addr, size_t bytes, int prot)
{
	return sys_call3(SYS_mprotect, (long)addr, (long)bytes, prot);
}

static inline long sys_madvise(void *addr, size_t bytes, int advice)
{
	return sys_call3(SYS_madvise, (long)addr, (long)bytes, advice);
}

/*
 * Private zeroed memory that is never managed. NULL when there is none. Not in core dumps: much of it is reserved and
 * never used, and the kernel looks at each page of it, which can take minutes.
 */
static inline void *sys_map(size_t bytes)
{
	void *p = sys_mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);

	if (sys_is_error(p))
		return NULL;
	sys_madvise(p, bytes, MADV_DONTDUMP);
	return p;
}

static inline long sys_open(const char *path, int flags)
{
	return sys_call6(SYS_openat, AT_FDCWD, (long)path, flags, 0, 0, 0);
}

static inline long sys_close(int fd)
{
	return sys_call3(SYS_close, fd, 0, 0);
}

static inline long sys_read(int fd, void *buffer, size_t bytes)
{
	return sys_call3(SYS_read, fd, (long)buffer, (long)bytes);
}

static inline long sys_pread(int fd, void *buffer, size_t bytes, off_t offset)
{
	return sys_call6(SYS_pread64, fd, (long)buffer, (long)bytes, offset, 0, 0);
}

static inline long sys_write(int fd, const void *buffer, size_t bytes)
{
	return sys_call3(SYS_write, fd, (long)buffer, (long)bytes);
}

static inline long sys_ioctl(int fd, unsigned long request, void *argument)
{
	return sys_call3(SYS_ioctl, fd, (long)request, (long)argument);
}

static inline long sys_eventfd(unsigned count, int flags)
{
	return sys_call3(SYS_eventfd2, count, flags, 0);
}

/* timeout_ns < 0: no limit. */
static inline long sys_poll(struct pollfd *fds, unsigned count, int64_t timeout_ns)
{
	struct timespec t = { .tv_sec = (time_t)(timeout_ns / 1000000000), .tv_nsec = (long)(timeout_ns % 1000000000) };

	return sys_call6(SYS_ppoll, (long)fds, count, timeout_ns < 0 ? 0 : (long)&t, 0, 0, 0);
}

static inline int sys_gettid(void)
{
	return (int)sys_call3(SYS_gettid, 0, 0, 0);
}

static inline int sys_getpid(void)
{
	return (int)sys_call3(SYS_getpid, 0, 0, 0);
}

static inline void sys_set_signals(const uint64_t *to, uint64_t *was)
{
	enum { SETMASK = 2 }; /* <signal.h> declares read() */

	sys_call6(SYS_rt_sigprocmask, SETMASK, (long)to, (long)was, sizeof(*to), 0, 0);
}

/*
 * For as long as a program thread holds what a handler of the program's may need, were it only to map or to touch
 * memory: the handler would wait for the thread that it runs on. All signals but SIGABRT, by which a panic of an internal
 * thread ends the process.
 */
static inline void sys_block_signals(uint64_t *was)
{
	enum { ABORT = 6 };
	static const uint64_t others = ~((uint64_t)1 << (ABORT - 1));

	sys_set_signals(&others, was);
}

static inline void sys_restore_signals(const uint64_t *was)
{
	sys_set_signals(was, NULL);
}

static inline void sys_yield(void)
{
	sys_call3(SYS_sched_yield, 0, 0, 0);
}

static inline void sys_sleep_ns(uint64_t ns)
{
	struct timespec t = { .tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u) };

	sys_call3(SYS_nanosleep, (long)&t, 0, 0);
}

/* CLOCK_MONOTONIC. clock_gettime is served by the vDSO and touches neither errno nor thread-local storage. */
static inline uint64_t sys_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* CPU time of the calling thread. */
static inline uint64_t sys_thread_ns(void)
{
	struct timespec t = { 0 };

	sys_call3(SYS_clock_gettime, CLOCK_THREAD_CPUTIME_ID, (long)&t, 0);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

#endif
