/*
 * System call instructions of the program's own, past libc, on memory that has been taken out: what is unmapped, moved
 * or mapped over is not Larder's any more, and what the kernel puts there is left alone.
 *
 *   unseen_calls
 *
 * An unmodified program, to be run with a limit of a fraction of what it touches. Exit status: 0, or 1 when something
 * is wrong.
 */
#include "mix.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 2048, FILLER_BYTES = 96 << 20, ROUNDS = 6 };

static long call(long number, const void *a, size_t b, long c, long d, const void *e)
{
	register long r10 __asm__("r10") = d;
	register const void *r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = 0;
	long result;

	if (number == SYS_mmap)
		r8 = (const void *)-1L;
	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}

static void expect(int condition, const char *what)
{
	if (condition)
		return;
	fprintf(stderr, "unseen_calls: %s\n", what);
	_exit(1);
}

static void fill(uint64_t *p, size_t pages, uint64_t seed)
{
	for (size_t i = 0; i < pages * PAGE / 8; i++)
		p[i] = i % 4 ? seed : mix(seed + i);
}

static int is_filled(const uint64_t *p, size_t pages, uint64_t seed)
{
	for (size_t i = 0; i < pages * PAGE / 8; i++)
		if (p[i] != (i % 4 ? seed : mix(seed + i)))
			return 0;
	return 1;
}

static void evict_all(void)
{
	static volatile char *filler;

	if (!filler)
		filler = malloc(FILLER_BYTES);
	for (int times = 0; times < 2; times++)
		for (size_t i = 0; i < FILLER_BYTES; i += PAGE)
			filler[i] = (char)(i >> 12);
}

static uint64_t *map_away(uint64_t seed)
{
	uint64_t *p = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	expect(p != MAP_FAILED, "mmap failed");
	fill(p, PAGES, seed);
	evict_all();
	return p;
}

/* The kernel's own memory lies where ours was: it stays as it is. Returns 0 when somebody else has got the addresses.
 */
static int what_lies_where_memory_was_unmapped_is_left_alone(uint64_t seed)
{
	uint64_t *p = map_away(seed);
	long got;

	expect(call(SYS_munmap, p, PAGES * PAGE, 0, 0, 0) == 0, "munmap failed");
	got = call(SYS_mmap, p, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
		   0);
	if (got == -EEXIST)
		return 0;
	expect(got == (long)p, "mmap failed");
	expect(p[0] == 0 && p[PAGES * PAGE / 8 - 1] == 0, "new memory is not zero");
	fill(p, PAGES, ~seed);
	evict_all();
	expect(is_filled(p, PAGES, ~seed), "memory where memory was unmapped has changed");
	expect(munmap(p, PAGES * PAGE) == 0, "munmap of libc failed");
	return 1;
}

static void what_is_mapped_over_memory_is_left_alone(uint64_t seed)
{
	uint64_t *p = map_away(seed);

	expect(call(SYS_mmap, p + PAGE / 8, (PAGES - 2) * PAGE, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, 0) == (long)(p + PAGE / 8),
	       "mmap over memory failed");
	for (size_t i = 1; i < PAGES - 1; i++)
		expect(p[i * PAGE / 8] == 0, "what was mapped over memory is not zero");
	fill(p + PAGE / 8, PAGES - 2, ~seed);
	evict_all();
	expect(is_filled(p + PAGE / 8, PAGES - 2, ~seed), "what was mapped over memory has changed");
	expect(is_filled(p, 1, seed), "the page before it has changed");
	expect(munmap(p, PAGES * PAGE) == 0, "munmap of libc failed");
}

static void what_is_moved_away_has_its_content(uint64_t seed)
{
	uint64_t *p = map_away(seed);
	uint64_t *to = (uint64_t *)call(SYS_mmap, NULL, PAGES * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, 0);

	expect(call(SYS_mremap, p, PAGES * PAGE, PAGES * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to) == (long)to,
	       "mremap failed");
	expect(is_filled(to, PAGES, seed), "what was moved has changed");
	evict_all();
	expect(is_filled(to, PAGES, seed), "what was moved has changed later");
	expect(call(SYS_munmap, to, PAGES * PAGE, 0, 0, 0) == 0, "munmap failed");
}

static void a_child_has_what_its_parent_had(uint64_t seed)
{
	uint64_t *p = map_away(seed);
	int status;
	pid_t pid;

	expect(call(SYS_munmap, p + PAGES / 2 * PAGE / 8, PAGES / 2 * PAGE, 0, 0, 0) == 0, "munmap failed");
	pid = fork();
	expect(pid >= 0, "fork failed");
	if (pid == 0) {
		evict_all();
		expect(is_filled(p, PAGES / 2, seed), "the child's memory has changed");
		_exit(0);
	}
	expect(waitpid(pid, &status, 0) == pid && status == 0, "the child failed");
	expect(is_filled(p, PAGES / 2, seed), "the parent's memory has changed");
	expect(munmap(p, PAGES / 2 * PAGE) == 0, "munmap of libc failed");
}

int main(void)
{
	int times = 0;

	for (uint64_t round = 1; round <= ROUNDS; round++) {
		times += what_lies_where_memory_was_unmapped_is_left_alone(round << 32);
		what_is_mapped_over_memory_is_left_alone(round << 40);
		what_is_moved_away_has_its_content(round << 48);
		a_child_has_what_its_parent_had(round << 24);
	}
	expect(times > 0, "the addresses were never free");
	return 0;
}
