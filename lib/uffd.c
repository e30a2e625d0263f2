/*
 * The only file that issues userfaultfd ioctls. See uffd.h for what the answers mean.
 */
#include "uffd.h"

#include "linux_userfaultfd.h"
#include "sys.h"

/* THREAD_ID lets a debug build recognise a fault raised by one of Larder's own threads. */
#define NEEDED_FEATURES ((uint64_t)UFFD_FEATURE_MOVE | (uint64_t)UFFD_FEATURE_POISON | (uint64_t)UFFD_FEATURE_THREAD_ID)

static int handshake(int fd, uint64_t features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	long err = sys_ioctl(fd, UFFDIO_API, &api);

	/* A kernel that lacks a feature answers EINVAL, and so does one that knows none of the bits. */
	if (err == -EINVAL)
		return -EOPNOTSUPP;
	return (int)err;
}

static int open_device(void)
{
	long dev = sys_open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	long fd;

	if (dev < 0)
		return (int)dev;
	fd = sys_call3(SYS_ioctl, dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	sys_close((int)dev);
	return (int)fd;
}

static int open_with(uint64_t features)
{
	int fd = (int)sys_call3(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK, 0, 0);
	int err;

	if (fd == -EPERM) {
		fd = open_device();
		if (fd == -ENOENT || fd == -EACCES)
			return -EPERM;
	}
	if (fd < 0)
		return fd;
	err = handshake(fd, features);
	if (err < 0) {
		sys_close(fd);
		return err;
	}
	return fd;
}

int uffd_open(void)
{
	return open_with(NEEDED_FEATURES | UFFD_FEATURE_EVENT_UNMAP | UFFD_FEATURE_EVENT_REMAP);
}

int uffd_open_sigbus(void)
{
	return open_with(NEEDED_FEATURES | UFFD_FEATURE_SIGBUS);
}

long uffd_register(int fd, const void *addr, size_t bytes)
{
	struct uffdio_register arg = {
		.range = { (uintptr_t)addr, bytes },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};

	return sys_ioctl(fd, UFFDIO_REGISTER, &arg);
}

long uffd_unregister(int fd, const void *addr, size_t bytes)
{
	struct uffdio_range range = { (uintptr_t)addr, bytes };

	return sys_ioctl(fd, UFFDIO_UNREGISTER, &range);
}

long uffd_wake(int fd, const void *addr, size_t bytes)
{
	struct uffdio_range range = { (uintptr_t)addr, bytes };

	return sys_ioctl(fd, UFFDIO_WAKE, &range);
}

/* The kernel leaves the bytes done, or the negative errno of the first page, in the argument's last field. */
static long progress(long err, int64_t done)
{
	return done > 0 ? done : err;
}

static long copy(int fd, void *dst, const void *src, size_t bytes, uint64_t mode)
{
	struct uffdio_copy arg = { .dst = (uintptr_t)dst, .src = (uintptr_t)src, .len = bytes, .mode = mode };
	long err = sys_ioctl(fd, UFFDIO_COPY, &arg);

	return progress(err, arg.copy);
}

long uffd_copy(int fd, void *dst, const void *src, size_t bytes)
{
	return copy(fd, dst, src, bytes, 0);
}

long uffd_copy_quietly(int fd, void *dst, const void *src, size_t bytes)
{
	return copy(fd, dst, src, bytes, UFFDIO_COPY_MODE_DONTWAKE);
}

long uffd_zero(int fd, void *dst, size_t bytes)
{
	struct uffdio_zeropage arg = { .range = { (uintptr_t)dst, bytes } };
	long err = sys_ioctl(fd, UFFDIO_ZEROPAGE, &arg);

	return progress(err, arg.zeropage);
}

long uffd_move(int fd, void *dst, void *src, size_t bytes)
{
	struct uffdio_move arg = {
		.dst = (uintptr_t)dst,
		.src = (uintptr_t)src,
		.len = bytes,
		.mode = UFFDIO_MOVE_MODE_DONTWAKE,
	};
	long err = sys_ioctl(fd, UFFDIO_MOVE, &arg);

	return progress(err, arg.move);
}

long uffd_poison(int fd, void *dst, size_t bytes)
{
	struct uffdio_poison arg = { .range = { (uintptr_t)dst, bytes }, .mode = UFFDIO_POISON_MODE_DONTWAKE };
	long err = sys_ioctl(fd, UFFDIO_POISON, &arg);

	return progress(err, arg.updated);
}
