/*
 * Sigreturn. See sigreturn.h.
 *
 * The frame (arch/x86/include/asm/sigframe.h): the return address, which the handler finds where a call would have put
 * it, and right above it the ucontext. The return address is the action's restorer, and this one's is its own: so the
 * frame says whether the kernel acted by it, with no signal blocked, or by an action of the program's.
 *
 * Not handled here, but left to the kernel: a shadow stack, on which it has left a token; a frame on another stack than
 * the one that was interrupted; an alternate stack that it disarms for the time of the handler (SS_AUTODISARM); a frame
 * without XSAVE's format; code of another segment; and the flags that would act on the last instructions here, TF, NT
 * and AC. The flag RF is not put back: after a hardware breakpoint on the very instruction that faulted, a debugger
 * sees it once more.
 */
#include "sigreturn.h"

#include "sys.h"

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <ucontext.h>

#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1u << 31)
#endif

#ifndef SA_RESTORER
#define SA_RESTORER 0x04000000
#endif

enum { UC_FP_XSTATE = 1, FLAG_TF = 1 << 8, FLAG_NT = 1 << 14, FLAG_AC = 1 << 18 };

/* What belongs to a function below its stack pointer; the frame is below that. And more than a frame can be long. */
enum { RED_ZONE_BYTES = 128, FRAME_MAX_BYTES = 64 << 10 };

/* As the system call has it. */
struct kernel_action {
	void (*handler)(int, siginfo_t *, void *);
	unsigned long flags;
	void (*restorer)(void);
	uint64_t mask;
};

/* What a handler returns to. Debuggers and unwinders know a signal's frame by these very bytes. */
__attribute__((naked)) static void restorer(void)
{
	__asm__("mov $15, %rax\n\t" /* SYS_rt_sigreturn */
		"syscall");
}

int sigreturn_install(int signal, void (*handler)(int, siginfo_t *, void *), int flags, struct sigaction *previous)
{
	const struct kernel_action action = {
		.handler = handler,
		.flags = SA_SIGINFO | SA_NODEFER | SA_RESTORER | (unsigned)flags,
		.restorer = restorer,
	};
	struct kernel_action old;
	long err = sys_call6(SYS_rt_sigaction, signal, (long)&action, (long)&old, sizeof(action.mask), 0, 0);

	if (err < 0)
		return (int)err;
	*previous = (struct sigaction){ .sa_sigaction = old.handler, .sa_flags = (int)old.flags };
	__builtin_memcpy(&previous->sa_mask, &old.mask, sizeof(old.mask));
	return 0;
}

_Static_assert(offsetof(ucontext_t, uc_mcontext.gregs) + REG_RSP * sizeof(greg_t) == 160, "as in resume()");
_Static_assert(offsetof(ucontext_t, uc_mcontext.fpregs) == 224, "as in resume()");
_Static_assert(sizeof(struct _fpstate) - sizeof(struct _fpx_sw_bytes) + offsetof(struct _fpx_sw_bytes, xstate_bv) ==
		       472,
	       "as in resume()");

static int has_shadow_stack(void)
{
	uint64_t pointer = 0;

	__asm__ volatile("rdsspq %0" : "+r"(pointer)); /* does nothing where there is none */
	return pointer != 0;
}

static int same_segments(const ucontext_t *uc)
{
	uint16_t cs, ss;

	__asm__("mov %%cs, %0" : "=r"(cs));
	__asm__("mov %%ss, %0" : "=r"(ss));
	return (uint16_t)uc->uc_mcontext.gregs[REG_CSGSFS] == cs &&
	       (uint16_t)(uc->uc_mcontext.gregs[REG_CSGSFS] >> 48) == ss;
}

/* Vector registers are at the upper end of the frame, right below the red zone. */
static int is_on_interrupted_stack(const ucontext_t *uc)
{
	uintptr_t end = (uintptr_t)uc->uc_mcontext.gregs[REG_RSP] - RED_ZONE_BYTES;

	return end - (uintptr_t)uc->uc_mcontext.fpregs < FRAME_MAX_BYTES;
}

/*
 * The vector registers, those that the frame says it has: there need not be any memory where others would lie (a thread
 * that may not use AMX has no place for its tiles, and XRSTOR reads what it is asked for). Their place is free then.
 * The last that are needed go there, right below the red zone: where to go on, flags, RDI, RCX. Then the others, and
 * the stack pointer to where these four are: whatever signal comes from now on uses the stack below. Their number and
 * the red zone are what is popped to have the stack pointer as it was.
 */
__attribute__((naked, noreturn)) static void resume(ucontext_t *uc __attribute__((unused)))
{
	__asm__("mov 224(%rdi), %rcx\n\t"
		"mov 472(%rcx), %eax\n\t"
		"mov 476(%rcx), %edx\n\t"
		"xrstor64 (%rcx)\n\t"
		"mov 160(%rdi), %rcx\n\t"
		"mov 168(%rdi), %rax\n\t"
		"mov 176(%rdi), %rdx\n\t"
		"mov 104(%rdi), %rsi\n\t"
		"mov 152(%rdi), %rbx\n\t"
		"mov %rax, -136(%rcx)\n\t"
		"mov %rdx, -144(%rcx)\n\t"
		"mov %rsi, -152(%rcx)\n\t"
		"mov %rbx, -160(%rcx)\n\t"
		"mov 40(%rdi), %r8\n\t"
		"mov 48(%rdi), %r9\n\t"
		"mov 56(%rdi), %r10\n\t"
		"mov 64(%rdi), %r11\n\t"
		"mov 72(%rdi), %r12\n\t"
		"mov 80(%rdi), %r13\n\t"
		"mov 88(%rdi), %r14\n\t"
		"mov 96(%rdi), %r15\n\t"
		"mov 112(%rdi), %rsi\n\t"
		"mov 120(%rdi), %rbp\n\t"
		"mov 128(%rdi), %rbx\n\t"
		"mov 136(%rdi), %rdx\n\t"
		"mov 144(%rdi), %rax\n\t"
		"lea -160(%rcx), %rsp\n\t"
		"pop %rcx\n\t"
		"pop %rdi\n\t"
		"popfq\n\t"
		"ret $128");
}

void sigreturn_now(void *context)
{
	ucontext_t *uc = context;
	void (*const *returns_to)(void) = (void *)((char *)context - sizeof(void *));

	if (*returns_to == restorer && uc->uc_flags & UC_FP_XSTATE && is_on_interrupted_stack(uc) &&
	    !((unsigned)uc->uc_stack.ss_flags & SS_AUTODISARM) &&
	    !(uc->uc_mcontext.gregs[REG_EFL] & (FLAG_TF | FLAG_NT | FLAG_AC)) && same_segments(uc) &&
	    !has_shadow_stack())
		resume(uc);
}
