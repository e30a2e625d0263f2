/*
 * Disk. See disk.h.
 *
 * A transfer is one request to the kernel at a time: its delay, if a test wants one; then itself; then what is left
 * when only part of it was done. So a queue needs one place in the ring for each transfer, and one for the futex on
 * which it waits.
 */
#include "disk.h"

#include "limit.h"
#include "stats.h"
#include "sys.h"
#include "text.h"

#include <linux/fs.h>
#include <linux/ioprio.h>
#include <linux/magic.h>
#include <linux/stat.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/statfs.h>

#ifndef IOPRIO_BE_NR
#define IOPRIO_BE_NR 8
#endif

/* From Linux 6.7 on (io_uring.h, futex.h); Debian 12's headers are older. */
enum { OP_FUTEX_WAIT = 51, FUTEX_SIZE_U32 = 0x02, FUTEX_IS_PRIVATE = 0x80 };

/* FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE */
enum { PUNCH_MODE = 0x03 };

enum { BLOCK_LEAST_BYTES = 4096, FILE_MODE = 0600, NAME_TRIES = 16, FILE_SLOT = 0 };

enum phase { PHASE_DELAYED, PHASE_FAILS, PHASE_TRANSFERS };

/* ---- opening ---- */

static long open_at(const char *path, int flags)
{
	return sys_call6(SYS_openat, AT_FDCWD, (long)path, flags, FILE_MODE, 0, 0);
}

/* Where there are no files without a name: one whose name is gone at once. */
static long open_unlinked(const char *dir, int flags)
{
	static const char letters[] = "abcdefghijklmnopqrstuvwxyz012345";
	char path[4096 + 32];
	unsigned char random[16];
	size_t n = 0;
	long fd = -EEXIST;

	while (dir[n] && n < 4096)
		path[n] = dir[n], n++;
	__builtin_memcpy(path + n, "/.larder-", 9);
	n += 9;
	for (int tries = 0; tries < NAME_TRIES && fd == -EEXIST; tries++) {
		if (sys_call3(SYS_getrandom, (long)random, sizeof(random), 0) != sizeof(random))
			return -EIO;
		for (size_t i = 0; i < sizeof(random); i++)
			path[n + i] = letters[random[i] % 32];
		path[n + sizeof(random)] = 0;
		fd = open_at(path, flags | O_CREAT | O_EXCL);
	}
	if (fd >= 0)
		sys_call3(SYS_unlink, (long)path, 0, 0);
	return fd;
}

static int is_in_ram(long fd)
{
	struct statfs fs;

	return sys_call3(SYS_fstatfs, fd, (long)&fs, 0) == 0 && (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC);
}

static long open_file(const char *dir)
{
	const int flags = O_RDWR | O_DIRECT | O_CLOEXEC | O_NOATIME;
	long at = open_at(dir, O_PATH | O_DIRECTORY | O_CLOEXEC), fd;

	if (at < 0)
		return at;
	fd = is_in_ram(at) ? -ENODEV : open_at(dir, flags | O_TMPFILE | O_EXCL);
	sys_close((int)at);
	if (fd == -EOPNOTSUPP || fd == -EISDIR)
		fd = open_unlinked(dir, flags);
	return fd == -EINVAL ? -EOPNOTSUPP : fd;
}

/*
 * The alignment of transfers: what O_DIRECT needs, and no less than a block of the file system. ext4 lets a write that
 * covers a part of a block, or ends beyond the end of the file, be the only one: all writes would go one after the
 * other.
 */
static uint32_t block_of(long fd, int is_device)
{
	struct statx s = { 0 };
	uint32_t block = 0;
	int sector = 0;

	if (sys_call6(SYS_statx, fd, (long)"", AT_EMPTY_PATH, STATX_DIOALIGN, (long)&s, 0) == 0 &&
	    s.stx_mask & STATX_DIOALIGN)
		block = s.stx_dio_offset_align > s.stx_dio_mem_align ? s.stx_dio_offset_align : s.stx_dio_mem_align;
	if (block == 0 && is_device && sys_ioctl((int)fd, BLKSSZGET, &sector) == 0)
		block = (uint32_t)sector;
	return block < BLOCK_LEAST_BYTES ? BLOCK_LEAST_BYTES : block;
}

