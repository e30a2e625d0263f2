/*
 * mmap_family: madvise, msync, mincore. Advice that throws away does so, wherever the pages are; all other advice
 * changes no byte.
 */
#include "mmap_family.h"

#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* Later than the C library of Debian 12. */
enum { ADVICE_COLLAPSE = 25, ADVICE_GUARD_INSTALL = 102, ADVICE_GUARD_REMOVE = 103 };

#ifndef PR_SET_VMA
#define PR_SET_VMA	     0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif

static void advise(void *at, size_t pages, int advice)
{
	if (madvise(at, pages * PAGE, advice))
		FAIL("madvise(%p, %zu pages, %d) failed with errno %d", at, pages, advice, errno);
}

/* ---- advice that throws away ---- */

static void dontneed_reads_zeroes_though_evicted(void)
{
	unsigned char *p = map_filled(AREA);

	advise(p + 100 * PAGE, 300, MADV_DONTNEED);
	advise(p + 700 * PAGE, 1, MADV_DONTNEED);
	for (int i = 0; i < 2; i++) {
		EXPECT_CONTENT(p, 0, 100, 1);
		EXPECT_ZEROES(p + 100 * PAGE, 300);
		EXPECT_CONTENT(p + 400 * PAGE, 400, 300, 1);
		EXPECT_ZEROES(p + 700 * PAGE, 1);
		EXPECT_CONTENT(p + 701 * PAGE, 701, AREA - 701, 1);
		evict_all();
	}
	fill(p + 100 * PAGE, 0, 300, 2);
	evict_all();
	EXPECT_CONTENT(p + 100 * PAGE, 0, 300, 2);
	unmap(p, AREA);
}

static void dontneed_of_all_is_all(void)
{
	unsigned char *p = map_filled(AREA);

	for (uint64_t round = 0; round < 20; round++) {
		advise(p, AREA, MADV_DONTNEED);
		EXPECT_ZEROES(p, AREA);
		fill(p, 0, AREA, round);
	}
	unmap(p, AREA);
}

/* What is there is dropped all the same. */
static void dontneed_across_a_hole_says_so(void)
{
	unsigned char *p = map_filled(AREA);

	unmap(p + 400 * PAGE, 10);
	EXPECT_ERROR(madvise(p + 300 * PAGE, 200 * PAGE, MADV_DONTNEED), ENOMEM);
	EXPECT_CONTENT(p, 0, 300, 1);
	EXPECT_ZEROES(p + 300 * PAGE, 100);
	EXPECT_ZEROES(p + 410 * PAGE, 90);
	EXPECT_CONTENT(p + 500 * PAGE, 500, AREA - 500, 1);
	unmap(p, AREA);
}

static void dontneed_of_protected_memory_empties_it(void)
{
	unsigned char *p = map_filled(AREA);

	EXPECT(mprotect(p, 100 * PAGE, PROT_READ) == 0 && mprotect(p + 100 * PAGE, 100 * PAGE, PROT_NONE) == 0);
	advise(p, 200, MADV_DONTNEED);
	EXPECT_ZEROES(p, 100);
	EXPECT_SIGNAL(p, 100, WRITES, SIGSEGV);
	EXPECT(mprotect(p, 200 * PAGE, PROT_READ | PROT_WRITE) == 0);
	EXPECT_ZEROES(p, 200);
	EXPECT_CONTENT(p + 200 * PAGE, 200, AREA - 200, 1);
	unmap(p, AREA);
}

/* A page that was freed is whole or empty; one that was written to since stays. */
static void free_leaves_old_or_zeroes(void)
{
	unsigned char *p = map_filled(AREA);

	advise(p, AREA / 2, MADV_FREE);
	for (size_t i = 0; i < AREA / 2; i += 2)
		fill(p + i * PAGE, i, 1, 2);
	evict_all();
	for (size_t i = 0; i < AREA / 2; i++)
		if (i % 2 == 0)
			EXPECT_CONTENT(p + i * PAGE, i, 1, 2);
		else if (!is_content(p + i * PAGE, i, 1))
			EXPECT_ZEROES(p + i * PAGE, 1);
	EXPECT_CONTENT(p + AREA / 2 * PAGE, AREA / 2, AREA / 2, 1);
	unmap(p, AREA);
}

