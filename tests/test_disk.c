/*
 * The disk: what is transferred is right and complete, errors come back as they are, and nobody sleeps on what has
 * happened. Needs io_uring and a directory that is not in RAM; a loop device where there may be one.
 */
#include "content.h"
#include "disk.h"
#include "futex.h"
#include "thread.h"

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

enum { DEPTH = 128, BLOCK = 4096, POSTS = 200000 };

#define SECOND_NS ((uint64_t)1000000000u)

static struct larder_disk disk;
static struct larder_disk_stats stats;
static struct disk_queue queue;
static char *buffers; /* DEPTH blocks for writing, as many for reading */

/* ---- a disk that does as it is told ---- */

static struct {
	int32_t verdict;
	uint64_t delay_ns, offset; /* only what begins there */
	int completions;
} plan;

static int32_t on_submit(void *arg, const struct disk_transfer *t, uint64_t *delay_ns)
{
	(void)arg;
	if (t->offset != plan.offset)
		return 0;
	*delay_ns = plan.delay_ns;
	return plan.verdict;
}

static void on_complete(void *arg, struct disk_transfer *t)
{
	(void)arg, (void)t;
	plan.completions++;
}

static const struct disk_seam seam = { .submit = on_submit, .complete = on_complete };

/* ---- a disk and a queue ---- */

static const char *directory(void)
{
	const char *dir = getenv("TMPDIR");

	return dir && *dir ? dir : "/var/tmp";
}

static int open_at(const char *dir, const char *device, uint64_t bytes)
{
	const struct disk_place place = { .dir = dir, .device = device, .bytes = bytes };

	memset(&disk, 0, sizeof(disk));
	memset(&stats, 0, sizeof(stats));
	disk.stats = &stats;
	return disk_open(&disk, &place);
}

static void open_queue(int registers)
{
	int err = disk_queue_open(&queue, &disk, DEPTH, registers ? buffers : NULL, 2 * DEPTH * BLOCK);

	if (err == -EPERM || err == -ENOSYS)
		skip();
	assert_int_equal(err, 0);
}

static int set_up(void **state)
{
	(void)state;
	memset(&plan, 0, sizeof(plan));
	plan.offset = UINT64_MAX;
	if (open_at(directory(), NULL, 64 * MIB))
		return -1;
	disk.seam = &seam;
	buffers = sys_map(2 * DEPTH * BLOCK);
	open_queue(1);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	disk_queue_close(&queue);
	disk_close(&disk);
	sys_munmap(buffers, 2 * DEPTH * BLOCK);
	return 0;
}

static char *write_buffer(unsigned i)
{
	return buffers + (size_t)i * BLOCK;
}

static char *read_buffer(unsigned i)
{
	return buffers + (size_t)(DEPTH + i) * BLOCK;
}

static struct disk_transfer transfer(enum disk_kind kind, uint64_t offset, void *buffer, uint32_t bytes)
{
	return (struct disk_transfer){ .offset = offset, .buffer = buffer, .bytes = bytes, .kind = (uint8_t)kind };
}

static void wait_briefly(void)
{
	disk_wait(&queue, NULL, 0, 10000000);
}

/* Reap so many, each of which must have been transferred in full. */
static void reap(unsigned n)
{
	uint64_t until = now_ns() + 10 * SECOND_NS;

	while (n && now_ns() < until) {
		struct disk_transfer *t = disk_reap(&queue);

		if (t)
			assert_int_equal(t->result, t->bytes);
		else
			wait_briefly();
		n -= t != NULL;
	}
	assert_int_equal(n, 0);
}

static int count_descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int n = 0;

	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

