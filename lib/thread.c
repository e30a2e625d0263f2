/*
 * Internal threads. See thread.h for why they are not pthreads.
 *
 * A thread's memory is one mapping:
 *
 *     guard page | stack ... | room below the control block | control block | room above it
 *
 * libc reaches static thread-local variables at negative offsets from the thread pointer and its own per-thread struct
 * at positive ones, so both sides have room.
 */
#include "thread.h"

#include "sys.h"

#include <linux/sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/prctl.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_UNPOISON_MEMORY_REGION(at, bytes) ((void)(at), (void)(bytes))
#endif

enum {
	GUARD_BYTES = 4096,
	STACK_BYTES = 256 << 10,
	TLS_BELOW_BYTES = 16 << 10,
	TLS_ABOVE_BYTES = 8 << 10,
	MAP_BYTES = GUARD_BYTES + STACK_BYTES + TLS_BELOW_BYTES + TLS_ABOVE_BYTES,
	THREADS_MAX = 64,
	STDERR_FD = 2,
};

/* The fields of libc's control block that compiled code may read. */
struct control_block {
	void *self; /* fs:0 */
	void *dtv;  /* null: dynamic TLS crashes at once */
	void *self_thread;
	int multiple_threads, gscope;
	uintptr_t sysinfo;
	uintptr_t stack_guard; /* fs:0x28, read by -fstack-protector code */
};

/* What the new thread finds at the top of its stack. */
struct start {
	void (*run)(void *);
	void *arg;
	const char *name;
	unsigned flags;
};

/* Written by starters, read by anybody; entries never change once set, but in a forked child. */
static _Atomic int tids[THREADS_MAX];
static _Atomic int tid_count;

/* The CPUs of the thread that last asked which there are: the first internal thread, before any other starts. */
static _Atomic unsigned long allowed[THREAD_CPUS_MAX / 64];

static void remember(int tid)
{
	int i = atomic_fetch_add(&tid_count, 1);

	if (i < THREADS_MAX)
		atomic_store(&tids[i], tid);
}

/* keep[] need not be in order, and there are few. */
void thread_close_files(const int *keep, unsigned n)
{
	unsigned from = STDERR_FD + 1;

	sys_call3(SYS_close_range, 0, STDERR_FD - 1, 0);
	for (;;) {
		unsigned next = ~0u;

		for (unsigned i = 0; i < n; i++)
			if ((unsigned)keep[i] >= from && (unsigned)keep[i] < next)
				next = (unsigned)keep[i];
		if (next == ~0u) {
			sys_call3(SYS_close_range, from, ~0u, 0);
			return;
		}
		if (next > from)
			sys_call3(SYS_close_range, from, next - 1, 0);
		from = next + 1;
	}
}

void thread_inherit(void)
{
	for (int i = 0; i < THREADS_MAX; i++)
		atomic_store(&tids[i], 0);
	atomic_store(&tid_count, 0);
}

int thread_keep_off(int tid, const int *cpus, unsigned n)
{
	unsigned long mask[THREAD_CPUS_MAX / 64], left = 0;
	long err;

	for (unsigned i = 0; i < THREAD_CPUS_MAX / 64; i++)
		mask[i] = atomic_load_explicit(&allowed[i], memory_order_relaxed);
	for (unsigned i = 0; i < n; i++)
		if (cpus[i] >= 0 && cpus[i] < THREAD_CPUS_MAX)
			mask[cpus[i] / 64] &= ~((unsigned long)1 << cpus[i] % 64);
	for (unsigned i = 0; i < THREAD_CPUS_MAX / 64; i++)
		left |= mask[i];
	if (!left)
		return -EINVAL;
	err = sys_call3(SYS_sched_setaffinity, tid, sizeof(mask), (long)mask);
	return err < 0 ? (int)err : 0;
}