/* On plain memory a page that reads as freed may go at any time, but does not come back. */
static void what_was_freed_does_not_come_back(void)
{
	unsigned char *p = map_filled(AREA);
	static unsigned char was_empty[AREA];

	advise(p, AREA, MADV_FREE);
	for (int round = 0; round < 2; round++) {
		for (size_t i = 0; i < AREA; i++) {
			int is_old = is_content(p + i * PAGE, i, 1);

			if (!is_old)
				EXPECT_ZEROES(p + i * PAGE, 1);
			if (was_empty[i] && is_old)
				FAIL("page %zu was empty and has its old content again", i);
			was_empty[i] = !is_old;
		}
		evict_all();
	}
	unmap(p, AREA);
}

static void remove_is_for_files(void)
{
	unsigned char *p = map_filled(AREA);

	EXPECT_ERROR(madvise(p, AREA * PAGE, MADV_REMOVE), EINVAL);
	EXPECT_CONTENT(p, 0, AREA, 1);
	unmap(p, AREA);
}

/* ---- advice that changes nothing ---- */

static void advice_changes_no_byte(void)
{
	static const int advices[] = { MADV_NORMAL,	MADV_RANDOM,	 MADV_SEQUENTIAL,    MADV_WILLNEED,
				       MADV_NOHUGEPAGE, MADV_HUGEPAGE,	 MADV_DONTDUMP,	     MADV_DODUMP,
				       MADV_COLD,	MADV_PAGEOUT,	 MADV_DONTFORK,	     MADV_DOFORK,
				       MADV_WIPEONFORK, MADV_KEEPONFORK, MADV_POPULATE_READ, MADV_POPULATE_WRITE,
				       MADV_NORMAL };
	unsigned char *p = map_filled(AREA);

	for (size_t i = 0; i < sizeof(advices) / sizeof(advices[0]); i++) {
		advise(p + 100 * PAGE, 700, advices[i]);
		EXPECT_CONTENT(p + 90 * PAGE, 90, 30, 1);
		EXPECT_CONTENT(p + 790 * PAGE, 790, 20, 1);
		if (i % 4 == 0)
			evict_all();
	}
	EXPECT_CONTENT(p, 0, AREA, 1);
	unmap(p, AREA);
}

/* May be refused, for want of a huge page above all. */
static void collapse_changes_no_byte(void)
{
	unsigned char *p = map_filled(2 * AREA);

	for (size_t i = 0; i < 2 * AREA; i += 256)
		if (madvise(p + i * PAGE, 512 * PAGE, ADVICE_COLLAPSE) && errno == EINVAL)
			break;
	EXPECT_CONTENT(p, 0, 2 * AREA, 1);
	evict_all();
	EXPECT_CONTENT(p, 0, 2 * AREA, 1);
	unmap(p, 2 * AREA);
}

static void merging_changes_no_byte(void)
{
	unsigned char *p = map_filled(AREA);

	if (madvise(p, AREA * PAGE, MADV_MERGEABLE))
		skip("the kernel has no KSM");
	fill(p, 0, AREA / 2, 2);
	evict_all();
	advise(p, AREA, MADV_UNMERGEABLE);
	EXPECT_CONTENT(p, 0, AREA / 2, 2);
	EXPECT_CONTENT(p + AREA / 2 * PAGE, AREA / 2, AREA / 2, 1);
	unmap(p, AREA);
}

static void pages_that_are_populated_are_in_core(void)
{
	unsigned char *p = map(AREA);

	advise(p, AREA, MADV_NOHUGEPAGE);
	fill(p, 0, 100, 1);
	evict_all();
	advise(p, 300, MADV_POPULATE_WRITE);
	advise(p + 300 * PAGE, 200, MADV_POPULATE_READ);
	EXPECT_SAME(mincore_pages(p, 500), 500);
	EXPECT_SAME(mincore_pages(p + (500 + AROUND) * PAGE, AREA - 500 - AROUND), 0);
	EXPECT_CONTENT(p, 0, 100, 1);
	EXPECT_ZEROES(p + 100 * PAGE, AREA - 100);
	unmap(p, AREA);
}