static int count_names(const char *path)
{
	DIR *dir = opendir(path);
	int n = 0;

	assert_non_null(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

/* ---- opening ---- */

static void a_file_has_no_name(void **state)
{
	char dir[4096];
	struct stat s;
	int before;

	(void)state;
	snprintf(dir, sizeof(dir), "%s/larder-test-XXXXXX", directory());
	assert_non_null(mkdtemp(dir));
	before = count_descriptors();
	assert_int_equal(open_at(dir, NULL, MIB), 0);
	assert_int_equal(count_names(dir), 2); /* . and .. */
	assert_int_equal(fstat(disk.fd, &s), 0);
	assert_int_equal(s.st_nlink, 0);
	assert_int_equal(s.st_mode & 07777, 0600);
	assert_true(S_ISREG(s.st_mode));
	assert_true(fcntl(disk.fd, F_GETFL) & O_DIRECT);
	assert_true(fcntl(disk.fd, F_GETFD) & FD_CLOEXEC);
	assert_false(disk.is_device);
	assert_true(disk.block_bytes >= 512 && disk.block_bytes <= 4096);
	disk_close(&disk);
	assert_int_equal(count_descriptors(), before);
	assert_int_equal(rmdir(dir), 0);
}

static void places_that_cannot_be_are_refused(void **state)
{
	char file[] = "/var/tmp/larder-test-XXXXXX";
	int fd = mkstemp(file), before = count_descriptors();

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(open_at("/dev/shm", NULL, MIB), -ENODEV);
	assert_int_equal(open_at("/var/tmp/there/is/none", NULL, MIB), -ENOENT);
	assert_int_equal(open_at(file, NULL, MIB), -ENOTDIR);
	assert_int_equal(open_at(NULL, file, MIB), -ENOTBLK);
	assert_int_equal(open_at(NULL, "/dev/there/is/none", MIB), -ENOENT);
	assert_int_equal(count_descriptors(), before);
	close(fd);
	unlink(file);
}

/* What is done to the machine by a shell, as root. Returns its exit status. */
__attribute__((format(printf, 1, 2))) static int shell(const char *format, ...)
{
	char command[1024];
	va_list args;

	va_start(args, format);
	vsnprintf(command, sizeof(command), format, args);
	va_end(args);
	return system(command);
}

/* The line that a command prints, empty when it fails. */
static void shell_line(const char *command, char *line, size_t bytes)
{
	FILE *out = popen(command, "r");

	line[0] = 0;
	if (out && !fgets(line, (int)bytes, out))
		line[0] = 0;
	if (out)
		pclose(out);
	line[strcspn(line, "\n")] = 0;
}

/* A loop device over 72 MiB. Returns 0 when there can be none. */
static int make_loop(char *file, char *device, size_t bytes)
{
	char command[256];
	int fd = mkstemp(file);

	if (fd < 0 || ftruncate(fd, 72 * MIB))
		return 0;
	close(fd);
	snprintf(command, sizeof(command), "losetup --find --show %s 2>/dev/null", file);
	shell_line(command, device, bytes);
	if (!device[0])
		unlink(file);
	return device[0] != 0;
}

static void a_device_is_opened_once(void **state)
{
	char file[] = "/var/tmp/larder-test-XXXXXX", device[64];
	struct larder_disk first, part;
	int err, again, too_large, of_part;

	(void)state;
	if (!make_loop(file, device, sizeof(device)))
		skip();
	err = open_at(NULL, device, 0);
	first = disk;
	again = open_at(NULL, device, 0);
	if (!err)
		disk_close(&first);
	too_large = open_at(NULL, device, 72 * MIB + 1);
	of_part = open_at(NULL, device, 64 * MIB);
	part = disk;
	if (!of_part)
		disk_close(&disk);
	shell("losetup -d %s", device);
	unlink(file);
	assert_int_equal(err, 0);
	assert_true(first.is_device);
	assert_int_equal(first.bytes, 72 * MIB);
	assert_true(first.block_bytes >= 512);
	assert_int_equal(again, -EBUSY);
	assert_int_equal(too_large, -ENOSPC);
	assert_int_equal(of_part, 0);
	assert_int_equal(part.bytes, 64 * MIB);
}

static void without_descriptors_nothing_leaks(void **state)
{
	struct rlimit old, low;
	int before = count_descriptors(), queue_err, disk_err;

	(void)state;
	assert_int_equal(open_at(directory(), NULL, MIB), 0);
	getrlimit(RLIMIT_NOFILE, &old);
	low = old;
	low.rlim_cur = 3;
	setrlimit(RLIMIT_NOFILE, &low);
	queue_err = disk_queue_open(&queue, &disk, DEPTH, NULL, 0);
	disk_close(&disk);
	disk_err = open_at(directory(), NULL, MIB);
	setrlimit(RLIMIT_NOFILE, &old);
	assert_int_equal(queue_err, -EMFILE);
	assert_int_equal(disk_err, -EMFILE);
	assert_int_equal(count_descriptors(), before);
}

/* ---- transfers ---- */

static void transfer_all(enum disk_kind kind, struct disk_transfer *all)
{
	struct disk_transfer one_more = transfer(kind, 0, buffers, BLOCK);

	for (unsigned i = 0; i < DEPTH; i++) {
		all[i] = transfer(kind, i * BLOCK, kind == DISK_WRITE ? write_buffer(i) : read_buffer(i), BLOCK);
		all[i].owner = &all[i];
		assert_int_equal(disk_submit(&queue, &all[i]), 0);
	}
	assert_int_equal(disk_submit(&queue, &one_more), -EBUSY);
	reap(DEPTH);
	assert_null(disk_reap(&queue));
	for (unsigned i = 0; i < DEPTH; i++)
		assert_ptr_equal(all[i].owner, &all[i]);
}

static void as_deep_as_it_goes(void)
{
	struct disk_transfer all[DEPTH];

	for (uint64_t round = 0; round < 4; round++) {
		for (unsigned i = 0; i < DEPTH; i++)
			page_fill(write_buffer(i), i, round);
		transfer_all(DISK_WRITE, all);
		transfer_all(DISK_READ, all);
		for (unsigned i = 0; i < DEPTH; i++)
			assert_int_equal(page_wrong_word(read_buffer(i), i, round), WORDS);
	}
	assert_int_equal(stats.reads, 4 * DEPTH);
	assert_int_equal(stats.writes, 4 * DEPTH);
	assert_int_equal(stats.read_bytes, 4 * DEPTH * BLOCK);
	assert_int_equal(stats.write_bytes, 4 * DEPTH * BLOCK);
	assert_int_equal(stats.peak_reads_in_flight, DEPTH);
	assert_int_equal(stats.reads_in_flight + stats.writes_in_flight, 0);
	assert_int_equal(plan.completions, 8 * DEPTH);
}

static void a_full_queue_transfers_everything(void **state)
{
	(void)state;
	as_deep_as_it_goes();
	disk_queue_close(&queue); /* and without registered buffers */
	memset(&stats, 0, sizeof(stats));
	plan.completions = 0;
	open_queue(0);
	as_deep_as_it_goes();
}

static int32_t transfer_now(enum disk_kind kind, uint64_t offset, void *buffer, uint32_t bytes)
{
	struct disk_transfer t = transfer(kind, offset, buffer, bytes);

	return disk_transfer_now(&queue, &t);
}

static void what_is_short_is_gone_on_with(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 4; i++)
		page_fill(write_buffer(i), i, 1);
	plan.offset = MIB;
	plan.verdict = BLOCK;
	assert_int_equal(transfer_now(DISK_WRITE, MIB, write_buffer(0), 4 * BLOCK), 4 * BLOCK);
	assert_int_equal(transfer_now(DISK_READ, MIB, read_buffer(0), 4 * BLOCK), 4 * BLOCK);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(page_wrong_word(read_buffer(i), i, 1), WORDS);
	assert_int_equal(stats.write_bytes, 4 * BLOCK);
	assert_int_equal(plan.completions, 2);
}

/* Beyond the end of the file there is what is in its holes. */
static void where_nothing_was_written_there_are_zeroes(void **state)
{
	(void)state;
	page_fill(write_buffer(0), 1, 1);
	page_fill(read_buffer(0), 2, 2);
	page_fill(read_buffer(1), 3, 3);
	assert_int_equal(transfer_now(DISK_WRITE, 32 * MIB, write_buffer(0), BLOCK), BLOCK);
	assert_int_equal(transfer_now(DISK_READ, 32 * MIB, read_buffer(0), 2 * BLOCK), 2 * BLOCK);
	assert_int_equal(page_wrong_word(read_buffer(0), 1, 1), WORDS);
	assert_int_equal(page_nonzero_word(read_buffer(1)), WORDS);
	assert_int_equal(transfer_now(DISK_READ, 48 * MIB, read_buffer(0), BLOCK), BLOCK);
	assert_int_equal(page_nonzero_word(read_buffer(0)), WORDS);
}

static void a_forced_error_comes_back(void **state)
{
	(void)state;
	page_fill(write_buffer(0), 1, 1);
	page_fill(write_buffer(1), 2, 2);
	assert_int_equal(transfer_now(DISK_WRITE, BLOCK, write_buffer(0), BLOCK), BLOCK);
	plan.offset = BLOCK;
	plan.verdict = -ENOSPC;
	assert_int_equal(transfer_now(DISK_WRITE, BLOCK, write_buffer(1), BLOCK), -ENOSPC);
	plan.verdict = -EIO;
	assert_int_equal(transfer_now(DISK_READ, BLOCK, read_buffer(0), BLOCK), -EIO);
	plan.verdict = 0;
	assert_int_equal(transfer_now(DISK_READ, BLOCK, read_buffer(0), BLOCK), BLOCK);
	assert_int_equal(page_wrong_word(read_buffer(0), 1, 1), WORDS);
	assert_int_equal(stats.write_errors, 1);
	assert_int_equal(stats.read_errors, 1);
}

/* A delayed transfer comes last, and no earlier than it should; the others do not wait for it. */
static void a_delay_delays_nothing_else(void **state)
{
	enum { MANY = 32, DELAYED = 5 };
	struct disk_transfer all[MANY], *last = NULL;
	uint64_t start = now_ns(), others_ns = 0;

	(void)state;
	plan.offset = DELAYED * BLOCK;
	plan.delay_ns = SECOND_NS;
	for (unsigned i = 0; i < MANY; i++) {
		all[i] = transfer(DISK_WRITE, i * BLOCK, write_buffer(i), BLOCK);
		assert_int_equal(disk_submit(&queue, &all[i]), 0);
	}
	for (unsigned n = 0; n < MANY;) {
		last = disk_reap(&queue);
		if (!last)
			disk_wait(&queue, NULL, 0, 0);
		else if (++n == MANY - 1)
			others_ns = now_ns() - start;
	}
	assert_ptr_equal(last, &all[DELAYED]);
	assert_int_equal(last->result, BLOCK);
	assert_true(now_ns() - start >= SECOND_NS);
	assert_true(others_ns < SECOND_NS);
}

/* One that is wanted now overtakes nothing and loses nothing, even where the queue is full. */
static void one_is_waited_for_while_others_are_under_way(void **state)
{
	struct disk_transfer all[DEPTH];

	(void)state;
	for (unsigned n = 1; n <= DEPTH; n = n == 1 ? DEPTH / 2 : 2 * n) {
		for (unsigned i = 0; i < n; i++) {
			all[i] = transfer(DISK_WRITE, i * BLOCK, write_buffer(i), BLOCK);
			assert_int_equal(disk_submit(&queue, &all[i]), 0);
		}
		page_fill(write_buffer(0), n, 7);
		assert_int_equal(transfer_now(DISK_WRITE, MIB, write_buffer(0), BLOCK), BLOCK);
		assert_int_equal(transfer_now(DISK_READ, MIB, read_buffer(0), BLOCK), BLOCK);
		assert_int_equal(page_wrong_word(read_buffer(0), n, 7), WORDS);
		reap(n);
		assert_null(disk_reap(&queue));
		assert_int_equal(queue.in_flight, 0);
	}
}

static void a_punched_range_is_given_back(void **state)
{
	struct stat before, after;

	(void)state;
	for (unsigned i = 0; i < DEPTH; i++)
		page_fill(write_buffer(i), i, 1);
	assert_int_equal(transfer_now(DISK_WRITE, 0, write_buffer(0), DEPTH * BLOCK), DEPTH * BLOCK);
	fstat(disk.fd, &before);
	assert_int_equal(transfer_now(DISK_PUNCH, 0, NULL, DEPTH / 2 * BLOCK), DEPTH / 2 * BLOCK);
	fstat(disk.fd, &after);
	assert_true(after.st_blocks < before.st_blocks);
	assert_int_equal(after.st_size, before.st_size);
	assert_int_equal(transfer_now(DISK_READ, 0, read_buffer(0), DEPTH * BLOCK), DEPTH * BLOCK);
	assert_int_equal(page_nonzero_word(read_buffer(0)), WORDS);
	assert_int_equal(page_wrong_word(read_buffer(DEPTH - 1), DEPTH - 1, 1), WORDS);
}

/* ---- waiting ---- */

static struct larder_event ping, pong;
static _Atomic uint32_t sent, taken;

static uint64_t time_of_wait(_Atomic uint32_t *word, uint32_t seen, uint64_t timeout_ns)
{
	uint64_t start = now_ns();

	disk_wait(&queue, word, seen, timeout_ns);
	return now_ns() - start;
}

static void waits_end_in_time(void **state)
{
	_Atomic uint32_t word = 5;
	struct disk_transfer t = transfer(DISK_WRITE, 0, write_buffer(0), BLOCK);
	uint64_t ns;

	(void)state;
	ns = time_of_wait(NULL, 0, 50000000);
	assert_true(ns >= 50000000 && ns < SECOND_NS);
	ns = time_of_wait(&word, 5, 50000000);
	assert_true(ns >= 50000000 && ns < SECOND_NS);
	assert_true(time_of_wait(&word, 4, 5 * SECOND_NS) < SECOND_NS); /* it has changed already */
	assert_int_equal(disk_submit(&queue, &t), 0);
	assert_true(time_of_wait(&word, 5, 5 * SECOND_NS) < SECOND_NS);
	assert_ptr_equal(disk_reap(&queue), &t);
	atomic_store(&word, 6); /* the wait for 5 is still in the kernel */
	futex_wake(&word, 1);
	time_of_wait(&word, 6, 50000000); /* may end at once, for that one */
	ns = time_of_wait(&word, 6, 50000000);
	assert_true(ns >= 50000000 && ns < SECOND_NS);
}

static void *poster(void *arg)
{
	uint32_t posts = *(const uint32_t *)arg;

	for (uint32_t i = 1; i <= posts; i++) {
		atomic_store(&sent, i);
		event_post(&ping);
		for (;;) {
			uint32_t seen = event_count(&pong);

			if (atomic_load(&taken) == i)
				break;
			event_wait(&pong, seen, SECOND_NS);
		}
	}
	return NULL;
}

/* Returns how often a wait lasted until its timeout. */
static unsigned take_post(uint32_t number)
{
	unsigned lost = 0;

	for (;;) {
		uint32_t seen = event_count(&ping);

		if (atomic_load(&sent) == number)
			break;
		lost += time_of_wait(&ping.count, seen, 5 * SECOND_NS) >= 4 * SECOND_NS;
	}
	atomic_store(&taken, number);
	event_post(&pong);
	return lost;
}

/* Each post is waited for before the next: one that is lost would be missed for 5 s. Now and then a read is under way.
 */
static void no_post_is_lost(void **state)
{
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
	uint32_t posts = POSTS / 8;
#else
	uint32_t posts = POSTS;
#endif
	struct disk_transfer t = transfer(DISK_READ, 0, read_buffer(0), BLOCK);
	unsigned lost = 0, reads = 0, reaped = 0;
	pthread_t thread;

	(void)state;
	assert_int_equal(transfer_now(DISK_WRITE, 0, write_buffer(0), BLOCK), BLOCK);
	assert_int_equal(pthread_create(&thread, NULL, poster, &posts), 0);
	for (uint32_t i = 1; i <= posts && lost == 0; i++) {
		if (i % 64 == 0 && reads == reaped) {
			assert_int_equal(disk_submit(&queue, &t), 0);
			reads++;
		}
		lost += take_post(i);
		reaped += disk_reap(&queue) != NULL;
	}
	assert_int_equal(lost, 0);
	pthread_join(thread, NULL);
	reap(reads - reaped);
}

/* ---- limits of the system ---- */

static _Atomic uint32_t answered;
static _Atomic int32_t answer;

/* A write beyond the limit, in a thread as the tier has them. */
static void write_beyond(void *arg)
{
	struct disk_transfer t = transfer(DISK_WRITE, 2 * MIB, arg, BLOCK);
	int err = disk_queue_open(&queue, &disk, 4, NULL, 0);

	if (!err) {
		err = disk_transfer_now(&queue, &t);
		disk_queue_close(&queue);
	}
	atomic_store(&answer, err);
	atomic_store(&answered, 1);
	futex_wake(&answered, 1);
}

static void start_internal_thread(void *arg)
{
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
	sigset_t all; /* sanitizers know nothing of such threads: this one is as they are */

	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	write_beyond(arg);
#else
	thread_start("test", write_beyond, arg, 0);
#endif
	while (atomic_load(&answered) == 0)
		futex_wait(&answered, 0, SECOND_NS);
}

/* On a program's thread SIGXFSZ ends the process: opening must not raise it, before the limit or after. */
static int write_beyond_the_limit(void)
{
	const struct rlimit limit = { MIB, MIB };
	char *page = sys_map(BLOCK);

	if (open_at(directory(), NULL, 64 * MIB))
		return 1;
	setrlimit(RLIMIT_FSIZE, &limit);
	disk_close(&disk);
	if (open_at(directory(), NULL, 64 * MIB))
		return 3;
	start_internal_thread(page);
	return answer == -EPERM || answer == -ENOSYS ? 77 : answer == -EFBIG ? 0 : 2;
}

/* RLIMIT_FSIZE: the write fails, and SIGXFSZ does not end the process. */
static void a_limit_of_file_size_kills_nobody(void **state)
{
	pid_t pid = fork();
	int status;

	(void)state;
	if (pid == 0)
		_exit(write_beyond_the_limit());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77)
		skip();
	assert_int_equal(WEXITSTATUS(status), 0);
}

