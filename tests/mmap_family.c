/*
 * The mmap family on private anonymous memory, all of it evicted at the worst moment: each call does exactly what it
 * does on memory that nobody manages.
 *
 *   mmap_family                     run each check in a process of its own
 *   mmap_family NAME...             run these, one after the other in this process
 *   mmap_family --together          run all in this process
 *   mmap_family --list              print the names
 *   ... --expect-evictions          fail if what has not been touched for long is still in RAM
 *
 * An unmodified program, which knows nothing of Larder: it has to pass plainly, and then with a limit of up to 24 MiB.
 * The checks are in mmap_*.c. Exit status: 0, 1 a check failed, 2 usage.
 */
#include "mmap_family.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FILLER_BLOCK = 64 << 10, FILLER_BLOCKS = (56 << 20) / FILLER_BLOCK, FILLER_PASSES = 2 };
enum { CHECK_SECONDS = 60, EXIT_SKIPPED = 77 };

static const struct check *const parts[] = { map_checks,     remap_checks,  advice_checks, lock_checks,
					     protect_checks, signal_checks, fork_checks,   userfault_checks };

static const char *current = "mmap_family";
int is_first;
static int expect_evictions;

/* ---- saying what is wrong ---- */

void fail_at(const char *file, int line, const char *format, ...)
{
	const char *base = strrchr(file, '/');
	char text[1024];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	dprintf(STDERR_FILENO, "mmap_family: %s: %s:%d: process %d: %s\n", current, base ? base + 1 : file, line,
		(int)getpid(), text);
	_exit(1);
}

static jmp_buf skipped;

void skip(const char *why)
{
	printf("  %s: skipped: %s\n", current, why);
	longjmp(skipped, 1);
}

/* ---- memory ---- */

static uint64_t *filler[FILLER_BLOCKS];

/* Before addresses are freed: what malloc maps is not to be in the way of what is mapped there later. */
static void make_filler(void)
{
	for (size_t i = 0; i < FILLER_BLOCKS; i++) {
		if (!filler[i])
			filler[i] = malloc(FILLER_BLOCK);
		EXPECT(filler[i] != NULL);
	}
}

unsigned char *map(size_t pages)
{
	unsigned char *p = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	EXPECT(p != MAP_FAILED);
	return p;
}

void unmap(void *at, size_t pages)
{
	EXPECT(munmap(at, pages * PAGE) == 0);
}

