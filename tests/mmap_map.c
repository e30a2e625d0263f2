/*
 * mmap_family: mmap and munmap. What is unmapped, what is mapped over it, where, and what reservations cost.
 */
#include "mmap_family.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { ANONYMOUS = MAP_PRIVATE | MAP_ANONYMOUS, READ_WRITE = PROT_READ | PROT_WRITE };

static void *map_at(void *at, size_t pages, int protection, int flags)
{
	void *p = mmap(at, pages * PAGE, protection, ANONYMOUS | MAP_FIXED | flags, -1, 0);

	EXPECT(p == at);
	return p;
}

/* ---- munmap ---- */

static void a_partial_munmap_leaves_the_rest(void)
{
	unsigned char *p = map_filled(AREA);

	unmap(p, 10);
	unmap(p + 100 * PAGE, 100);
	unmap(p + 500 * PAGE, 1);
	unmap(p + (AREA - 24) * PAGE, 24);
	for (int i = 0; i < 2; i++) {
		EXPECT_SIGNAL(p, 10, READS, SIGSEGV);
		EXPECT_SIGNAL(p + 100 * PAGE, 100, WRITES, SIGSEGV);
		EXPECT_SIGNAL(p + 500 * PAGE, 1, READS, SIGSEGV);
		EXPECT_CONTENT(p + 10 * PAGE, 10, 90, 1);
		EXPECT_CONTENT(p + 200 * PAGE, 200, 300, 1);
		EXPECT_CONTENT(p + 501 * PAGE, 501, AREA - 525, 1);
		evict_all();
	}
	EXPECT_ERROR(mincore(p, PAGE, (unsigned char[1]){ 0 }), ENOMEM);
	unmap(p, AREA);
}

