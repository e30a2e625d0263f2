/*
 * Leaving a signal handler without a system call: everything is as it was, and what is not sure to be right is left to
 * the kernel. Each test is named for the claim that it proves.
 */
#include "mix.h"
#include "sigreturn.h"

#include <cpuid.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <ucontext.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

enum { PAGE = 4096, GENERAL = 15, AREA_BYTES = 16384 };
enum { FLAG_TF = 1 << 8, FLAG_NT = 1 << 14, FLAG_AC = 1 << 18 };

/* x87, SSE, AVX, and AVX-512's three: what XSAVE keeps of them. */
enum { COMPONENTS = 0xe7, FIRST_EXTENDED = 2, COMPONENTS_END = 8, HEADER_AT = 512 };

/* CF, PF, AF, ZF, SF, DF, OF */
enum { FLAGS = 0xcd5 };

/* What is in the registers before a fault, and after it. */
struct registers {
	uint64_t general[GENERAL]; /* rax (the address that is touched), rbx, rcx, rdx, rsi, rdi, rbp, r8 to r15 */
	uint64_t flags, red_zone[2];
	char area[AREA_BYTES] __attribute__((aligned(64)));
};

struct registers sigreturn_before, sigreturn_after;

_Static_assert(offsetof(struct registers, flags) == 120 && offsetof(struct registers, area) == 192, "as in touch()");

/* Load all of `before`, write to its address, store all in `after`. */
__attribute__((naked)) static void touch(void)
{
	__asm__("push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n\t"
		"mov $0xe7, %eax; xor %edx, %edx; xrstor64 sigreturn_before+192(%rip)\n\t"
		"pushq sigreturn_before+120(%rip); popfq\n\t"
		"mov sigreturn_before+0(%rip), %rax; mov sigreturn_before+8(%rip), %rbx\n\t"
		"mov sigreturn_before+16(%rip), %rcx; mov sigreturn_before+24(%rip), %rdx\n\t"
		"mov sigreturn_before+32(%rip), %rsi; mov sigreturn_before+40(%rip), %rdi\n\t"
		"mov sigreturn_before+48(%rip), %rbp; mov sigreturn_before+56(%rip), %r8\n\t"
		"mov sigreturn_before+64(%rip), %r9; mov sigreturn_before+72(%rip), %r10\n\t"
		"mov sigreturn_before+80(%rip), %r11; mov sigreturn_before+88(%rip), %r12\n\t"
		"mov sigreturn_before+96(%rip), %r13; mov sigreturn_before+104(%rip), %r14\n\t"
		"mov sigreturn_before+112(%rip), %r15\n\t"
		"mov %r14, -8(%rsp); mov %r15, -128(%rsp)\n\t"
		"mov %cl, (%rax)\n\t"
		"mov %rax, sigreturn_after+0(%rip); mov %rbx, sigreturn_after+8(%rip)\n\t"
		"mov %rcx, sigreturn_after+16(%rip); mov %rdx, sigreturn_after+24(%rip)\n\t"
		"mov %rsi, sigreturn_after+32(%rip); mov %rdi, sigreturn_after+40(%rip)\n\t"
		"mov %rbp, sigreturn_after+48(%rip); mov %r8, sigreturn_after+56(%rip)\n\t"
		"mov %r9, sigreturn_after+64(%rip); mov %r10, sigreturn_after+72(%rip)\n\t"
		"mov %r11, sigreturn_after+80(%rip); mov %r12, sigreturn_after+88(%rip)\n\t"
		"mov %r13, sigreturn_after+96(%rip); mov %r14, sigreturn_after+104(%rip)\n\t"
		"mov %r15, sigreturn_after+112(%rip)\n\t"
		"mov -8(%rsp), %rax; mov %rax, sigreturn_after+128(%rip)\n\t"
		"mov -128(%rsp), %rax; mov %rax, sigreturn_after+136(%rip)\n\t"
		"pushfq; popq sigreturn_after+120(%rip)\n\t"
		"pushq $0x202; popfq\n\t"
		"mov $0xe7, %eax; xor %edx, %edx; xsave64 sigreturn_after+192(%rip)\n\t"
		"pushq $0x1f80; ldmxcsr (%rsp); fninit; pop %rax\n\t"
		"pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n\t"
		"ret");
}

/* ---- the handler ---- */

static char *page;
static volatile int came_back; /* how often sigreturn_now() returned */

static void let_touch(void)
{
	mprotect(page, PAGE, PROT_READ | PROT_WRITE);
	__asm__ volatile("fninit; fld1; fldpi" ::: "st");
	__asm__ volatile("pxor %%xmm0, %%xmm0; pxor %%xmm15, %%xmm15" ::: "xmm0", "xmm15");
}

static void on_fault(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	if ((char *)info->si_addr - page >= PAGE || (char *)info->si_addr < page)
		abort(); /* not touch(), but who handled it: again and again */
	let_touch();
	sigreturn_now(context);
	came_back++;
}

static void handle(int flags)
{
	struct sigaction previous;

	assert_int_equal(sigreturn_install(SIGSEGV, on_fault, flags, &previous), 0);
	came_back = 0;
}

