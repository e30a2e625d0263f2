/*
 * mmap_family: mremap. Content goes where the memory goes, and what grows is zero.
 */
#include "mmap_family.h"

#include <unistd.h>

static unsigned char *remap(void *at, size_t from_pages, size_t to_pages, int flags)
{
	unsigned char *p = mremap(at, from_pages * PAGE, to_pages * PAGE, flags, NULL);

	EXPECT(p != MAP_FAILED);
	return p;
}

static void remap_to(void *at, size_t from_pages, size_t to_pages, void *to, int flags)
{
	EXPECT(mremap(at, from_pages * PAGE, to_pages * PAGE, MREMAP_MAYMOVE | flags, to) == to);
}

static void a_grown_mapping_keeps_its_content_and_is_zero_beyond(void)
{
	unsigned char *p = map_filled(256);

	for (size_t pages = 256; pages < 4 * AREA; pages *= 2) {
		p = remap(p, pages, 2 * pages, MREMAP_MAYMOVE);
		EXPECT_CONTENT(p, 0, pages, 1);
		EXPECT_ZEROES(p + pages * PAGE, pages);
		fill(p + pages * PAGE, pages, pages, 1);
		evict_all();
	}
	EXPECT_CONTENT(p, 0, 4 * AREA, 1);
	unmap(p, 4 * AREA);
}

static void a_mapping_grows_in_place_where_there_is_room(void)
{
	unsigned char *p = map_filled(AREA);

	unmap(p + AREA / 2 * PAGE, AREA / 2);
	EXPECT(remap(p, AREA / 2, AREA, 0) == p);
	EXPECT_CONTENT(p, 0, AREA / 2, 1);
	EXPECT_ZEROES(p + AREA / 2 * PAGE, AREA / 2);
	fill(p + AREA / 2 * PAGE, AREA / 2, AREA / 2, 1);
	evict_all();
	EXPECT_CONTENT(p, 0, AREA, 1);
	unmap(p, AREA);
}

static void a_mapping_without_room_moves_or_stays_as_it_is(void)
{
	unsigned char *p = map_filled(AREA), *grown;

	EXPECT_ERROR(mremap(p, AREA / 2 * PAGE, AREA * PAGE, 0), ENOMEM);
	EXPECT_CONTENT(p, 0, AREA, 1);
	grown = remap(p, AREA / 2, AREA, MREMAP_MAYMOVE);
	EXPECT(grown != p);
	EXPECT_SIGNAL(p, AREA / 2, READS, SIGSEGV);
	EXPECT_CONTENT(p + AREA / 2 * PAGE, AREA / 2, AREA / 2, 1);
	EXPECT_CONTENT(grown, 0, AREA / 2, 1);
	EXPECT_ZEROES(grown + AREA / 2 * PAGE, AREA / 2);
	unmap(grown, AREA);
	unmap(p, AREA);
}

static void a_shrunk_mapping_loses_its_tail(void)
{
	unsigned char *p = map_filled(AREA);

	EXPECT(remap(p, AREA, 100, 0) == p);
	EXPECT_CONTENT(p, 0, 100, 1);
	EXPECT_SIGNAL(p + 100 * PAGE, AREA - 100, READS, SIGSEGV);
	EXPECT(remap(p, 100, 300, 0) == p);
	EXPECT_CONTENT(p, 0, 100, 1);
	EXPECT_ZEROES(p + 100 * PAGE, 200);
	unmap(p, 300);
}

static void what_was_moved_is_gone_from_the_old_place(void)
{
	unsigned char *p = map_filled(AREA), *to = free_addresses(AREA);

	remap_to(p, AREA, AREA, to, MREMAP_FIXED);
	EXPECT_SIGNAL(p, AREA, READS, SIGSEGV);
	EXPECT_CONTENT(to, 0, AREA, 1);
	evict_all();
	EXPECT_CONTENT(to, 0, AREA, 1);
	EXPECT(mmap(p, AREA * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) ==
	       p);
	EXPECT_ZEROES(p, AREA);
	unmap(p, AREA);
	unmap(to, AREA);
}

