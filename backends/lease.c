/*
 * Leases. See lease.h.
 */
#include "lease.h"

#include "sys.h"
#include "text.h"

#include <linux/memfd.h>

enum { PAGE_BYTES_OF_LEASES = 4096 };

static long set_lock(int fd, short type, uint32_t first, uint32_t segments)
{
	struct flock lock = { .l_type = type, .l_whence = SEEK_SET, .l_start = first, .l_len = segments };

	return sys_call3(SYS_fcntl, fd, F_OFD_SETLK, (long)&lock);
}

/* The same file under a description of its own. */
static int open_again(int fd)
{
	struct larder_text path = { 0 };

	text_string(&path, "/proc/thread-self/fd/");
	text_number(&path, (uint64_t)fd);
	path.bytes[path.length] = 0;
	return (int)sys_open(path.bytes, O_RDWR | O_CLOEXEC);
}

static int make_file(struct lease *l, uint64_t openings)
{
	long fd = sys_call3(SYS_memfd_create, (long)"larder-leases", MFD_CLOEXEC, 0);
	void *page;

	if (fd < 0)
		return (int)fd;
	page = (void *)sys_call3(SYS_ftruncate, fd, PAGE_BYTES_OF_LEASES, 0);
	if (!sys_is_error(page))
		page = sys_mmap(NULL, PAGE_BYTES_OF_LEASES, PROT_READ | PROT_WRITE, MAP_SHARED, (int)fd);
	if (sys_is_error(page)) {
		sys_close((int)fd);
		return (int)(intptr_t)page;
	}
	l->page = page;
	atomic_store(&l->page->openings, openings);
	l->fd_plus_one = (int)fd + 1;
	return 0;
}

/* Shares all segments. Another process may be claiming one, which takes it a moment: that is waited for. */
static int share_all(int fd, uint32_t segments)
{
	long err;

	while ((err = set_lock(fd, F_RDLCK, 0, segments)) == -EAGAIN)
		sys_yield();
	return (int)err;
}

int lease_lend(struct lease *l, uint32_t segments, uint64_t openings)
{
	int err = lease_is_shared(l) ? 0 : make_file(l, openings), fd;

	if (err)
		return err;
	fd = open_again(l->fd_plus_one - 1);
	if (fd < 0)
		return fd;
	err = share_all(fd, segments);
	if (!err)
		err = share_all(l->fd_plus_one - 1, segments);
	if (err) {
		sys_close(fd);
		return err;
	}
	return fd;
}

void lease_inherit(struct lease *l, int fd)
{
	l->fd_plus_one = fd + 1;
}

int lease_claim(struct lease *l, uint32_t segment)
{
	if (!lease_is_shared(l))
		return 1;
	if (set_lock(l->fd_plus_one - 1, F_WRLCK, segment, 1))
		return 0;
	set_lock(l->fd_plus_one - 1, F_RDLCK, segment, 1); /* a lock of one's own can always be made less */
	return 1;
}

void lease_drop(struct lease *l, uint32_t first, uint32_t segments)
{
	if (lease_is_shared(l) && segments)
		set_lock(l->fd_plus_one - 1, F_UNLCK, first, segments);
}
