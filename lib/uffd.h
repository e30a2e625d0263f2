/*
 * userfaultfd: one function per kernel operation, with the kernel's answer as a return value.
 *
 * The answers mean different things and callers must treat them so:
 *   -EEXIST  the page is there already
 *   -EAGAIN  the address space is being changed; try again
 *   -ENOENT  the range is not registered any more: it was unmapped or replaced
 *   -ESRCH   the address space is gone: the process is exiting
 *   -EBUSY   (move) the page is pinned for DMA or still shared after fork
 *   -EINVAL  (move) the mappings differ, for instance mlocked on one side
 * No function here touches managed memory, errno, or allocates.
 */
#ifndef LARDER_UFFD_H
#define LARDER_UFFD_H

#include <stddef.h>
#include <stdint.h>

/*
 * Open a userfaultfd that also serves faults of the kernel, with every feature Larder needs. It must be read: whoever
 * unmaps or moves memory that is registered with it waits until the event has been.
 * Tries the system call, then /dev/userfaultfd.
 * returns  a descriptor; -EPERM or -EACCES: not permitted (see vm.unprivileged_userfaultfd); -ENOSYS: kernel built
 *          without it; -EOPNOTSUPP: kernel without UFFDIO_MOVE (before 6.8).
 */
int uffd_open(void);

/* The same, but a fault of memory registered with it raises SIGBUS in the thread that touched it, instead of a message.
 */
int uffd_open_sigbus(void);

long uffd_register(int fd, const void *addr, size_t bytes);
long uffd_unregister(int fd, const void *addr, size_t bytes);
long uffd_wake(int fd, const void *addr, size_t bytes);

/* Map a copy of `bytes` at src, or zeroes, at dst. Returns bytes done, or a negative errno when nothing was done. */
long uffd_copy(int fd, void *dst, const void *src, size_t bytes);
long uffd_zero(int fd, void *dst, size_t bytes);

/* As uffd_copy(), but threads that wait for the pages are not woken. */
long uffd_copy_quietly(int fd, void *dst, const void *src, size_t bytes);

/*
 * Move the pages at src to dst without copying. Returns bytes done, or a negative errno when nothing was done; -ENOENT:
 * the first page is missing in src. (The kernel could skip such holes; then a hole would look like a moved page, and
 * reading it would hang the reader.)
 */
long uffd_move(int fd, void *dst, void *src, size_t bytes);

/* From now on a touch of these (missing) pages raises SIGBUS. Threads that wait for them are not woken. */
long uffd_poison(int fd, void *dst, size_t bytes);

#endif