static void what_is_mapped_where_memory_was_is_zero(void)
{
	unsigned char *p = map_filled(AREA);

	unmap(p + 100 * PAGE, 200);
	EXPECT(mmap(p + 100 * PAGE, 200 * PAGE, READ_WRITE, ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == p + 100 * PAGE);
	EXPECT_ZEROES(p + 100 * PAGE, 100);
	fill(p + 200 * PAGE, 0, 100, 2);
	evict_all();
	EXPECT_CONTENT(p, 0, 100, 1);
	EXPECT_ZEROES(p + 100 * PAGE, 100);
	EXPECT_CONTENT(p + 200 * PAGE, 0, 100, 2);
	EXPECT_CONTENT(p + 300 * PAGE, 300, AREA - 300, 1);
	unmap(p, AREA);
}

/* Two mappings, one of them small, with a hole between them, and a file. */
static void munmap_takes_holes_and_several_mappings(void)
{
	unsigned char *p = free_addresses(AREA);
	int file = memfd_create("mmap_family", MFD_CLOEXEC);

	EXPECT(ftruncate(file, 64 * PAGE) == 0);
	map_at(p, 300, READ_WRITE, 0);
	map_at(p + 400 * PAGE, 4, READ_WRITE, 0);
	EXPECT(mmap(p + 500 * PAGE, 64 * PAGE, READ_WRITE, MAP_SHARED | MAP_FIXED, file, 0) == p + 500 * PAGE);
	map_at(p + 600 * PAGE, 300, READ_WRITE, 0);
	fill(p, 0, 300, 1);
	fill(p + 600 * PAGE, 600, 300, 1);
	evict_all();
	unmap(p + 200 * PAGE, 500);
	EXPECT_CONTENT(p, 0, 200, 1);
	EXPECT_SIGNAL(p + 200 * PAGE, 500, READS, SIGSEGV);
	EXPECT_CONTENT(p + 700 * PAGE, 700, 200, 1);
	unmap(p, AREA);
	EXPECT_SIGNAL(p, AREA, READS, SIGSEGV);
	close(file);
}

static void munmap_of_nothing_succeeds(void)
{
	unsigned char *p = free_addresses(AREA);

	EXPECT(munmap(p, AREA * PAGE) == 0);
	p = map(AREA);
	EXPECT(munmap(p, AREA * PAGE) == 0 && munmap(p, AREA * PAGE) == 0);
}

static void lengths_are_rounded_up_to_pages(void)
{
	size_t bytes = 64 * PAGE + 1;
	unsigned char *p = mmap(NULL, bytes, READ_WRITE, ANONYMOUS, -1, 0);

	EXPECT(p != MAP_FAILED);
	fill(p, 0, 65, 1);
	evict_all();
	EXPECT_CONTENT(p, 0, 65, 1);
	EXPECT(munmap(p + PAGE, 63 * PAGE + 1) == 0);
	EXPECT_CONTENT(p, 0, 1, 1);
	EXPECT_SIGNAL(p + PAGE, 64, READS, SIGSEGV);
	unmap(p, 65);
}

/* As allocators do it that want aligned memory. */
static void ends_can_be_trimmed_to_an_alignment(void)
{
	enum { ALIGNED = 512 };

	for (int i = 0; i < 30; i++) {
		unsigned char *p = map(2 * ALIGNED);
		size_t before = (-(uintptr_t)p / PAGE) % ALIGNED;

		if (before)
			unmap(p, before);
		unmap(p + (before + ALIGNED) * PAGE, ALIGNED - before);
		p += before * PAGE;
		EXPECT_ZEROES(p, ALIGNED);
		fill(p, 0, ALIGNED, (uint64_t)i);
		if (i % 10 == 0)
			evict_all();
		EXPECT_CONTENT(p, 0, ALIGNED, (uint64_t)i);
		unmap(p, ALIGNED);
	}
}

static void many_mappings_come_and_go_and_leave_nothing(void)
{
	struct footprint before;

	evict_all();
	before = footprint();
	for (size_t i = 0; i < 400; i++) {
		unsigned char *p = map(AREA);

		fill(p, 0, i % 16 ? 64 : AREA, i);
		EXPECT_CONTENT(p + 63 * PAGE, 63, 1, i);
		unmap(p, AREA);
	}
	EXPECT(footprint().resident_pages < before.resident_pages + 2 * AREA);
	EXPECT(footprint().size_pages < before.size_pages + 16 * AREA);
}

static void a_thousand_mappings_stand_side_by_side(void)
{
	enum { COUNT = 1000, SIZE = 33, TOUCHED = 6 };
	static unsigned char *maps[COUNT];

	for (size_t i = 0; i < COUNT; i++) {
		maps[i] = map(SIZE);
		fill(maps[i] + i % (SIZE - TOUCHED) * PAGE, i, TOUCHED, 1);
		if (i % 2)
			EXPECT(mprotect(maps[i], SIZE * PAGE, PROT_READ) == 0);
	}
	evict_all();
	for (size_t i = 0; i < COUNT; i += 3)
		unmap(maps[i], SIZE);
	for (size_t i = 0; i < COUNT; i++)
		if (i % 3)
			EXPECT_CONTENT(maps[i] + i % (SIZE - TOUCHED) * PAGE, i, TOUCHED, 1);
	for (size_t i = 0; i < COUNT; i++)
		if (i % 3)
			unmap(maps[i], SIZE);
}

/* ---- MAP_FIXED ---- */

static void anonymous_memory_mapped_over_is_zero(void)
{
	unsigned char *p = map_filled(AREA);

	map_at(p + 100 * PAGE, 50, READ_WRITE, 0);
	map_at(p + 300 * PAGE, 600, READ_WRITE, 0);
	for (int i = 0; i < 2; i++) {
		EXPECT_CONTENT(p, 0, 100, 1);
		EXPECT_ZEROES(p + 100 * PAGE, 50);
		EXPECT_CONTENT(p + 150 * PAGE, 150, 150, 1);
		EXPECT_ZEROES(p + 300 * PAGE, 600);
		EXPECT_CONTENT(p + 900 * PAGE, 900, AREA - 900, 1);
		evict_all();
	}
	map_at(p, AREA, READ_WRITE, 0);
	EXPECT_ZEROES(p, AREA);
	unmap(p, AREA);
}

static void nothing_mapped_over_faults(void)
{
	unsigned char *p = map_filled(AREA);

	map_at(p + 100 * PAGE, 100, PROT_NONE, MAP_NORESERVE);
	EXPECT_SIGNAL(p + 100 * PAGE, 100, READS, SIGSEGV);
	EXPECT(mprotect(p + 100 * PAGE, 50 * PAGE, READ_WRITE) == 0);
	EXPECT_ZEROES(p + 100 * PAGE, 50);
	EXPECT_SIGNAL(p + 150 * PAGE, 50, READS, SIGSEGV);
	EXPECT_CONTENT(p, 0, 100, 1);
	EXPECT_CONTENT(p + 200 * PAGE, 200, AREA - 200, 1);
	unmap(p, AREA);
}

static int file_with_content(size_t pages, uint64_t seed)
{
	int fd = memfd_create("mmap_family", MFD_CLOEXEC);
	unsigned char *p;

	EXPECT(fd >= 0 && ftruncate(fd, (off_t)pages * PAGE) == 0);
	p = mmap(NULL, pages * PAGE, READ_WRITE, MAP_SHARED, fd, 0);
	EXPECT(p != MAP_FAILED);
	fill(p, 0, pages, seed);
	unmap(p, pages);
	return fd;
}

static void a_file_mapped_over_managed_memory_is_the_file(void)
{
	unsigned char *p = map_filled(AREA), page[PAGE];
	int fd = file_with_content(200, 5);

	EXPECT(mmap(p + 100 * PAGE, 200 * PAGE, READ_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == p + 100 * PAGE);
	EXPECT(mmap(p + 400 * PAGE, 100 * PAGE, READ_WRITE, MAP_PRIVATE | MAP_FIXED, fd, 100 * PAGE) == p + 400 * PAGE);
	evict_all();
	EXPECT_CONTENT(p, 0, 100, 1);
	EXPECT_CONTENT(p + 100 * PAGE, 0, 200, 5);
	EXPECT_CONTENT(p + 300 * PAGE, 300, 100, 1);
	EXPECT_CONTENT(p + 400 * PAGE, 100, 100, 5);
	EXPECT_CONTENT(p + 500 * PAGE, 500, AREA - 500, 1);
	fill(p + 110 * PAGE, 0, 1, 6);
	fill(p + 410 * PAGE, 0, 1, 7);
	EXPECT(pread(fd, page, PAGE, 10 * PAGE) == PAGE);
	EXPECT_CONTENT(page, 0, 1, 6);
	EXPECT(pread(fd, page, PAGE, 110 * PAGE) == PAGE);
	EXPECT_CONTENT(page, 110, 1, 5);
	evict_all();
	EXPECT_CONTENT(p + 410 * PAGE, 0, 1, 7);
	map_at(p + 100 * PAGE, 200, READ_WRITE, 0);
	unmap(p + 400 * PAGE, 100);
	EXPECT_ZEROES(p + 100 * PAGE, 200);
	fill(p + 100 * PAGE, 0, 200, 8);
	evict_all();
	EXPECT_CONTENT(p + 100 * PAGE, 0, 200, 8);
	EXPECT_CONTENT(p + 300 * PAGE, 300, 100, 1);
	EXPECT(pread(fd, page, PAGE, 10 * PAGE) == PAGE);
	EXPECT_CONTENT(page, 0, 1, 6);
	unmap(p, AREA);
	close(fd);
}

static void change_shared(void *at)
{
	EXPECT_CONTENT(at, 0, 100, 2);
	fill(at, 0, 100, 3);
}

static void shared_memory_mapped_over_is_shared(void)
{
	unsigned char *p = map_filled(AREA), *shared = p + 300 * PAGE;

	EXPECT(mmap(shared, 100 * PAGE, READ_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == shared);
	EXPECT_ZEROES(shared, 100);
	fill(shared, 0, 100, 2);
	evict_all();
	IN_CHILD(change_shared, shared);
	EXPECT_CONTENT(shared, 0, 100, 3);
	EXPECT_CONTENT(p, 0, 300, 1);
	EXPECT_CONTENT(p + 400 * PAGE, 400, AREA - 400, 1);
	unmap(p, AREA);
}

static void mapping_over_ends_of_several_mappings(void)
{
	unsigned char *p = free_addresses(AREA);

	map_at(p, 300, READ_WRITE, 0);
	map_at(p + 310 * PAGE, 8, READ_WRITE, 0);
	map_at(p + 320 * PAGE, 300, READ_WRITE, 0);
	fill(p, 0, 300, 1);
	fill(p + 310 * PAGE, 310, 8, 1);
	fill(p + 320 * PAGE, 320, 300, 1);
	evict_all();
	map_at(p + 250 * PAGE, 120, READ_WRITE, 0);
	EXPECT_CONTENT(p, 0, 250, 1);
	EXPECT_ZEROES(p + 250 * PAGE, 120);
	EXPECT_CONTENT(p + 370 * PAGE, 370, 250, 1);
	EXPECT_SIGNAL(p + 620 * PAGE, AREA - 620, READS, SIGSEGV);
	unmap(p, AREA);
}

static void fixed_noreplace_replaces_nothing(void)
{
	unsigned char *p = map_filled(AREA);

	EXPECT_ERROR(mmap(p, AREA * PAGE, READ_WRITE, ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0), EEXIST);
	EXPECT_ERROR(mmap(p + (AREA - 1) * PAGE, 64 * PAGE, READ_WRITE, ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0),
		     EEXIST);
	EXPECT_CONTENT(p, 0, AREA, 1);
	unmap(p + 200 * PAGE, 64);
	EXPECT_ERROR(mmap(p + 199 * PAGE, 64 * PAGE, READ_WRITE, ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0), EEXIST);
	EXPECT(mmap(p + 200 * PAGE, 64 * PAGE, PROT_READ, ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == p + 200 * PAGE);
	EXPECT_ZEROES(p + 200 * PAGE, 64);
	EXPECT_CONTENT(p, 0, 200, 1);
	EXPECT_CONTENT(p + 264 * PAGE, 264, AREA - 264, 1);
	unmap(p, AREA);
}

/* ---- where ---- */

static void a_hint_that_is_free_is_taken(void)
{
	unsigned char *p = free_addresses(AREA);

	EXPECT(mmap(p, AREA * PAGE, READ_WRITE, ANONYMOUS, -1, 0) == p);
	fill(p, 0, AREA, 1);
	evict_all();
	EXPECT(mmap(p, AREA * PAGE, READ_WRITE, ANONYMOUS, -1, 0) != p);
	EXPECT_CONTENT(p, 0, AREA, 1);
	unmap(p, AREA);
}

static void addresses_below_2_gib_are_had(void)
{
	unsigned char *p = mmap(NULL, AREA * PAGE, READ_WRITE, ANONYMOUS | MAP_32BIT, -1, 0);

	EXPECT(p != MAP_FAILED);
	EXPECT((uintptr_t)p + AREA * PAGE <= (uintptr_t)1 << 31);
	fill(p, 0, AREA, 1);
	evict_all();
	EXPECT_CONTENT(p, 0, AREA, 1);
	unmap(p, AREA);
}

/* A program lays out its addresses itself: far from everything. */
static void a_program_may_choose_its_addresses(void)
{
	unsigned char *p = (unsigned char *)((uintptr_t)0x3210 << 28);

	EXPECT(mmap(p, AREA * PAGE, READ_WRITE, ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == p);
	fill(p, 0, AREA, 1);
	evict_all();
	EXPECT_CONTENT(p, 0, AREA, 1);
	unmap(p + 10 * PAGE, AREA - 20);
	EXPECT_CONTENT(p, 0, 10, 1);
	EXPECT_CONTENT(p + (AREA - 10) * PAGE, AREA - 10, 10, 1);
	unmap(p, AREA);
}

/* Pages below the mapping that are touched become part of it, where nobody has anything. */
static void a_stack_grows_down(void)
{
	unsigned char *p = (unsigned char *)((uintptr_t)0x3220 << 28), *stack = p + (2 * AREA - 64) * PAGE;

	EXPECT(mmap(stack, 64 * PAGE, READ_WRITE, ANONYMOUS | MAP_FIXED | MAP_GROWSDOWN | MAP_STACK, -1, 0) == stack);
	fill(stack, 64, 64, 1);
	for (int i = 1; i <= 64; i++)
		fill(stack - i * PAGE, (size_t)(64 - i), 1, 1);
	evict_all();
	EXPECT_CONTENT(stack - 64 * PAGE, 0, 128, 1);
	unmap(p, 2 * AREA);
}

/* ---- flags ---- */

static void a_populated_mapping_is_in_core(void)
{
	unsigned char *p = mmap(NULL, AREA * PAGE, READ_WRITE, ANONYMOUS | MAP_POPULATE, -1, 0);

	EXPECT(p != MAP_FAILED);
	EXPECT_SAME(mincore_pages(p, AREA), AREA);
	EXPECT_ZEROES(p, AREA);
	fill(p, 0, AREA / 2, 1);
	evict_all();
	EXPECT_CONTENT(p, 0, AREA / 2, 1);
	EXPECT_ZEROES(p + AREA / 2 * PAGE, AREA / 2);
	EXPECT_SAME(mincore_pages(p, AREA), AREA);
	unmap(p, AREA);
}

static void memory_without_a_reserve_is_memory(void)
{
	unsigned char *p = mmap(NULL, AREA * PAGE, READ_WRITE, ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);

	EXPECT(p != MAP_FAILED);
	fill(p, 0, AREA, 1);
	evict_all();
	EXPECT_CONTENT(p, 0, AREA, 1);
	unmap(p, AREA);
}

/* ---- reservations ---- */

enum { GIB_PAGES = 1 << 18 };

static void use_pieces(unsigned char *base, size_t pages, int (*commit)(void *at, size_t bytes))
{
	enum { PIECES = 64, PIECE = 40 };

	for (size_t i = 0; i < PIECES; i++) {
		unsigned char *piece = base + pages / PIECES * i * PAGE;

		EXPECT(commit(piece, PIECE * PAGE) == 0);
		EXPECT_ZEROES(piece, PIECE);
		fill(piece, i, PIECE, 1);
	}
	evict_all();
	for (size_t i = 0; i < PIECES; i++) {
		unsigned char *piece = base + pages / PIECES * i * PAGE;

		EXPECT_CONTENT(piece, i, PIECE, 1);
		if (i % 2)
			map_at(piece, PIECE, PROT_NONE, MAP_NORESERVE);
		else
			EXPECT(madvise(piece, PIECE * PAGE, MADV_DONTNEED) == 0 &&
			       mprotect(piece, PIECE * PAGE, PROT_NONE) == 0);
		EXPECT_SIGNAL(piece, PIECE, READS, SIGSEGV);
	}
	for (size_t i = 0; i < PIECES; i++) {
		unsigned char *piece = base + pages / PIECES * i * PAGE;

		EXPECT(commit(piece, PIECE * PAGE) == 0);
		EXPECT_ZEROES(piece, PIECE);
		EXPECT_SIGNAL(piece + PIECE * PAGE, 1, READS, SIGSEGV);
	}
}

static int commit_by_mprotect(void *at, size_t bytes)
{
	return mprotect(at, bytes, READ_WRITE);
}

static int commit_by_mmap(void *at, size_t bytes)
{
	return mmap(at, bytes, READ_WRITE, ANONYMOUS | MAP_FIXED, -1, 0) == at ? 0 : -1;
}

static void a_reservation_costs_nothing(void)
{
	size_t pages = (size_t)64 * GIB_PAGES, before = rss_bytes();
	unsigned char *base = mmap(NULL, pages * PAGE, PROT_NONE, ANONYMOUS | MAP_NORESERVE, -1, 0);

	EXPECT(base != MAP_FAILED);
	EXPECT(rss_bytes() < before + 4 * MIB);
	EXPECT_SIGNAL(base + pages / 2 * PAGE, 1, READS, SIGSEGV);
	use_pieces(base, pages, commit_by_mprotect);
	EXPECT(mmap(base, pages * PAGE, PROT_NONE, ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == base);
	use_pieces(base, pages, commit_by_mmap);
	unmap(base, pages);
}

/* What is reserved may be had by writing to it. */
static void writable_reservations_are_sparse(void)
{
	size_t pages = (size_t)64 * GIB_PAGES, before = rss_bytes();
	unsigned char *base = mmap(NULL, pages * PAGE, READ_WRITE, ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (base == MAP_FAILED)
		skip("the machine does not overcommit");
	madvise(base, pages * PAGE, MADV_NOHUGEPAGE);
	EXPECT(rss_bytes() < before + 4 * MIB);
	for (size_t i = 0; i < AREA; i++)
		fill(base + pages / AREA * i * PAGE, i, 1, 1);
	evict_all();
	for (size_t i = 0; i < AREA; i++)
		EXPECT_CONTENT(base + pages / AREA * i * PAGE, i, 1, 1);
	unmap(base, pages);
	EXPECT(rss_bytes() < before + 80 * MIB); /* the filler, without a limit */
}

/* More than one, and as large as sanitizers and virtual machines make them. */
static void terabytes_can_be_reserved(void)
{
	enum { COUNT = 6 };
	size_t pages = (size_t)2048 * GIB_PAGES;
	unsigned char *base[COUNT];

	for (int i = 0; i < COUNT; i++) {
		base[i] = mmap(NULL, pages * PAGE, PROT_NONE, ANONYMOUS | MAP_NORESERVE, -1, 0);
		EXPECT(base[i] != MAP_FAILED);
		EXPECT(mprotect(base[i] + pages / 3 * PAGE, AREA * PAGE, READ_WRITE) == 0);
		fill(base[i] + pages / 3 * PAGE, 0, AREA, (uint64_t)i);
	}
	evict_all();
	for (int i = 0; i < COUNT; i++) {
		EXPECT_CONTENT(base[i] + pages / 3 * PAGE, 0, AREA, (uint64_t)i);
		unmap(base[i], pages);
	}
}

/* ---- errors ---- */

static void mapping_errors_are_the_kernels(void)
{
	unsigned char *p = map(AREA);
	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);

	EXPECT_ERROR(mmap(NULL, 0, READ_WRITE, ANONYMOUS, -1, 0), EINVAL);
	EXPECT_ERROR(mmap(NULL, AREA * PAGE, READ_WRITE, MAP_ANONYMOUS, -1, 0), EINVAL);
	EXPECT_ERROR(mmap(p + 1, AREA * PAGE, READ_WRITE, ANONYMOUS | MAP_FIXED, -1, 0), EINVAL);
	EXPECT_ERROR(mmap(p + 1, AREA * PAGE, READ_WRITE, ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0), EINVAL);
	EXPECT_ERROR(mmap(NULL, SIZE_MAX - PAGE, READ_WRITE, ANONYMOUS, -1, 0), ENOMEM);
	EXPECT_ERROR(mmap(NULL, (size_t)1 << 47, PROT_NONE, ANONYMOUS | MAP_NORESERVE, -1, 0), ENOMEM);
	EXPECT_ERROR(
		mmap((void *)(uintptr_t) - ((intptr_t)64 * PAGE), 64 * PAGE, READ_WRITE, ANONYMOUS | MAP_FIXED, -1, 0),
		ENOMEM);
	EXPECT_ERROR(mmap(NULL, AREA * PAGE, READ_WRITE, MAP_PRIVATE, -1, 0), EBADF);
	EXPECT_ERROR(syscall(SYS_mmap, NULL, (size_t)AREA * PAGE, READ_WRITE, MAP_PRIVATE, fd, 1L), EINVAL);
	EXPECT_ERROR(mmap(p, AREA * PAGE, READ_WRITE, MAP_SHARED | MAP_FIXED, fd, 0), EACCES);
	EXPECT_ERROR(mmap(NULL, AREA * PAGE, PROT_READ, MAP_SHARED_VALIDATE | MAP_SYNC, fd, 0), EOPNOTSUPP);
	EXPECT_ERROR(munmap(p + 1, PAGE), EINVAL);
	EXPECT_ERROR(munmap(p, 0), EINVAL);
	EXPECT_ERROR(munmap(p, SIZE_MAX - PAGE), EINVAL);
	close(fd);
	unmap(p, AREA);
}

/* A call that fails changes nothing. */
static void a_failed_mapping_leaves_what_was_there(void)
{
	unsigned char *p = map_filled(AREA);
	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);

	EXPECT_ERROR(mmap(p, AREA * PAGE, READ_WRITE, MAP_PRIVATE | MAP_FIXED, -1, 0), EBADF);
	EXPECT_ERROR(mmap(p, AREA * PAGE, READ_WRITE, MAP_SHARED | MAP_FIXED, fd, 0), EACCES);
	EXPECT_ERROR(mmap(p, (size_t)1 << 62, READ_WRITE, ANONYMOUS | MAP_FIXED, -1, 0), ENOMEM);
	EXPECT_CONTENT(p, 0, AREA, 1);
	unmap(p, AREA);
	close(fd);
}

const struct check map_checks[] = {
	CHECK(a_partial_munmap_leaves_the_rest),
	CHECK(what_is_mapped_where_memory_was_is_zero),
	CHECK(munmap_takes_holes_and_several_mappings),
	CHECK(munmap_of_nothing_succeeds),
	CHECK(lengths_are_rounded_up_to_pages),
	CHECK(ends_can_be_trimmed_to_an_alignment),
	CHECK(many_mappings_come_and_go_and_leave_nothing),
	CHECK(a_thousand_mappings_stand_side_by_side),
	CHECK(anonymous_memory_mapped_over_is_zero),
	CHECK(nothing_mapped_over_faults),
	CHECK(a_file_mapped_over_managed_memory_is_the_file),
	CHECK(shared_memory_mapped_over_is_shared),
	CHECK(mapping_over_ends_of_several_mappings),
	CHECK(fixed_noreplace_replaces_nothing),
	CHECK(a_hint_that_is_free_is_taken),
	CHECK(addresses_below_2_gib_are_had),
	CHECK(a_program_may_choose_its_addresses),
	CHECK(a_stack_grows_down),
	CHECK(a_populated_mapping_is_in_core),
	CHECK(memory_without_a_reserve_is_memory),
	CHECK(a_reservation_costs_nothing),
	CHECK(writable_reservations_are_sparse),
	CHECK(terabytes_can_be_reserved),
	CHECK(mapping_errors_are_the_kernels),
	CHECK(a_failed_mapping_leaves_what_was_there),
	END_OF_CHECKS,
};