static void moving_over_a_mapping_replaces_it(void)
{
	unsigned char *p = map(AREA), *to = map(2 * AREA);

	fill(p, 0, AREA, 1);
	fill(to, 0, 2 * AREA, 2);
	evict_all();
	remap_to(p, AREA, AREA, to + AREA / 2 * PAGE, MREMAP_FIXED);
	for (int i = 0; i < 2; i++) {
		EXPECT_CONTENT(to, 0, AREA / 2, 2);
		EXPECT_CONTENT(to + AREA / 2 * PAGE, 0, AREA, 1);
		EXPECT_CONTENT(to + AREA * 3 / 2 * PAGE, AREA * 3 / 2, AREA / 2, 2);
		evict_all();
	}
	EXPECT_SIGNAL(p, AREA, READS, SIGSEGV);
	unmap(to, 2 * AREA);
}

static void what_moves_can_grow_or_shrink(void)
{
	unsigned char *p = map_filled(AREA), *to = free_addresses(3 * AREA), *back = to + 2 * AREA * PAGE;

	remap_to(p, AREA, 2 * AREA, to, MREMAP_FIXED);
	EXPECT_CONTENT(to, 0, AREA, 1);
	EXPECT_ZEROES(to + AREA * PAGE, AREA);
	fill(to + AREA * PAGE, AREA, AREA, 1);
	evict_all();
	remap_to(to, 2 * AREA, AREA / 2, back, MREMAP_FIXED);
	EXPECT_CONTENT(back, 0, AREA / 2, 1);
	EXPECT_SIGNAL(back + AREA / 2 * PAGE, AREA / 2, READS, SIGSEGV);
	EXPECT_SIGNAL(to, 2 * AREA, READS, SIGSEGV);
	unmap(back, AREA / 2);
}

static void a_part_can_be_moved_out_of_the_middle(void)
{
	unsigned char *p = map_filled(AREA), *to = free_addresses(100);

	remap_to(p + 300 * PAGE, 100, 100, to, MREMAP_FIXED);
	EXPECT_CONTENT(to, 300, 100, 1);
	EXPECT_CONTENT(p, 0, 300, 1);
	EXPECT_SIGNAL(p + 300 * PAGE, 100, READS, SIGSEGV);
	EXPECT_CONTENT(p + 400 * PAGE, 400, AREA - 400, 1);
	remap_to(to, 100, 100, p + 300 * PAGE, MREMAP_FIXED);
	evict_all();
	EXPECT_CONTENT(p, 0, AREA, 1);
	unmap(p, AREA);
}

/* Neighbours change places by way of a third: page tables and what knows of them have to follow. */
static void parts_change_places(void)
{
	enum { PART = 64, PARTS = 16 };
	unsigned char *p = map_filled(PART * PARTS), *third = free_addresses(PART);
	size_t at[PARTS];

	for (size_t i = 0; i < PARTS; i++)
		at[i] = i;
	for (uint64_t i = 0; i < 40; i++) {
		size_t a = mix(i) % PARTS, b = (a + 1 + mix(i) / PARTS % (PARTS - 1)) % PARTS, was = at[a];

		remap_to(p + a * PART * PAGE, PART, PART, third, MREMAP_FIXED);
		remap_to(p + b * PART * PAGE, PART, PART, p + a * PART * PAGE, MREMAP_FIXED);
		remap_to(third, PART, PART, p + b * PART * PAGE, MREMAP_FIXED);
		at[a] = at[b];
		at[b] = was;
		if (i % 10 == 9)
			evict_all();
		EXPECT_CONTENT(p + a * PART * PAGE, at[a] * PART, 3, 1);
	}
	for (size_t i = 0; i < PARTS; i++)
		EXPECT_CONTENT(p + i * PART * PAGE, at[i] * PART, PART, 1);
	unmap(p, PART * PARTS);
}