static void populating_heeds_protections(void)
{
	unsigned char *p = map_filled(AREA);

	EXPECT(mprotect(p, 100 * PAGE, PROT_READ) == 0 && mprotect(p + 100 * PAGE, 100 * PAGE, PROT_NONE) == 0);
	advise(p, 100, MADV_POPULATE_READ);
	EXPECT_ERROR(madvise(p, 100 * PAGE, MADV_POPULATE_WRITE), EINVAL);
	EXPECT_ERROR(madvise(p + 100 * PAGE, 100 * PAGE, MADV_POPULATE_READ), EINVAL);
	unmap(p + 200 * PAGE, 100);
	EXPECT_ERROR(madvise(p + 200 * PAGE, 100 * PAGE, MADV_POPULATE_READ), ENOMEM);
	EXPECT(mprotect(p, 200 * PAGE, PROT_READ | PROT_WRITE) == 0);
	EXPECT_CONTENT(p, 0, 200, 1);
	unmap(p, AREA);
}

static int thp_is_on(void)
{
	char text[128] = "";
	FILE *f = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "re");

	if (f) {
		if (!fgets(text, sizeof(text), f))
			text[0] = 0;
		fclose(f);
	}
	return text[0] && !strstr(text, "[never]");
}

/* Below any limit; a part that is aligned is all it takes. */
static void huge_pages_before_pressure(void)
{
	unsigned char *p;

	if (!is_first)
		skip("there has been pressure");
	if (!thp_is_on())
		skip("transparent huge pages are off");
	p = map(2 * AREA);
	advise(p, 2 * AREA, MADV_HUGEPAGE);
	fill(p, 0, 2 * AREA, 1);
	if (smaps_bytes("AnonHugePages:", p, 2 * AREA) == 0)
		FAIL("none of %d MiB is in huge pages", 2 * AREA / PAGES_PER_MIB);
	evict_all();
	EXPECT_CONTENT(p, 0, 2 * AREA, 1);
	advise(p + 300 * PAGE, AREA, MADV_DONTNEED);
	EXPECT_ZEROES(p + 300 * PAGE, AREA);
	EXPECT_CONTENT(p, 0, 300, 1);
	EXPECT_CONTENT(p + (300 + AREA) * PAGE, 300 + AREA, AREA - 300, 1);
	unmap(p, 2 * AREA);
}

/* ---- guards ---- */

static void guards_fault_until_they_are_removed(void)
{
	unsigned char *small = map(4), *p;

	if (madvise(small, PAGE, ADVICE_GUARD_INSTALL))
		skip("the kernel has no guard regions");
	unmap(small, 4);
	p = map_filled(AREA);
	advise(p + 100 * PAGE, 20, ADVICE_GUARD_INSTALL);
	for (int i = 0; i < 2; i++) {
		EXPECT_CONTENT(p, 0, 100, 1);
		EXPECT_SIGNAL(p + 100 * PAGE, 20, READS, SIGSEGV);
		EXPECT_SIGNAL(p + 100 * PAGE, 20, WRITES, SIGSEGV);
		EXPECT_CONTENT(p + 120 * PAGE, 120, AREA - 120, 1);
		evict_all();
	}
	advise(p + 110 * PAGE, 5, MADV_DONTNEED);
	EXPECT_SIGNAL(p + 100 * PAGE, 20, READS, SIGSEGV);
	advise(p + 90 * PAGE, 30, ADVICE_GUARD_REMOVE);
	EXPECT_ZEROES(p + 100 * PAGE, 20);
	EXPECT_CONTENT(p, 0, 100, 1);
	unmap(p, AREA);
}

/* ---- what the kernel shows ---- */