/* A filesystem of 8 MiB, mounted at `dir`. Returns 0 when there can be none. */
static int mount_small(const char *dir, const char *file)
{
	return shell("truncate -s 8M %s && mkfs.ext4 -q -O ^has_journal -F %s >/dev/null 2>&1 && "
		     "mount -o loop %s %s 2>/dev/null",
		     file, file, file, dir) == 0;
}

/* Write until it is full; then what was written is there, and space that is given back can be written again. Returns 0
 * or the line where it went wrong. */
static int fill_filesystem(const char *dir)
{
	enum { AT_ONCE = 64 * BLOCK };
	uint64_t offset = 0;
	int32_t result;
	int line = 0;

	if (open_at(dir, NULL, 64 * MIB))
		return __LINE__;
	buffers = sys_map(2 * DEPTH * BLOCK);
	if (disk_queue_open(&queue, &disk, DEPTH, NULL, 0))
		return __LINE__;
	page_fill(write_buffer(0), 1, 1);
	while ((result = transfer_now(DISK_WRITE, offset, write_buffer(0), AT_ONCE)) == AT_ONCE)
		offset += AT_ONCE;
	if (result != -ENOSPC || offset < 4 * MIB || offset > 8 * MIB)
		line = __LINE__;
	else if (transfer_now(DISK_READ, offset - AT_ONCE, read_buffer(0), BLOCK) != BLOCK ||
		 page_wrong_word(read_buffer(0), 1, 1) != WORDS)
		line = __LINE__;
	else if (transfer_now(DISK_PUNCH, 0, NULL, MIB) != MIB ||
		 transfer_now(DISK_WRITE, 0, write_buffer(0), AT_ONCE) != AT_ONCE)
		line = __LINE__;
	disk_queue_close(&queue);
	disk_close(&disk);
	sys_munmap(buffers, 2 * DEPTH * BLOCK);
	return line;
}