static void dontunmap_leaves_an_empty_mapping(void)
{
	unsigned char *p = map_filled(AREA), *moved = remap(p, AREA, AREA, MREMAP_MAYMOVE | MREMAP_DONTUNMAP);

	EXPECT(moved != p);
	EXPECT_CONTENT(moved, 0, AREA, 1);
	EXPECT_ZEROES(p, AREA);
	fill(p, 0, AREA, 2);
	evict_all();
	EXPECT_CONTENT(p, 0, AREA, 2);
	EXPECT_CONTENT(moved, 0, AREA, 1);
	unmap(moved, AREA);
	EXPECT_CONTENT(p, 0, AREA, 2);
	unmap(p, AREA);
}

static void dontunmap_goes_to_a_fixed_place(void)
{
	unsigned char *p = map_filled(AREA), *to = map(AREA);

	fill(to, 0, AREA, 2);
	evict_all();
	remap_to(p + 100 * PAGE, 200, 200, to + 50 * PAGE, MREMAP_FIXED | MREMAP_DONTUNMAP);
	EXPECT_CONTENT(p, 0, 100, 1);
	EXPECT_ZEROES(p + 100 * PAGE, 200);
	EXPECT_CONTENT(p + 300 * PAGE, 300, AREA - 300, 1);
	EXPECT_CONTENT(to, 0, 50, 2);
	EXPECT_CONTENT(to + 50 * PAGE, 100, 200, 1);
	EXPECT_CONTENT(to + 250 * PAGE, 250, AREA - 250, 2);
	unmap(to, AREA);
	unmap(p, AREA);
}

/* Small mappings are none of Larder's. */
static void memory_becomes_large_and_small_again(void)
{
	unsigned char *p = map(4);

	fill(p, 0, 4, 1);
	for (int i = 0; i < 3; i++) {
		p = remap(p, 4, AREA, MREMAP_MAYMOVE);
		EXPECT_CONTENT(p, 0, 4, 1);
		EXPECT_ZEROES(p + 4 * PAGE, AREA - 4);
		fill(p + 4 * PAGE, 4, AREA - 4, 1);
		evict_all();
		EXPECT_CONTENT(p, 0, AREA, 1);
		p = remap(p, AREA, 4, MREMAP_MAYMOVE);
		EXPECT_CONTENT(p, 0, 4, 1);
	}
	unmap(p, 4);
}

static void protections_move_along(void)
{
	unsigned char *p = map_filled(AREA), *to = free_addresses(100);

	EXPECT(mprotect(p + 100 * PAGE, 100 * PAGE, PROT_READ) == 0);
	remap_to(p + 100 * PAGE, 100, 100, to, MREMAP_FIXED);
	EXPECT_CONTENT(to, 100, 100, 1);
	EXPECT_SIGNAL(to, 100, WRITES, SIGSEGV);
	EXPECT(mprotect(to, 100 * PAGE, PROT_NONE) == 0);
	remap_to(to, 100, 100, p + 100 * PAGE, MREMAP_FIXED);
	EXPECT_SIGNAL(p + 100 * PAGE, 100, READS, SIGSEGV);
	EXPECT(mprotect(p + 100 * PAGE, 100 * PAGE, PROT_READ | PROT_WRITE) == 0);
	EXPECT_CONTENT(p, 0, AREA, 1);
	unmap(p, AREA);
}