/* ---- registers ---- */

static uint64_t seed = 1;

static uint64_t next_random(void)
{
	return mix(seed++);
}

/* Where XSAVE keeps an extended component; 0 bytes: this processor has none. */
static size_t component_bytes(unsigned component, size_t *at)
{
	unsigned bytes, offset, c, d;

	__cpuid_count(13, component, bytes, offset, c, d);
	*at = offset;
	return offset + bytes <= AREA_BYTES ? bytes : 0;
}

static uint64_t components_here(void)
{
	unsigned low, high;

	__asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	return low & COMPONENTS;
}

static void fill_random(char *to, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		to[i] = (char)next_random();
}

static void fill_area(char *area)
{
	static const uint16_t x87_control = 0x37f;
	static const uint32_t mxcsr = 0x7f80; /* rounds towards zero */
	uint64_t present = components_here();

	memset(area, 0, AREA_BYTES);
	memcpy(area, &x87_control, sizeof(x87_control));
	memcpy(area + 24, &mxcsr, sizeof(mxcsr));
	memset(area + 4, 0xff, 1); /* no x87 register is empty */
	for (int i = 0; i < 8; i++)
		fill_random(area + 32 + i * 16, 10);
	fill_random(area + 160, 256); /* XMM */
	for (unsigned c = FIRST_EXTENDED; c < COMPONENTS_END; c++) {
		size_t at, bytes = present >> c & 1 ? component_bytes(c, &at) : 0;

		if (bytes)
			fill_random(area + at, bytes);
	}
	memcpy(area + HEADER_AT, &present, sizeof(present));
}

static void prepare(uint64_t more_flags)
{
	struct registers *r = &sigreturn_before;

	for (int i = 0; i < GENERAL; i++)
		r->general[i] = next_random();
	r->general[0] = (uintptr_t)page + next_random() % PAGE;
	r->flags = 0x202 | (next_random() & FLAGS) | more_flags;
	r->red_zone[0] = r->general[13];
	r->red_zone[1] = r->general[14];
	fill_area(r->area);
	memset(&sigreturn_after, 0, sizeof(sigreturn_after));
	mprotect(page, PAGE, PROT_NONE);
}

static void check(void)
{
	const struct registers *before = &sigreturn_before, *after = &sigreturn_after;
	uint64_t present = components_here();

	assert_memory_equal(after->general, before->general, sizeof(before->general));
	assert_int_equal(after->flags, before->flags);
	assert_memory_equal(after->red_zone, before->red_zone, sizeof(before->red_zone));
	assert_memory_equal(after->area + 24, before->area + 24, 4);
	for (int i = 0; i < 8; i++)
		assert_memory_equal(after->area + 32 + i * 16, before->area + 32 + i * 16, 10);
	assert_memory_equal(after->area + 160, before->area + 160, 256);
	for (unsigned c = FIRST_EXTENDED; c < COMPONENTS_END; c++) {
		size_t at, bytes = present >> c & 1 ? component_bytes(c, &at) : 0;

		if (bytes)
			assert_memory_equal(after->area + at, before->area + at, bytes);
	}
}

static void fault(uint64_t more_flags)
{
	prepare(more_flags);
	touch();
	check();
}

/* ---- tests ---- */

static void every_register_is_as_it_was(void **state)
{
	(void)state;
	handle(0);
	for (int i = 0; i < 1000; i++)
		fault(0);
	assert_int_equal(came_back, 0);
}

static void a_frame_on_another_stack_is_left_to_the_kernel(void **state)
{
	static char stack[1 << 16];

	(void)state;
	assert_int_equal(sigaltstack(&(stack_t){ .ss_sp = stack, .ss_size = sizeof(stack) }, NULL), 0);
	handle(SA_ONSTACK);
	for (int i = 0; i < 100; i++)
		fault(0);
	assert_int_equal(came_back, 100);
	assert_int_equal(sigaltstack(&(stack_t){ .ss_flags = SS_DISABLE }, NULL), 0);
}

static void *touch_at_the_end(void *unused)
{
	touch();
	return unused;
}