static void a_full_filesystem_says_so(void **state)
{
	char dir[] = "/var/tmp/larder-test-XXXXXX", file[64];
	int line = 0, mounted;

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(file, sizeof(file), "%s.ext4", dir);
	mounted = geteuid() == 0 && mount_small(dir, file);
	if (mounted) {
		line = fill_filesystem(dir);
		for (int tries = 0; tries < 50 && shell("umount %s 2>/dev/null", dir); tries++)
			sys_sleep_ns(20000000); /* a ring goes on closing for a while */
	}
	unlink(file);
	rmdir(dir);
	if (!mounted)
		skip();
	if (line)
		fail_msg("line %d", line);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_file_has_no_name),
		cmocka_unit_test(places_that_cannot_be_are_refused),
		cmocka_unit_test(a_device_is_opened_once),
		cmocka_unit_test(without_descriptors_nothing_leaks),
		cmocka_unit_test_setup_teardown(a_full_queue_transfers_everything, set_up, tear_down),
		cmocka_unit_test_setup_teardown(what_is_short_is_gone_on_with, set_up, tear_down),
		cmocka_unit_test_setup_teardown(where_nothing_was_written_there_are_zeroes, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_forced_error_comes_back, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_delay_delays_nothing_else, set_up, tear_down),
		cmocka_unit_test_setup_teardown(one_is_waited_for_while_others_are_under_way, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_punched_range_is_given_back, set_up, tear_down),
		cmocka_unit_test_setup_teardown(waits_end_in_time, set_up, tear_down),
		cmocka_unit_test_setup_teardown(no_post_is_lost, set_up, tear_down),
		cmocka_unit_test(a_limit_of_file_size_kills_nobody),
		cmocka_unit_test(a_full_filesystem_says_so),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