/* Make the file as long as it may become, which costs nothing where files can have holes. Where that does not go, it
 * grows as it is written. What is beyond the process's limit on the size of files is not asked for: SIGXFSZ would end
 * it. */
static void lengthen(long fd, uint64_t bytes)
{
	struct rlimit limit;
	struct statfs fs;

	if (sys_call6(SYS_prlimit64, 0, RLIMIT_FSIZE, 0, (long)&limit, 0, 0) == 0 && limit.rlim_cur < bytes)
		bytes = limit.rlim_cur;
	if (sys_call3(SYS_fstatfs, fd, (long)&fs, 0) == 0 && fs.f_type != MSDOS_SUPER_MAGIC &&
	    fs.f_type != EXFAT_SUPER_MAGIC)
		sys_call3(SYS_ftruncate, fd, (long)bytes, 0);
}

static long open_device(const char *path, uint64_t *bytes)
{
	long fd = open_at(path, O_RDWR | O_DIRECT | O_EXCL | O_CLOEXEC);
	uint64_t has = 0;
	long err = 0;

	if (fd < 0)
		return fd;
	if (sys_ioctl((int)fd, BLKGETSIZE64, &has) < 0)
		err = -ENOTBLK;
	else if (has < *bytes || has < LARDER_SWAP_MIN_BYTES)
		err = -ENOSPC;
	if (err) {
		sys_close((int)fd);
		return err;
	}
	if (*bytes == 0)
		*bytes = has < LARDER_SWAP_MAX_BYTES ? has : LARDER_SWAP_MAX_BYTES;
	return fd;
}

void disk_await_device(const char *path, uint64_t timeout_ns)
{
	uint64_t end = sys_now_ns() + timeout_ns;
	long fd;

	do {
		fd = open_at(path, O_RDONLY | O_EXCL | O_NONBLOCK | O_CLOEXEC);
		if (fd == -EBUSY)
			sys_sleep_ns(5000000);
	} while (fd == -EBUSY && sys_now_ns() < end);
	if (fd >= 0)
		sys_close((int)fd);
}

int disk_open(struct larder_disk *d, const struct disk_place *place)
{
	long fd;

	d->is_device = place->device != NULL;
	d->bytes = place->bytes;
	fd = d->is_device ? open_device(place->device, &d->bytes) : open_file(place->dir);
	if (fd < 0)
		return (int)fd;
	d->fd = (int)fd;
	d->opener = sys_gettid();
	d->block_bytes = block_of(fd, d->is_device);
	if (!d->is_device)
		lengthen(fd, d->bytes);
	return 0;
}

void disk_close(struct larder_disk *d)
{
	sys_close(d->fd);
	d->fd = -1;
}

/* ---- queues ---- */

static int open_ring(struct io_uring *ring, unsigned entries)
{
	struct io_uring_params p = {
		.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
	};
	int err = io_uring_queue_init_params(entries, ring, &p);

	if (err != -EINVAL)
		return err;
	p = (struct io_uring_params){ 0 };
	return io_uring_queue_init_params(entries, ring, &p);
}

int disk_queue_open(struct disk_queue *q, struct larder_disk *d, unsigned depth, void *buffers, uint64_t bytes)
{
	const struct iovec all = { buffers, bytes };
	int err = open_ring(&q->ring, depth + 2);

	if (err)
		return err;
	io_uring_ring_dontfork(&q->ring);
	q->disk = d;
	q->depth = depth;
	q->in_flight = 0;
	q->completed = NULL;
	q->completed_end = &q->completed;
	q->waits_for_event = 0;
	q->done_fd = -1;
	q->registered_file = io_uring_register_files(&q->ring, &d->fd, 1) == 0;
	q->registered = NULL;
	if (buffers && io_uring_register_buffers(&q->ring, &all, 1) == 0) {
		q->registered = buffers;
		q->registered_bytes = bytes;
	}
	return 0;
}

void disk_queue_close(struct disk_queue *q)
{
	io_uring_queue_exit(&q->ring);
	if (q->done_fd >= 0)
		sys_close(q->done_fd);
}

