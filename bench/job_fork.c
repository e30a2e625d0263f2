/*
 * What fork costs a process with much memory, some of which may be out: it fills the memory, page by page, waits until
 * it is no longer being taken out, then forks, and waits for the child, which ends at once or executes /bin/true. The
 * memory is compared afterwards.
 */
#include "clock.h"
#include "contents.h"
#include "job.h"
#include "numbers.h"
#include "sysfile.h"

#include <err.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE_BYTES = 4096, BLOCK_PAGES = 16, SETTLE_MS = 300 };

/* As in `bench fork`'s table. */
enum { FORK_EXIT_MS, FORK_EXEC_MS, FORK_ALONE_MS, FORK_RESIDENT_MIB };

static void *fill_block(enum contents contents, uint64_t seed, size_t number)
{
	char *block = malloc(BLOCK_PAGES * PAGE_BYTES);

	if (!block)
		err(2, "no memory");
	contents_fill(contents, block, BLOCK_PAGES * PAGE_BYTES, seed + number);
	return block;
}

static void end_child(int executes)
{
	if (executes)
		execl("/bin/true", "/bin/true", (char *)NULL);
	_exit(executes ? 127 : 0);
}

static void fork_once(int executes, struct samples *whole, struct samples *alone)
{
	uint64_t start = clock_ns();
	pid_t pid = fork();
	int status;

	if (pid == 0)
		end_child(executes);
	samples_add(alone, seconds_since(start) * 1e3);
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0)
		errx(2, "a child failed");
	samples_add(whole, seconds_since(start) * 1e3);
}

static void measure(struct turn *t, unsigned forks)
{
	struct samples ends = { 0 }, executes = { 0 }, alone = { 0 };

	for (unsigned i = 0; i < forks; i++) {
		fork_once(0, &ends, &alone);
		fork_once(1, &executes, &alone);
	}
	t->figures[FORK_EXIT_MS] = samples_median(&ends);
	t->figures[FORK_EXEC_MS] = samples_median(&executes);
	t->figures[FORK_ALONE_MS] = samples_median(&alone);
}

int job_fork(struct turn *t, int argc, char **argv)
{
	size_t blocks = strtoull(argv[0], NULL, 10) / BLOCK_PAGES, wrong = 0;
	enum contents contents = contents_parse(argv[2]);
	uint64_t seed = strtoull(argv[3], NULL, 10);
	void **all = calloc(blocks, sizeof(*all));

	(void)argc;
	if (!all)
		err(2, "no memory");
	for (size_t i = 0; i < blocks; i++) {
		all[i] = fill_block(contents, seed, i);
		atomic_store(&t->done, (double)i / (double)blocks);
	}
	usleep(SETTLE_MS * 1000);
	atomic_store(&t->pid, (int)getpid());
	t->figures[FORK_RESIDENT_MIB] = (double)sysfile_kib_field("/proc/self/status", "VmRSS") / (1 << 20);
	measure(t, (unsigned)atoi(argv[1]));
	for (size_t i = 0; i < blocks; i++)
		wrong += contents_wrong_pages(contents, all[i], BLOCK_PAGES * PAGE_BYTES, seed + i);
	if (wrong)
		warnx("%zu pages are not as they were written", wrong);
	return wrong != 0;
}