/* Kernels before 6.17 refuse; later ones move all of it. Nothing in between. */
static void several_protections_move_together_or_not_at_all(void)
{
	unsigned char *p = map_filled(AREA), *to = free_addresses(AREA);

	EXPECT(mprotect(p + 100 * PAGE, 100 * PAGE, PROT_READ) == 0);
	if (mremap(p, AREA * PAGE, AREA * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to) {
		EXPECT_SIGNAL(p, AREA, READS, SIGSEGV);
		p = to;
	}
	EXPECT_CONTENT(p, 0, AREA, 1);
	EXPECT_SIGNAL(p, 100, WRITES, 0);
	EXPECT_SIGNAL(p + 100 * PAGE, 100, WRITES, SIGSEGV);
	EXPECT_SIGNAL(p + 200 * PAGE, AREA - 200, WRITES, 0);
	unmap(p, AREA);
}

static void a_private_file_mapping_moves_and_grows(void)
{
	int fd = memfd_create("mmap_family", MFD_CLOEXEC);
	unsigned char *p;

	EXPECT(fd >= 0 && ftruncate(fd, 2 * AREA * PAGE) == 0);
	p = mmap(NULL, AREA * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	EXPECT(p != MAP_FAILED);
	fill(p, 0, AREA, 1);
	evict_all();
	p = remap(p, AREA, 2 * AREA, MREMAP_MAYMOVE);
	EXPECT_CONTENT(p, 0, AREA, 1);
	EXPECT_ZEROES(p + AREA * PAGE, AREA);
	unmap(p, 2 * AREA);
	close(fd);
}

static void remapping_errors_are_the_kernels(void)
{
	unsigned char *p = map_filled(AREA), *to = free_addresses(AREA), *hole = free_addresses(AREA);
	size_t bytes = AREA * PAGE;

	EXPECT_ERROR(mremap(p + 1, bytes, bytes, MREMAP_MAYMOVE), EINVAL);
	EXPECT_ERROR(mremap(p, bytes, 0, MREMAP_MAYMOVE), EINVAL);
	EXPECT_ERROR(mremap(p, 0, bytes, MREMAP_MAYMOVE), EINVAL);
	EXPECT_ERROR(mremap(p, bytes, bytes, 64), EINVAL);
	EXPECT_ERROR(mremap(p, bytes, bytes, MREMAP_FIXED, to), EINVAL);
	EXPECT_ERROR(mremap(p, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, to + 1), EINVAL);
	EXPECT_ERROR(mremap(p, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, p + PAGE), EINVAL);
	EXPECT_ERROR(mremap(p, bytes, bytes, MREMAP_DONTUNMAP, NULL), EINVAL);
	EXPECT_ERROR(mremap(p, bytes, bytes / 2, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL), EINVAL);
	EXPECT_ERROR(mremap(hole, bytes, 2 * bytes, MREMAP_MAYMOVE), EFAULT);
	EXPECT_ERROR(mremap(p, bytes, (size_t)1 << 46, MREMAP_MAYMOVE), ENOMEM);
	EXPECT_CONTENT(p, 0, AREA, 1);
	unmap(p, AREA);
}

const struct check remap_checks[] = {
	CHECK(a_grown_mapping_keeps_its_content_and_is_zero_beyond),
	CHECK(a_mapping_grows_in_place_where_there_is_room),
	CHECK(a_mapping_without_room_moves_or_stays_as_it_is),
	CHECK(a_shrunk_mapping_loses_its_tail),
	CHECK(what_was_moved_is_gone_from_the_old_place),
	CHECK(moving_over_a_mapping_replaces_it),
	CHECK(what_moves_can_grow_or_shrink),
	CHECK(a_part_can_be_moved_out_of_the_middle),
	CHECK(parts_change_places),
	CHECK(dontunmap_leaves_an_empty_mapping),
	CHECK(dontunmap_goes_to_a_fixed_place),
	CHECK(memory_becomes_large_and_small_again),
	CHECK(protections_move_along),
	CHECK(several_protections_move_together_or_not_at_all),
	CHECK(a_private_file_mapping_moves_and_grows),
	CHECK(remapping_errors_are_the_kernels),
	END_OF_CHECKS,
};