int thread_cpus(int *cpus, int max)
{
	unsigned long mask[THREAD_CPUS_MAX / 64] = { 0 };
	int n = 0;

	if (sys_call3(SYS_sched_getaffinity, 0, sizeof(mask), (long)mask) < 0)
		return 0;
	for (unsigned i = 0; i < THREAD_CPUS_MAX / 64; i++)
		atomic_store_explicit(&allowed[i], mask[i], memory_order_relaxed);
	for (int cpu = 0; cpu < THREAD_CPUS_MAX; cpu++)
		if (mask[cpu / 64] >> cpu % 64 & 1) {
			if (n < max)
				cpus[n] = cpu;
			n++;
		}
	return n;
}

int thread_is_internal(int tid)
{
	for (int i = 0; i < THREADS_MAX; i++)
		if (atomic_load(&tids[i]) == tid)
			return 1;
	return 0;
}

int thread_count(void)
{
	return atomic_load(&tid_count);
}

/* First code on the new stack. */
__attribute__((noreturn, used)) static void thread_main(struct start *start)
{
	sys_call3(SYS_prctl, PR_SET_NAME, (long)start->name, 0);
	start->run(start->arg);
	for (;;) /* run() does not return; if it did, only this thread would end */
		sys_call3(SYS_exit, 0, 0, 0);
}

/* The child returns from the system call on an empty stack, so it must not return from this function. */
static long clone_thread(unsigned long flags, struct start *start, void *tls)
{
	register long r10 __asm__("r10") = 0;
	register long r8 __asm__("r8") = (long)tls;
	register struct start *r12 __asm__("r12") = start;
	long ret;

	__asm__ volatile("syscall\n\t"
			 "test %%rax, %%rax\n\t"
			 "jnz 1f\n\t"
			 "xor %%ebp, %%ebp\n\t"
			 "mov %%r12, %%rdi\n\t"
			 "call *%[main]\n\t"
			 "1:"
			 : "=a"(ret)
			 : "a"(SYS_clone), "D"(flags), "S"((uintptr_t)start & ~(uintptr_t)15), "d"(0), "r"(r10),
			   "r"(r8), "r"(r12), [main] "r"(thread_main)
			 : "rcx", "r11", "memory");
	return ret;
}

int thread_start(const char *name, void (*run)(void *), void *arg, unsigned flags)
{
	static const uint64_t all = ~(uint64_t)0;
	unsigned long clone_flags = CLONE_VM | CLONE_FS | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_SETTLS;
	char *map = sys_map(MAP_BYTES);
	struct control_block *tcb;
	struct start *start;
	uint64_t old = 0;
	long tid;

	if (!map)
		return -ENOMEM;
	sys_mprotect(map, GUARD_BYTES, PROT_NONE);
	sys_madvise(map, MAP_BYTES, MADV_DONTFORK);
	ASAN_UNPOISON_MEMORY_REGION(map, MAP_BYTES); /* in a forked child a parent's thread may have had a stack here */
	tcb = (struct control_block *)(map + MAP_BYTES - TLS_ABOVE_BYTES);
	tcb->self = tcb;
	tcb->self_thread = tcb;
	tcb->stack_guard = sys_now_ns() << 8;
	start = (struct start *)(map + GUARD_BYTES + STACK_BYTES - sizeof(*start));
	*start = (struct start){ run, arg, name, flags };

	if (!(flags & THREAD_OWN_FILES))
		clone_flags |= CLONE_FILES;
	sys_set_signals(&all, &old); /* the thread keeps them blocked for good */
	tid = clone_thread(clone_flags, start, tcb);
	sys_restore_signals(&old);
	if (tid < 0) {
		sys_munmap(map, MAP_BYTES);
		return (int)tid;
	}
	remember((int)tid);
	return (int)tid;
}

void thread_pin(int cpu)
{
	unsigned long mask[THREAD_CPUS_MAX / 64] = { 0 };

	mask[cpu / 64] = 1ul << cpu % 64;
	sys_call3(SYS_sched_setaffinity, 0, sizeof(mask), (long)mask);
}