/* The frame's end is some hundred bytes below the stack's; a component that it lacks would lie beyond. */
static void what_lies_above_the_stack_is_not_touched(void **state)
{
	enum { STACK_BYTES = 1 << 18 };
	char *map = mmap(NULL, STACK_BYTES + AREA_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	pthread_attr_t attr;
	pthread_t thread;

	(void)state;
	assert_ptr_not_equal(map, MAP_FAILED);
	assert_int_equal(mprotect(map, STACK_BYTES, PROT_READ | PROT_WRITE), 0);
	handle(0);
	pthread_attr_init(&attr);
	assert_int_equal(pthread_attr_setstack(&attr, map, STACK_BYTES), 0);
	for (int i = 0; i < 100; i++) {
		prepare(0);
		assert_int_equal(pthread_create(&thread, &attr, touch_at_the_end, NULL), 0);
		pthread_join(thread, NULL);
		check();
	}
	assert_int_equal(came_back, 0);
	pthread_attr_destroy(&attr);
	munmap(map, STACK_BYTES + AREA_BYTES);
}

static uint64_t mask(void)
{
	sigset_t set;
	uint64_t bits;

	sigprocmask(SIG_SETMASK, NULL, &set);
	memcpy(&bits, &set, sizeof(bits));
	return bits;
}

static void the_mask_is_as_it_was(void **state)
{
	sigset_t some;
	uint64_t before;

	(void)state;
	handle(0);
	sigemptyset(&some);
	sigaddset(&some, SIGUSR1);
	sigprocmask(SIG_BLOCK, &some, NULL);
	before = mask();
	fault(0);
	assert_int_equal(came_back, 0);
	assert_true(mask() == before);
	sigprocmask(SIG_UNBLOCK, &some, NULL);
}

/* It returns through the kernel, which unblocks what was blocked for it: else the second fault would be the end. */
static void ours_called_by_another_handler_returns_to_it(void **state)
{
	struct sigaction action = { .sa_flags = SA_SIGINFO }, ours;
	uint64_t before = mask();

	(void)state;
	handle(0);
	sigaction(SIGSEGV, NULL, &ours);
	action.sa_sigaction = ours.sa_sigaction;
	sigaddset(&action.sa_mask, SIGUSR2);
	assert_int_equal(sigaction(SIGSEGV, &action, NULL), 0);
	for (int i = 0; i < 100; i++)
		fault(0);
	assert_int_equal(came_back, 100);
	assert_true(mask() == before);
}

static void what_was_installed_before_is_told(void **state)
{
	struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK }, previous;

	(void)state;
	sigaddset(&action.sa_mask, SIGUSR2);
	assert_int_equal(sigaction(SIGSEGV, &action, NULL), 0);
	assert_int_equal(sigreturn_install(SIGSEGV, on_fault, 0, &previous), 0);
	assert_true(previous.sa_sigaction == on_fault);
	assert_int_equal(previous.sa_flags & (SA_SIGINFO | SA_ONSTACK | SA_NODEFER), SA_SIGINFO | SA_ONSTACK);
	assert_true(sigismember(&previous.sa_mask, SIGUSR2) == 1 && sigismember(&previous.sa_mask, SIGUSR1) == 0);
	assert_int_equal(sigreturn_install(-1, on_fault, 0, &previous), -EINVAL);
}

/* Whether the handler runs there or not. */
static void a_stack_that_is_disarmed_is_armed_again(void **state)
{
	static char stack[1 << 16];
	const stack_t disarmed = { .ss_sp = stack, .ss_size = sizeof(stack), .ss_flags = (int)(1u << 31) };
	const int flags[] = { 0, SA_ONSTACK };
	stack_t now;

	(void)state;
	assert_int_equal(sigaltstack(&disarmed, NULL), 0);
	for (int i = 0; i < 2; i++) {
		handle(flags[i]);
		fault(0);
		assert_int_equal(came_back, 1);
		assert_int_equal(sigaltstack(NULL, &now), 0);
		assert_ptr_equal(now.ss_sp, stack);
	}
	assert_int_equal(sigaltstack(&(stack_t){ .ss_flags = SS_DISABLE }, NULL), 0);
}

static void on_trap(int signal)
{
	(void)signal;
}

static void flags_that_act_at_once_are_left_to_the_kernel(void **state)
{
	const int flags[] = { FLAG_TF, FLAG_NT, FLAG_AC };

	(void)state;
	signal(SIGTRAP, on_trap);
	for (int i = 0; i < 3; i++) {
		handle(0);
		fault((uint64_t)flags[i]);
		assert_int_equal(came_back, 1);
	}
	signal(SIGTRAP, SIG_DFL);
}

static volatile int ticks;

static void on_tick(int signal)
{
	(void)signal;
	ticks++;
}

static void other_signals_may_come_at_any_time(void **state)
{
	const struct itimerval often = { .it_interval.tv_usec = 20, .it_value.tv_usec = 20 }, never = { 0 };
	struct sigaction action = { .sa_handler = on_tick, .sa_flags = SA_RESTART };

	(void)state;
	handle(0);
	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &often, NULL);
	for (int i = 0; i < 5000; i++)
		fault(0);
	setitimer(ITIMER_REAL, &never, NULL);
	assert_int_equal(came_back, 0);
	assert_true(ticks > 100);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_register_is_as_it_was),
		cmocka_unit_test(a_frame_on_another_stack_is_left_to_the_kernel),
		cmocka_unit_test(what_lies_above_the_stack_is_not_touched),
		cmocka_unit_test(the_mask_is_as_it_was),
		cmocka_unit_test(ours_called_by_another_handler_returns_to_it),
		cmocka_unit_test(what_was_installed_before_is_told),
		cmocka_unit_test(a_stack_that_is_disarmed_is_armed_again),
		cmocka_unit_test(flags_that_act_at_once_are_left_to_the_kernel),
		cmocka_unit_test(other_signals_may_come_at_any_time),
	};

	page = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
