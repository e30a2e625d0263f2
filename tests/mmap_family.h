/*
 * What the parts of mmap_family share: memory whose content follows from its place, everything being taken out at the
 * worst moment, and saying what was got instead of what was wanted. A check that fails prints that and ends its
 * process.
 */
#ifndef LARDER_TEST_MMAP_FAMILY_H
#define LARDER_TEST_MMAP_FAMILY_H

#include "content.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/types.h>

struct check {
	const char *name; /* the claim that it proves */
	void (*run)(void);
};

#define CHECK(name)                                                                                                    \
	{                                                                                                              \
#name, name                                                                                            \
	}
#define END_OF_CHECKS                                                                                                  \
	{                                                                                                              \
		NULL, NULL                                                                                             \
	}

extern const struct check map_checks[], remap_checks[], advice_checks[], lock_checks[], protect_checks[],
	signal_checks[], fork_checks[], userfault_checks[];

enum { AREA = 1024 }; /* pages of a usual subject: 4 MiB */

/* So many pages behind one that is touched for the first time may come with it, as with a huge page. */
enum { AROUND = 31 };

/* ---- saying what is wrong ---- */

__attribute__((noreturn, format(printf, 3, 4))) void fail_at(const char *file, int line, const char *format, ...);

#define FAIL(...) fail_at(__FILE__, __LINE__, __VA_ARGS__)

#define EXPECT(condition)                                                                                              \
	do {                                                                                                           \
		errno = 0;                                                                                             \
		if (!(condition))                                                                                      \
			FAIL("%s (errno %d)", #condition, errno);                                                      \
	} while (0)

/* Two numbers are the same. */
#define EXPECT_SAME(got, want)                                                                                         \
	do {                                                                                                           \
		long long got_ = (long long)(got), want_ = (long long)(want);                                          \
		if (got_ != want_)                                                                                     \
			FAIL("%s is %lld, not %lld (%s)", #got, got_, want_, #want);                                   \
	} while (0)

/* A call fails with that error. Casts pointers, so that MAP_FAILED counts as -1. */
#define EXPECT_ERROR(call, error)                                                                                      \
	do {                                                                                                           \
		long result_;                                                                                          \
		errno = 0;                                                                                             \
		result_ = (long)(call);                                                                                \
		if (result_ != -1 || errno != (error))                                                                 \
			FAIL("%s returned 0x%lx with errno %d, not -1 with %d (%s)", #call, result_, errno, (error),   \
			     #error);                                                                                  \
	} while (0)

/* Has no other check run in this process? */
extern int is_first;

/* Leaves the check: the machine has not what it needs. */
__attribute__((noreturn)) void skip(const char *why);

/* ---- memory ---- */

/* Private anonymous memory; never fails. */
unsigned char *map(size_t pages);
void unmap(void *at, size_t pages);

/* Addresses that nothing is mapped at: the program may map there with MAP_FIXED. */
unsigned char *free_addresses(size_t pages);

/*
 * Page i at `at` is page `first` + i of the content `seed`. Most pages compress well; some are one repeated word, some
 * do not compress.
 */
void fill(void *at, size_t first, size_t pages, uint64_t seed);
void expect_content_at(const char *file, int line, const void *at, size_t first, size_t pages, uint64_t seed);
void expect_zeroes_at(const char *file, int line, const void *at, size_t pages);

#define EXPECT_CONTENT(at, first, pages, seed) expect_content_at(__FILE__, __LINE__, at, first, pages, seed)
#define EXPECT_ZEROES(at, pages)	       expect_zeroes_at(__FILE__, __LINE__, at, pages)

/* Has page `page` of that content, at any address? */
int is_content(const void *at, size_t page, uint64_t seed);

/* A mapping with content 1 of pages 0 and up, all taken out if there is anything that takes out. */
unsigned char *map_filled(size_t pages);

/* Goes over more memory than any limit that these tests run with, twice. */
void evict_all(void);

/* ---- access ---- */

enum access { READS, WRITES };

/* The signal that an access raises, or 0. A write writes what is there. */
int signal_of(const void *at, enum access access);

void expect_signal_at(const char *file, int line, const void *at, size_t pages, enum access access, int signal);

#define EXPECT_SIGNAL(at, pages, access, signal) expect_signal_at(__FILE__, __LINE__, at, pages, access, signal)

/* What the last signal of signal_of() said. */
extern void *signal_address;
extern int signal_code;

/* ---- the kernel's word ---- */

size_t mincore_pages(const void *at, size_t pages);

/* Bytes of a line of /proc/self/smaps, such as "AnonHugePages:", of all mappings in [at, at + pages). */
size_t smaps_bytes(const char *key, const void *at, size_t pages);

/* Has the mapping at `at` the two-letter flag in its line VmFlags? */
int has_vm_flag(const void *at, const char *flag);

size_t rss_bytes(void);

/* ---- processes ---- */

/* Runs `run` in a forked child, which must end with _exit(0) or return. */
void in_child_at(const char *file, int line, void (*run)(void *), void *arg);

#define IN_CHILD(run, arg) in_child_at(__FILE__, __LINE__, run, arg)

#endif