static void the_kernel_knows_the_advice(void)
{
	static const struct {
		int on, off;
		const char *flag;
	} advices[] = {
		{ MADV_DONTDUMP, MADV_DODUMP, "dd" },	    { MADV_DONTFORK, MADV_DOFORK, "dc" },
		{ MADV_WIPEONFORK, MADV_KEEPONFORK, "wf" }, { MADV_SEQUENTIAL, MADV_NORMAL, "sr" },
		{ MADV_RANDOM, MADV_NORMAL, "rr" },
	};
	unsigned char *p = map_filled(AREA);

	for (size_t i = 0; i < sizeof(advices) / sizeof(advices[0]); i++) {
		advise(p + 100 * PAGE, 100, advices[i].on);
		if (!has_vm_flag(p + 100 * PAGE, advices[i].flag) || has_vm_flag(p, advices[i].flag) ||
		    has_vm_flag(p + 200 * PAGE, advices[i].flag))
			FAIL("flag %s is not where it was put", advices[i].flag);
		advise(p + 100 * PAGE, 100, advices[i].off);
		EXPECT(!has_vm_flag(p + 100 * PAGE, advices[i].flag));
	}
	EXPECT_CONTENT(p, 0, AREA, 1);
	unmap(p, AREA);
}

static void a_name_changes_no_byte(void)
{
	unsigned char *p = map_filled(AREA);

	prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, p + 100 * PAGE, 100 * PAGE, "a name");
	EXPECT_CONTENT(p, 0, AREA, 1);
	evict_all();
	EXPECT_CONTENT(p, 0, AREA, 1);
	unmap(p + 50 * PAGE, 100);
	EXPECT_CONTENT(p + 150 * PAGE, 150, AREA - 150, 1);
	unmap(p, AREA);
}

/* A process may advise itself through a descriptor. */
static void process_madvise_is_madvise(void)
{
	unsigned char *p = map_filled(AREA);
	struct iovec ranges[2] = { { p, 100 * PAGE }, { p + 300 * PAGE, 100 * PAGE } };
	int self = (int)syscall(SYS_pidfd_open, getpid(), 0);

	EXPECT(self >= 0);
	EXPECT_SAME(syscall(SYS_process_madvise, self, ranges, 2L, MADV_COLD, 0L), 200 * PAGE);
	EXPECT_CONTENT(p, 0, AREA, 1);
	EXPECT_SAME(syscall(SYS_process_madvise, self, ranges, 2L, MADV_PAGEOUT, 0L), 200 * PAGE);
	EXPECT_CONTENT(p, 0, AREA, 1);
	evict_all();
	if (syscall(SYS_process_madvise, self, ranges, 2L, MADV_DONTNEED, 0L) == 200 * PAGE) {
		EXPECT_ZEROES(p, 100);
		EXPECT_ZEROES(p + 300 * PAGE, 100);
		fill(p, 0, 100, 1);
		fill(p + 300 * PAGE, 300, 100, 1);
	}
	EXPECT_CONTENT(p, 0, AREA, 1);
	close(self);
	unmap(p, AREA);
}

/* ---- mincore ---- */

enum { STRIDE = 64 };

/* Of each STRIDE pages the first few have been touched. */
static void expect_touched(void *at, size_t touched)
{
	static unsigned char is_there[AREA];

	EXPECT(mincore(at, AREA * PAGE, is_there) == 0);
	for (size_t i = 0; i < AREA; i++)
		if (i % STRIDE < touched ? !(is_there[i] & 1) : is_there[i] & 1 && i % STRIDE >= touched + AROUND)
			FAIL("page %zu: %d", i, is_there[i]);
}

static void mincore_says_what_was_touched(void)
{
	unsigned char *p = map(AREA);

	advise(p, AREA, MADV_NOHUGEPAGE);
	EXPECT_SAME(mincore_pages(p, AREA), 0);
	for (size_t i = 0; i < AREA; i += STRIDE)
		fill(p + i * PAGE, i, 10, 1);
	expect_touched(p, 10);
	evict_all();
	expect_touched(p, 10);
	advise(p, AREA / 2, MADV_DONTNEED);
	EXPECT_SAME(mincore_pages(p, AREA / 2), 0);
	EXPECT_ZEROES(p + PAGE, 1); /* a page that was read is there, too */
	EXPECT(mincore_pages(p + PAGE, 1) == 1 && mincore_pages(p, AREA / 2) <= 1 + AROUND);
	unmap(p, AREA);
}

