/*
 * Forks that do not go through fork(): clone() of libc, and the system calls by way of syscall(). Part of the preload
 * object, which stands in front of libc's functions. syscall() is also a way to the calls of preload_memory.h.
 *
 * A child of clone() or syscall() that shares no memory with its parent is a forked one, and gets what fork.h says, as
 * long as it goes on with the stack of its parent. One that asked the kernel itself, or for a new stack by syscall(),
 * is not seen.
 *
 * A thread that is made by syscall() comes back from it on its own stack, where nothing but what the program has put
 * there can be returned to. So the way to the real one must not use the stack: it is a jump.
 */
#include "api.h"
#include "fork.h"
#include "preload_memory.h"
#include "sys.h"

#include <dlfcn.h>
#include <linux/sched.h>
#include <sched.h>
#include <stdarg.h>

/* ---- syscall() ---- */

__attribute__((visibility("hidden"))) long (*larder_real_syscall)(long, ...);

__attribute__((constructor(101))) static void find_real_syscall(void)
{
	*(void **)&larder_real_syscall = dlsym(RTLD_NEXT, "syscall");
}

/* Is it a fork whose child goes on with the stack it has? */
static int is_fork(long number, unsigned long first, unsigned long second)
{
	const struct clone_args *args = (const void *)first;

	switch (number) {
	case SYS_fork:
		return 1;
	case SYS_clone:
		return !(first & CLONE_VM) && second == 0;
	case SYS_clone3:
		return args && second >= CLONE_ARGS_SIZE_VER0 && !(args->flags & CLONE_VM) && args->stack == 0;
	default:
		return 0;
	}
}

/* Called by the code below. */
__attribute__((visibility("hidden"), used)) int larder_is_ours(long number, unsigned long first, unsigned long second)
{
	if (!larder_real_syscall)
		find_real_syscall();
	return is_fork(number, first, second) || memory_call_is_known(number);
}

__attribute__((visibility("hidden"), used)) long larder_syscall(long number, long a, long b, long c, long d, long e,
								long f)
{
	const long arguments[] = { a, b, c, d, e, f };
	long result;

	if (memory_call_is_known(number)) {
		result = memory_call(number, arguments);
		if (result >= 0 || result < -4095)
			return result;
		errno = (int)-result;
		return -1;
	}
	fork_before();
	result = larder_real_syscall(number, a, b, c, d, e);
	if (result == 0)
		fork_after_in_child();
	else
		fork_after_in_parent();
	return result;
}

__asm__(".text\n"
	".globl syscall\n"
	".type syscall, @function\n"
	"syscall:\n"
	"	endbr64\n"
	"	push %rdi\n"
	"	push %rsi\n"
	"	push %rdx\n"
	"	push %rcx\n"
	"	push %r8\n"
	"	push %r9\n"
	"	sub $8, %rsp\n"
	"	call larder_is_ours\n"
	"	add $8, %rsp\n"
	"	pop %r9\n"
	"	pop %r8\n"
	"	pop %rcx\n"
	"	pop %rdx\n"
	"	pop %rsi\n"
	"	pop %rdi\n"
	"	test %eax, %eax\n"
	"	jnz 1f\n"
	"	jmp *larder_real_syscall(%rip)\n"
	"1:	jmp larder_syscall\n"
	".size syscall, .-syscall\n");

/* ---- clone() ---- */

/* On the parent's stack, of which the child has a copy. */
struct start {
	int (*run)(void *);
	void *arg;
};

static int start_child(void *arg)
{
	const struct start *start = arg;

	fork_after_in_child();
	/* libc would end this thread only, and the internal ones would live on. */
	sys_call3(SYS_exit_group, start->run(start->arg), 0, 0);
	return 0;
}

LARDER_PUBLIC int clone(int (*run)(void *), void *stack, int flags, void *arg, ...)
{
	static int (*real)(int (*)(void *), void *, int, void *, ...);
	struct start start = { run, arg };
	void *rest[3];
	va_list args;
	int result;

	va_start(args, arg);
	for (int i = 0; i < 3; i++) /* where there are fewer, whatever is there: the flags say what counts */
		rest[i] = va_arg(args, void *);
	va_end(args);
	if (!real)
		*(void **)&real = dlsym(RTLD_NEXT, "clone");
	if (flags & CLONE_VM || !run || !stack)
		return real(run, stack, flags, arg, rest[0], rest[1], rest[2]);
	fork_before();
	result = real(start_child, stack, flags, &start, rest[0], rest[1], rest[2]);
	fork_after_in_parent();
	return result;
}