int disk_queue_notify(struct disk_queue *q)
{
	long fd = sys_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	int err = fd < 0 ? (int)fd : io_uring_register_eventfd(&q->ring, (int)fd);

	if (err && fd >= 0)
		sys_close((int)fd);
	if (err)
		return err;
	q->done_fd = (int)fd;
	return q->done_fd;
}

static struct io_uring_sqe *entry(struct disk_queue *q)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&q->ring);

	if (!sqe) {
		io_uring_submit(&q->ring);
		sqe = io_uring_get_sqe(&q->ring);
	}
	return sqe;
}

static void count(uint64_t *counter, uint64_t n)
{
	__atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

static int is_registered(const struct disk_queue *q, const char *buffer, uint32_t bytes)
{
	return q->registered && buffer >= q->registered && buffer + bytes <= q->registered + q->registered_bytes;
}

/* Reads are waited for, writes are not: where the device's scheduler knows priorities, reads go first. */
static uint16_t priority_of(enum disk_kind kind)
{
	return IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, kind == DISK_READ ? 0 : IOPRIO_BE_NR - 1);
}

static void ask_for_transfer(struct disk_queue *q, struct disk_transfer *t, struct io_uring_sqe *sqe)
{
	char *buffer = (char *)t->buffer + t->done;
	uint32_t bytes = t->bytes - t->done;
	int fd = q->registered_file ? FILE_SLOT : q->disk->fd;

	if (t->forced > 0 && (uint32_t)t->forced < bytes)
		bytes = (uint32_t)t->forced & ~(q->disk->block_bytes - 1);
	t->forced = 0;
	if (t->kind == DISK_READ)
		io_uring_prep_read(sqe, fd, buffer, bytes, t->offset + t->done);
	else
		io_uring_prep_write(sqe, fd, buffer, bytes, t->offset + t->done);
	if (is_registered(q, t->buffer, t->bytes)) {
		sqe->opcode = t->kind == DISK_READ ? IORING_OP_READ_FIXED : IORING_OP_WRITE_FIXED;
		sqe->buf_index = 0;
	}
	if (q->registered_file)
		sqe->flags |= IOSQE_FIXED_FILE;
	sqe->ioprio = priority_of((enum disk_kind)t->kind);
}

static void ask_for_hole(struct disk_queue *q, const struct disk_transfer *t, struct io_uring_sqe *sqe)
{
	io_uring_prep_fallocate(sqe, q->registered_file ? FILE_SLOT : q->disk->fd, PUNCH_MODE, (off_t)t->offset,
				t->bytes);
	if (q->registered_file)
		sqe->flags |= IOSQE_FIXED_FILE;
}

/* The next request of a transfer. */
static void ask(struct disk_queue *q, struct disk_transfer *t)
{
	struct io_uring_sqe *sqe = entry(q);

	if (t->delay_ns) {
		t->phase = PHASE_DELAYED;
		t->delay.tv_sec = (long long)(t->delay_ns / 1000000000u);
		t->delay.tv_nsec = (long long)(t->delay_ns % 1000000000u);
		t->delay_ns = 0;
		io_uring_prep_timeout(sqe, &t->delay, 0, 0);
	} else if (t->forced < 0) {
		t->phase = PHASE_FAILS;
		io_uring_prep_nop(sqe);
	} else {
		t->phase = PHASE_TRANSFERS;
		if (t->kind == DISK_PUNCH)
			ask_for_hole(q, t, sqe);
		else
			ask_for_transfer(q, t, sqe);
	}
	io_uring_sqe_set_data(sqe, t);
}

static void count_begun(const struct larder_disk *d, const struct disk_transfer *t)
{
	struct larder_disk_stats *s = d->stats;
	uint64_t now;

	if (t->kind == DISK_PUNCH)
		return;
	if (t->kind == DISK_WRITE) {
		count(&s->writes_in_flight, 1);
		return;
	}
	now = __atomic_add_fetch(&s->reads_in_flight, 1, __ATOMIC_RELAXED);
	if (now > __atomic_load_n(&s->peak_reads_in_flight, __ATOMIC_RELAXED))
		__atomic_store_n(&s->peak_reads_in_flight, now, __ATOMIC_RELAXED);
}