static void mincore_errors_are_the_kernels(void)
{
	unsigned char *p = map_filled(AREA);
	static unsigned char is_there[AREA];

	EXPECT_ERROR(mincore(p + 1, PAGE, is_there), EINVAL);
	EXPECT_ERROR(mincore(p, AREA * PAGE, (unsigned char *)8), EFAULT);
	EXPECT(mincore(p, 0, is_there) == 0);
	unmap(p + 10 * PAGE, 1);
	EXPECT_ERROR(mincore(p, AREA * PAGE, is_there), ENOMEM);
	EXPECT(mincore(p, 10 * PAGE, is_there) == 0);
	unmap(p, AREA);
}

/* ---- msync and errors ---- */

static void msync_has_nothing_to_do(void)
{
	unsigned char *p = map_filled(AREA);

	EXPECT(msync(p, AREA * PAGE, MS_SYNC) == 0 && msync(p, AREA * PAGE, MS_ASYNC) == 0);
	EXPECT(msync(p, AREA * PAGE, MS_SYNC | MS_INVALIDATE) == 0 && msync(p, 0, MS_SYNC) == 0);
	EXPECT_ERROR(msync(p + 1, PAGE, MS_SYNC), EINVAL);
	EXPECT_ERROR(msync(p, PAGE, MS_SYNC | MS_ASYNC), EINVAL);
	EXPECT_ERROR(msync(p, PAGE, 64), EINVAL);
	EXPECT_CONTENT(p, 0, AREA, 1);
	unmap(p + 100 * PAGE, 100);
	EXPECT_ERROR(msync(p, AREA * PAGE, MS_SYNC), ENOMEM);
	unmap(p, AREA);
}

static void advice_errors_are_the_kernels(void)
{
	unsigned char *p = map_filled(AREA);

	EXPECT_ERROR(madvise(p + 1, PAGE, MADV_DONTNEED), EINVAL);
	EXPECT_ERROR(madvise(p + 1, PAGE, MADV_FREE), EINVAL);
	EXPECT_ERROR(madvise(p, PAGE, 4711), EINVAL);
	EXPECT_ERROR(madvise(p, SIZE_MAX - PAGE, MADV_DONTNEED), EINVAL);
	EXPECT(madvise(p, 0, MADV_DONTNEED) == 0);
	EXPECT_CONTENT(p, 0, AREA, 1);
	EXPECT(madvise(p, 1, MADV_DONTNEED) == 0); /* rounded up */
	EXPECT_ZEROES(p, 1);
	EXPECT_CONTENT(p + PAGE, 1, AREA - 1, 1);
	unmap(p, AREA);
	EXPECT_ERROR(madvise(p, AREA * PAGE, MADV_DONTNEED), ENOMEM);
	EXPECT_ERROR(madvise(p, AREA * PAGE, MADV_WILLNEED), ENOMEM);
	EXPECT_ERROR(madvise(p, AREA * PAGE, MADV_HUGEPAGE), ENOMEM);
	EXPECT(posix_madvise(p, PAGE, POSIX_MADV_DONTNEED) == 0); /* which does nothing */
}

const struct check advice_checks[] = {
	CHECK(dontneed_reads_zeroes_though_evicted),
	CHECK(dontneed_of_all_is_all),
	CHECK(dontneed_across_a_hole_says_so),
	CHECK(dontneed_of_protected_memory_empties_it),
	CHECK(free_leaves_old_or_zeroes),
	CHECK(what_was_freed_does_not_come_back),
	CHECK(remove_is_for_files),
	CHECK(advice_changes_no_byte),
	CHECK(collapse_changes_no_byte),
	CHECK(merging_changes_no_byte),
	CHECK(pages_that_are_populated_are_in_core),
	CHECK(populating_heeds_protections),
	CHECK(huge_pages_before_pressure),
	CHECK(guards_fault_until_they_are_removed),
	CHECK(the_kernel_knows_the_advice),
	CHECK(a_name_changes_no_byte),
	CHECK(process_madvise_is_madvise),
	CHECK(mincore_says_what_was_touched),
	CHECK(mincore_errors_are_the_kernels),
	CHECK(msync_has_nothing_to_do),
	CHECK(advice_errors_are_the_kernels),
	END_OF_CHECKS,
};