unsigned char *free_addresses(size_t pages)
{
	unsigned char *p;

	make_filler();
	p = mmap(NULL, pages * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	EXPECT(p != MAP_FAILED);
	unmap(p, pages);
	return p;
}

static uint64_t content(size_t page, uint64_t seed, size_t i)
{
	uint64_t same = mix(page ^ seed << 40);

	if (page % 8 == 3)
		return same | 1;
	return page % 32 == 5 ? mix(same ^ i) : word_of(page, seed, i);
}

void fill(void *at, size_t first, size_t pages, uint64_t seed)
{
	volatile uint64_t *words = at;

	for (size_t i = 0; i < pages * WORDS; i++)
		words[i] = content(first + i / WORDS, seed, i % WORDS);
}

int is_content(const void *at, size_t page, uint64_t seed)
{
	const volatile uint64_t *words = at;
	size_t i = 0;

	while (i < WORDS && words[i] == content(page, seed, i))
		i++;
	return i == WORDS;
}

void expect_content_at(const char *file, int line, const void *at, size_t first, size_t pages, uint64_t seed)
{
	const volatile uint64_t *words = at;

	for (size_t i = 0; i < pages * WORDS; i++) {
		uint64_t got = words[i], want = content(first + i / WORDS, seed, i % WORDS);

		if (got != want)
			fail_at(file, line, "page %zu of %zu at %p, word %zu: 0x%llx, not 0x%llx", i / WORDS, pages, at,
				i % WORDS, (unsigned long long)got, (unsigned long long)want);
	}
}

void expect_zeroes_at(const char *file, int line, const void *at, size_t pages)
{
	const volatile uint64_t *words = at;

	for (size_t i = 0; i < pages * WORDS; i++) {
		uint64_t got = words[i];

		if (got)
			fail_at(file, line, "page %zu of %zu at %p, word %zu: 0x%llx, not zero", i / WORDS, pages, at,
				i % WORDS, (unsigned long long)got);
	}
}

unsigned char *map_filled(size_t pages)
{
	unsigned char *p = map(pages);

	fill(p, 0, pages, 1);
	evict_all();
	return p;
}

void evict_all(void)
{
	static uint64_t round;

	make_filler();
	for (int pass = 0; pass < FILLER_PASSES; pass++, round++)
		for (size_t i = 0; i < FILLER_BLOCKS; i++)
			for (size_t word = 0; word < FILLER_BLOCK / 8; word += WORDS / 4)
				((volatile uint64_t *)filler[i])[word] = mix(round ^ i << 32 ^ word);
}

/* ---- access ---- */

void *signal_address;
int signal_code;

static sigjmp_buf after_access;

static void on_access(int signal, siginfo_t *info, void *context)
{
	(void)context;
	signal_address = info->si_addr;
	signal_code = info->si_code;
	siglongjmp(after_access, signal);
}

int signal_of(const void *at, enum access access)
{
	struct sigaction action = { .sa_sigaction = on_access, .sa_flags = SA_SIGINFO }, segv, bus;
	int signal;

	sigaction(SIGSEGV, &action, &segv);
	sigaction(SIGBUS, &action, &bus);
	signal = sigsetjmp(after_access, 1);
	if (signal == 0) {
		volatile unsigned char *byte = (volatile unsigned char *)(uintptr_t)at;

		if (access == WRITES)
			__atomic_fetch_or(byte, 0, __ATOMIC_SEQ_CST);
		else
			(void)*byte;
	}
	sigaction(SIGSEGV, &segv, NULL);
	sigaction(SIGBUS, &bus, NULL);
	return signal;
}

void expect_signal_at(const char *file, int line, const void *at, size_t pages, enum access access, int signal)
{
	for (size_t i = 0; i < pages; i++) {
		const unsigned char *page = (const unsigned char *)at + i * PAGE;
		int got = signal_of(page, access);

		if (got != signal)
			fail_at(file, line, "%s page %zu of %zu at %p raises signal %d, not %d",
				access == READS ? "reading" : "writing", i, pages, at, got, signal);
		if (signal && signal_address != page)
			fail_at(file, line, "a signal says %p, not %p", signal_address, (const void *)page);
	}
}

/* ---- the kernel's word ---- */

size_t mincore_pages(const void *at, size_t pages)
{
	static unsigned char is_there[AREA * 16];
	size_t count = 0;

	EXPECT(pages <= sizeof(is_there));
	EXPECT(mincore((void *)(uintptr_t)at, pages * PAGE, is_there) == 0);
	for (size_t i = 0; i < pages; i++)
		count += is_there[i] & 1;
	return count;
}

/* Calls `see` with each line of smaps that belongs to a mapping which begins or ends in [at, at + pages). */
static void read_smaps(const void *at, size_t pages, void (*see)(const char *line, void *arg), void *arg)
{
	uintptr_t from = (uintptr_t)at, to = from + pages * PAGE, start, end;
	FILE *f = fopen("/proc/self/smaps", "re");
	char line[4096];
	int is_within = 0;

	EXPECT(f != NULL);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			is_within = start < to && end > from;
		else if (is_within)
			see(line, arg);
	fclose(f);
}

struct sum {
	const char *key;
	size_t bytes;
	int has_flag;
};

static void add_bytes(const char *line, void *arg)
{
	struct sum *sum = arg;

	if (strncmp(line, sum->key, strlen(sum->key)) == 0)
		sum->bytes += strtoul(line + strlen(sum->key), NULL, 10) << 10;
}

size_t smaps_bytes(const char *key, const void *at, size_t pages)
{
	struct sum sum = { .key = key };

	read_smaps(at, pages, add_bytes, &sum);
	return sum.bytes;
}

static void find_flag(const char *line, void *arg)
{
	struct sum *sum = arg;

	if (strncmp(line, "VmFlags:", 8) == 0 && strstr(line, sum->key))
		sum->has_flag = 1;
}

int has_vm_flag(const void *at, const char *flag)
{
	char key[8];
	struct sum sum = { .key = key };

	snprintf(key, sizeof(key), " %s", flag);
	read_smaps(at, 1, find_flag, &sum);
	return sum.has_flag;
}

size_t rss_bytes(void)
{
	return footprint().resident_pages * PAGE;
}

/* ---- processes ---- */

void in_child_at(const char *file, int line, void (*run)(void *), void *arg)
{
	int status = -1;
	pid_t pid = fork();

	if (pid == 0) {
		alarm(CHECK_SECONDS / 2);
		run(arg);
		_exit(0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0)
		fail_at(file, line, "a child ended with status 0x%x", (unsigned)status);
}

/* ---- running ---- */

/* That the checks check anything: to be asked for, since without a limit it is not so. */
static void what_is_not_used_is_taken_out(void)
{
	unsigned char *p = map_filled(AREA);
	size_t present = present_pages(p, AREA);

	if (present > AREA / 8)
		FAIL("%zu of %d pages are present", present, AREA);
	EXPECT_CONTENT(p, 0, AREA, 1);
	unmap(p, AREA);
}

static const struct check eviction_check = CHECK(what_is_not_used_is_taken_out);

/* In this process. */
static void run_here(const struct check *check)
{
	is_first = check != &eviction_check && strcmp(current, "mmap_family") == 0;
	current = check->name;
	alarm(CHECK_SECONDS);
	if (setjmp(skipped) == 0)
		check->run();
	alarm(0);
}

static int run_in_own_process(const struct check *check)
{
	int status = -1;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		execl("/proc/self/exe", "mmap_family", check->name, (char *)NULL);
		_exit(2);
	}
	if (pid > 0 && waitpid(pid, &status, 0) == pid && status == 0)
		return 0;
	fprintf(stderr, "mmap_family: FAILED: %s: %s %d\n", check->name, WIFSIGNALED(status) ? "signal" : "status",
		WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	return 1;
}

static const struct check *find(const char *name)
{
	if (strcmp(name, eviction_check.name) == 0)
		return &eviction_check;
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
		for (const struct check *c = parts[i]; c->name; c++)
			if (strcmp(name, c->name) == 0)
				return c;
	return NULL;
}

static int list(const struct check *check)
{
	puts(check->name);
	return 0;
}

static int run_together(const struct check *check)
{
	run_here(check);
	return 0;
}

static int for_all(int (*run)(const struct check *check))
{
	unsigned count = 0, failed = 0;

	if (expect_evictions)
		failed += run(&eviction_check);
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
		for (const struct check *c = parts[i]; c->name; c++, count++)
			failed += run(c);
	if (run != list)
		printf("mmap_family: %u checks, %u failed\n", count, failed);
	return failed != 0;
}

static int usage(const char *why, const char *what)
{
	fprintf(stderr,
		"mmap_family: %s '%s'\nusage: mmap_family [--expect-evictions] [--list | --together | NAME...]\n", why,
		what);
	return 2;
}

int main(int argc, char **argv)
{
	int (*run)(const struct check *) = run_in_own_process;
	int i = 1;

	setvbuf(stdout, NULL, _IOLBF, 0);
	for (; i < argc && strncmp(argv[i], "--", 2) == 0; i++)
		if (strcmp(argv[i], "--expect-evictions") == 0)
			expect_evictions = 1;
		else if (strcmp(argv[i], "--together") == 0)
			run = run_together;
		else if (strcmp(argv[i], "--list") == 0)
			run = list;
		else
			return usage("unknown option", argv[i]);
	if (i == argc)
		return for_all(run);
	for (; i < argc; i++) {
		if (!find(argv[i]))
			return usage("no such check", argv[i]);
		run_here(find(argv[i]));
	}
	return 0;
}