static void count_ended(const struct larder_disk *d, const struct disk_transfer *t)
{
	struct larder_disk_stats *s = d->stats;
	unsigned bucket = stats_latency_bucket(sys_now_ns() - t->started_ns);
	int is_read = t->kind == DISK_READ;

	if (t->kind == DISK_PUNCH)
		return;
	count(is_read ? &s->reads_in_flight : &s->writes_in_flight, (uint64_t)-1);
	count(is_read ? &s->reads : &s->writes, 1);
	count(is_read ? &s->read_bytes : &s->write_bytes, t->done);
	count(is_read ? &s->read_latency[bucket] : &s->write_latency[bucket], 1);
	if (t->result < 0)
		count(is_read ? &s->read_errors : &s->write_errors, 1);
}

static void begin(struct larder_disk *d, struct disk_transfer *t)
{
	const struct disk_seam *seam = d->seam;

	t->done = 0;
	t->delay_ns = 0;
	t->started_ns = sys_now_ns();
	t->forced = seam && seam->submit ? seam->submit(seam->arg, t, &t->delay_ns) : 0;
	count_begun(d, t);
}

static void complete(struct larder_disk *d, struct disk_transfer *t, int32_t result)
{
	const struct disk_seam *seam = d->seam;

	t->result = result;
	if (seam && seam->complete)
		seam->complete(seam->arg, t);
	count_ended(d, t);
}

int disk_submit(struct disk_queue *q, struct disk_transfer *t)
{
	if (q->in_flight >= q->depth)
		return -EBUSY;
	q->in_flight++;
	begin(q->disk, t);
	ask(q, t);
	return 0;
}

void disk_flush(struct disk_queue *q)
{
	if (io_uring_sq_ready(&q->ring))
		io_uring_submit(&q->ring);
}

static void end(struct disk_queue *q, struct disk_transfer *t, int32_t result)
{
	complete(q->disk, t, result);
	t->next = NULL;
	q->in_flight--;
	*q->completed_end = t;
	q->completed_end = &t->next;
}

/* Beyond the end of a file there is what is in its holes. */
static void read_nothing(struct disk_transfer *t)
{
	__builtin_memset((char *)t->buffer + t->done, 0, t->bytes - t->done);
	t->done = t->bytes;
}

static void transferred(struct disk_queue *q, struct disk_transfer *t, int32_t bytes)
{
	if (bytes == -EINTR || bytes == -EAGAIN) {
		ask(q, t);
		return;
	}
	if (bytes == 0 && t->kind == DISK_READ && !q->disk->is_device) {
		read_nothing(t);
		end(q, t, (int32_t)t->bytes);
		return;
	}
	if (t->kind == DISK_PUNCH) {
		end(q, t, bytes ? bytes : (int32_t)t->bytes);
		return;
	}
	if (bytes <= 0) {
		end(q, t, bytes ? bytes : -EIO);
		return;
	}
	t->done += (uint32_t)bytes;
	if (t->done >= t->bytes)
		end(q, t, (int32_t)t->bytes);
	else if (t->done % q->disk->block_bytes)
		end(q, t, -EIO); /* what is left does not begin at a block */
	else
		ask(q, t);
}

static void take_completion(struct disk_queue *q, const struct io_uring_cqe *cqe)
{
	struct disk_transfer *t = io_uring_cqe_get_data(cqe);

	if (!t) {
		q->waits_for_event = 0;
		return;
	}
	switch (t->phase) {
	case PHASE_DELAYED:
		ask(q, t);
		break;
	case PHASE_FAILS:
		end(q, t, t->forced);
		break;
	default:
		transferred(q, t, cqe->res);
		break;
	}
}

/* Take what the kernel has posted. What that leads to is sent at once: its transfers have waited already. */
static void take_completions(struct disk_queue *q)
{
	struct io_uring_cqe *cqe;
	unsigned head, n = 0;

	io_uring_for_each_cqe(&q->ring, head, cqe)
	{
		take_completion(q, cqe);
		n++;
	}
	if (n) {
		io_uring_cq_advance(&q->ring, n);
		disk_flush(q);
	}
}

struct disk_transfer *disk_reap(struct disk_queue *q)
{
	struct disk_transfer *t;

