/*
 * What to do about an error of starting. See explain.h.
 */
#include "explain.h"

#include <errno.h>
#include <string.h>

const char *explain_start(int err)
{
	switch (err) {
	case -EPERM:
	case -EACCES:
		return "userfaultfd is not permitted; set vm.unprivileged_userfaultfd=1 or give access to /dev/userfaultfd";
	case -EOPNOTSUPP:
		return "the kernel has no UFFDIO_MOVE; Linux 6.8 or newer is needed";
	case -ENOSYS:
		return "the kernel is built without userfaultfd";
	case -ENOMEM:
		return "no address space or memory; raise ulimit -v";
	case -ENOPKG:
		return "there is no libjemalloc.so.2 of version 5; install it (Debian: libjemalloc2)";
	case -EMFILE:
	case -ENFILE:
		return "out of file descriptors; raise ulimit -n";
	case -EAGAIN:
		return "no more threads are allowed; raise ulimit -u";
	default:
		return "see larder doctor";
	}
}

static const char *explain_dir(int err)
{
	switch (err) {
	case -ENOENT:
		return "there is no such directory; make it, or name another";
	case -ENOTDIR:
		return "it is not a directory; name a directory on a disk";
	case -EACCES:
		return "it cannot be written to; name a directory in which this user may make files";
	case -EROFS:
		return "its filesystem is read-only; name a directory on another one";
	case -ENODEV:
		return "it is in RAM (tmpfs), so pages there would stay in RAM; name a directory on a disk";
	case -EOPNOTSUPP:
		return "its filesystem does not support O_DIRECT; name a directory on one that does, such as ext4 or XFS";
	case -ENOSPC:
	case -EDQUOT:
		return "its filesystem is full; make room, or name a directory on another one";
	default:
		return strerror(-err);
	}
}

static const char *explain_device(int err)
{
	switch (err) {
	case -ENOENT:
		return "there is no such device; check the name";
	case -ENOTBLK:
		return "it is not a block device; to swap to a file, name its directory as --swap-dir";
	case -EACCES:
		return "it may not be written; run as root, or give this user access to it";
	case -EROFS:
		return "it is read-only; name another device";
	case -EBUSY:
		return "it is in use; name a device that is not mounted and that no other program has";
	case -ENOSPC:
		return "it is smaller than the swap size, or than 64M; give a smaller size, or name a larger device";
	case -ENXIO:
	case -ENODEV:
		return "there is no medium behind it; name another device";
	default:
		return strerror(-err);
	}
}

const char *explain_swap(int err, int is_device)
{
	switch (err) {
	case -EPERM:
		return "io_uring is not permitted; sysctl kernel.io_uring_disabled=0, or allow it in the container's seccomp policy";
	case -ENOSYS:
		return "there is no io_uring; use a kernel with CONFIG_IO_URING, or allow it in the container's seccomp policy";
	case -ENOMEM:
	case -EMFILE:
	case -ENFILE:
	case -EAGAIN:
		return explain_start(err);
	case -EINVAL:
		return "the settings do not fit together; give one place, and a size of 64M to 16T";
	default:
		return is_device ? explain_device(err) : explain_dir(err);
	}
}