	if (!q->completed) {
		if (IO_URING_READ_ONCE(*q->ring.sq.kflags) & IORING_SQ_TASKRUN)
			io_uring_get_events(&q->ring);
		take_completions(q);
	}
	t = q->completed;
	if (t) {
		q->completed = t->next;
		if (!q->completed)
			q->completed_end = &q->completed;
	}
	return t;
}

/*
 * A wait for the word that is left from before was begun when the word had an older value, so the next post of the
 * event ends it, too. Either it is still in the kernel's queue, where that post finds it, or its completion is there
 * and nobody sleeps: no wake-up is lost.
 */
static void ask_for_event(struct disk_queue *q, _Atomic uint32_t *word, uint32_t seen)
{
	struct io_uring_sqe *sqe;

	if (q->waits_for_event)
		return;
	q->waits_for_event = 1;
	sqe = entry(q);
	io_uring_prep_rw(OP_FUTEX_WAIT, sqe, FUTEX_SIZE_U32 | FUTEX_IS_PRIVATE, (const void *)word, 0, seen);
	sqe->addr3 = UINT32_MAX;
	io_uring_sqe_set_data(sqe, NULL);
}

void disk_wait(struct disk_queue *q, _Atomic uint32_t *word, uint32_t seen, uint64_t timeout_ns)
{
	struct __kernel_timespec t = { .tv_sec = (long long)(timeout_ns / 1000000000u),
				       .tv_nsec = (long long)(timeout_ns % 1000000000u) };
	struct io_uring_cqe *cqe;

	if (q->completed || (word && atomic_load_explicit(word, memory_order_acquire) != seen)) {
		disk_flush(q);
		return;
	}
	if (word)
		ask_for_event(q, word, seen);
	io_uring_submit_and_wait_timeout(&q->ring, &cqe, 1, timeout_ns ? &t : NULL, NULL);
	take_completions(q);
}

static void wait_for_completion(struct disk_queue *q)
{
	struct io_uring_cqe *cqe;

	io_uring_submit_and_wait_timeout(&q->ring, &cqe, 1, NULL, NULL);
	take_completions(q);
}

int32_t disk_transfer_now(struct disk_queue *q, struct disk_transfer *t)
{
	struct disk_transfer **link, *before;

	while (disk_submit(q, t) == -EBUSY)
		wait_for_completion(q);
	for (;;) {
		for (before = NULL, link = &q->completed; *link && *link != t; link = &(*link)->next)
			before = *link;
		if (*link)
			break;
		wait_for_completion(q);
	}
	*link = t->next;
	if (!*link)
		q->completed_end = before ? &before->next : &q->completed;
	return t->result;
}

void disk_inherit(struct larder_disk *d, int fd)
{
	d->fd = fd;
	d->opener = sys_gettid();
}

/* ---- program threads ---- */

int disk_reopen(const struct larder_disk *d)
{
	struct larder_text path = { 0 };

	text_string(&path, "/proc/self/task/");
	text_number(&path, (uint64_t)d->opener);
	text_string(&path, "/fd/");
	text_number(&path, (uint64_t)d->fd);
	path.bytes[path.length] = 0;
	return (int)open_at(path.bytes, O_RDONLY | O_DIRECT | O_CLOEXEC);
}

/* Returns as pread(2), all of it in one piece or as the seam wants it. */
static long read_some(int fd, struct disk_transfer *t)
{
	uint32_t bytes = t->bytes - t->done;

	if (t->forced > 0 && (uint32_t)t->forced < bytes)
		bytes = (uint32_t)t->forced;
	t->forced = 0;
	return sys_pread(fd, (char *)t->buffer + t->done, bytes, (off_t)(t->offset + t->done));
}

void disk_read_now(struct larder_disk *d, int fd, struct disk_transfer *t)
{
	long n = 1;

	begin(d, t);
	if (t->delay_ns)
		sys_sleep_ns(t->delay_ns);
	if (t->forced < 0)
		n = t->forced;
	while (n > 0 && t->done < t->bytes) {
		n = read_some(fd, t);
		if (n > 0)
			t->done += (uint32_t)n;
		else if (n == 0 && !d->is_device)
			read_nothing(t);
		else if (n == -EINTR)
			n = 1;
	}
	complete(d, t, t->done == t->bytes ? (int32_t)t->bytes : n < 0 ? (int32_t)n : -EIO);
}
