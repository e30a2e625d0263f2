/*
 * Memory calls. See preload_memory.h, and mapping.h for what they do to managed memory. What does not concern it goes
 * to the kernel as it is.
 *
 * Each function leaves errno alone when it succeeds, as libc's do.
 */
#include "preload_memory.h"

#include "api.h"
#include "linux_userfaultfd.h"
#include "mapping.h"
#include "process.h"
#include "sys.h"

#include <link.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/uio.h>

#ifndef MADV_COLLAPSE /* newer than Debian 12's headers */
#define MADV_COLLAPSE 25
#endif

/* ---- who calls ---- */

static struct {
	uintptr_t start, end;
} allocator; /* where its code lies; constant once there are threads */

static int find_object(struct dl_phdr_info *info, size_t bytes, void *function)
{
	(void)bytes;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
		uintptr_t start = info->dlpi_addr + segment->p_vaddr;

		if (segment->p_type != PT_LOAD || (uintptr_t)function - start >= segment->p_memsz)
			continue;
		allocator.start = start;
		allocator.end = start + segment->p_memsz;
		return 1;
	}
	return 0;
}

void memory_calls_spare(const void *function)
{
	if (function)
		dl_iterate_phdr(find_object, (void *)(uintptr_t)function);
}

static int is_allocator(const void *caller)
{
	return (uintptr_t)caller - allocator.start < allocator.end - allocator.start;
}

/* ---- what is done ---- */

static long do_mmap(void *addr, size_t bytes, int prot, int flags, int fd, off_t offset, int spared)
{
	if (flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) ? mapping_concerns(addr, bytes)
						      : !spared && mapping_wants(bytes, prot, flags))
		return mapping_mmap(addr, bytes, prot, flags, fd, offset);
	return sys_call6(SYS_mmap, (long)addr, (long)bytes, prot, flags, fd, offset);
}

static long do_mremap(void *from, size_t bytes, size_t new_bytes, int flags, void *to)
{
	if (mapping_concerns(from, bytes) || (flags & MREMAP_FIXED && mapping_concerns(to, new_bytes)))
		return mapping_mremap(from, bytes, new_bytes, flags, to);
	return sys_call6(SYS_mremap, (long)from, (long)bytes, (long)new_bytes, flags, (long)to, 0);
}

/* Calls on a range of addresses. Where mappings are not managed, the heap is all the same. */
static long do_range(long number, void *addr, size_t bytes, long a, long b)
{
	int result;

	if (mapping_concerns(addr, bytes))
		return mapping_call(number, addr, bytes, a, b);
	if (number == SYS_madvise && process_advise(addr, bytes, (int)a, &result))
		return result;
	return sys_call6(number, (long)addr, (long)bytes, a, b, 0, 0);
}

static long do_mlockall(int flags)
{
	return mapping_is_open() ? mapping_mlockall(flags) : sys_call3(SYS_mlockall, flags, 0, 0);
}

static long do_munlockall(void)
{
	return mapping_is_open() ? mapping_munlockall() : sys_call3(SYS_munlockall, 0, 0, 0);
}

/* A program that watches memory itself is to have it for itself. */
static long do_ioctl(int fd, unsigned long request, void *argument)
{
	const struct uffdio_range *range = argument; /* with which the argument of UFFDIO_REGISTER begins, too */
	int concerns = (request == UFFDIO_REGISTER || request == UFFDIO_UNREGISTER) && range &&
		       mapping_concerns((void *)(uintptr_t)range->start, range->len);
	long result;

	if (concerns && request == UFFDIO_REGISTER) {
		result = mapping_relinquish((void *)(uintptr_t)range->start, range->len);
		if (result < 0)
			return result;
	}
	result = sys_ioctl(fd, request, argument);
	if (concerns && (request == UFFDIO_REGISTER) == (result < 0))
		mapping_take_back((void *)(uintptr_t)range->start, range->len);
	return result;
}

/*
 * Advice by a descriptor of the process. What throws content away, or concerns forks, the kernel takes for the calling
 * process only; when it has, the table has to know. The rest are hints.
 */
static long do_process_madvise(int pidfd, const struct iovec *ranges, size_t n, int advice, unsigned flags)
{
	long done = sys_call6(SYS_process_madvise, pidfd, (long)ranges, (long)n, advice, flags, 0), left = done;

	if (advice == MADV_COLD || advice == MADV_PAGEOUT || advice == MADV_WILLNEED || advice == MADV_COLLAPSE)
		return done;
	for (size_t i = 0; i < n && left > 0; left -= (long)ranges[i++].iov_len)
		do_range(SYS_madvise, ranges[i].iov_base,
			 (size_t)left < ranges[i].iov_len ? (size_t)left : ranges[i].iov_len, advice, 0);
	return done;
}

int memory_call_is_known(long number)
{
	switch (number) {
	case SYS_mmap:
	case SYS_mremap:
	case SYS_munmap:
	case SYS_mprotect:
	case SYS_pkey_mprotect:
	case SYS_madvise:
	case SYS_mlock:
	case SYS_mlock2:
	case SYS_munlock:
	case SYS_mincore:
	case SYS_msync:
	case SYS_mlockall:
	case SYS_munlockall:
	case SYS_process_madvise:
	case SYS_ioctl:
		return 1;
	default:
		return 0;
	}
}

long memory_call(long number, const long a[6])
{
	switch (number) {
	case SYS_mmap:
		return do_mmap((void *)a[0], (size_t)a[1], (int)a[2], (int)a[3], (int)a[4], a[5], 0);
	case SYS_mremap:
		return do_mremap((void *)a[0], (size_t)a[1], (size_t)a[2], (int)a[3], (void *)a[4]);
	case SYS_mlockall:
		return do_mlockall((int)a[0]);
	case SYS_munlockall:
		return do_munlockall();
	case SYS_process_madvise:
		return do_process_madvise((int)a[0], (const void *)a[1], (size_t)a[2], (int)a[3], (unsigned)a[4]);
	case SYS_ioctl:
		return do_ioctl((int)a[0], (unsigned long)a[1], (void *)a[2]);
	default:
		return do_range(number, (void *)a[0], (size_t)a[1], a[2], a[3]);
	}
}

/* ---- libc's functions ---- */

static int answer(long result)
{
	if (result >= 0)
		return (int)result;
	errno = (int)-result;
	return -1;
}

static void *answer_address(long result)
{
	if (!sys_is_error((void *)result))
		return (void *)result;
	errno = (int)-result;
	return MAP_FAILED;
}

LARDER_PUBLIC void *mmap(void *addr, size_t bytes, int prot, int flags, int fd, off_t offset)
{
	return answer_address(do_mmap(addr, bytes, prot, flags, fd, offset, is_allocator(__builtin_return_address(0))));
}

LARDER_PUBLIC void *mmap64(void *addr, size_t bytes, int prot, int flags, int fd, off64_t offset)
	__attribute__((alias("mmap")));

LARDER_PUBLIC void *mremap(void *from, size_t bytes, size_t new_bytes, int flags, ...)
{
	void *to = NULL;
	va_list args;

	va_start(args, flags);
	if (flags & MREMAP_FIXED)
		to = va_arg(args, void *);
	va_end(args);
	return answer_address(do_mremap(from, bytes, new_bytes, flags, to));
}

LARDER_PUBLIC int munmap(void *addr, size_t bytes)
{
	return answer(do_range(SYS_munmap, addr, bytes, 0, 0));
}

LARDER_PUBLIC int mprotect(void *addr, size_t bytes, int prot)
{
	return answer(do_range(SYS_mprotect, addr, bytes, prot, 0));
}

/* A key of -1 is none: libc calls mprotect() then, for kernels without keys. */
LARDER_PUBLIC int pkey_mprotect(void *addr, size_t bytes, int prot, int key)
{
	return answer(key == -1 ? do_range(SYS_mprotect, addr, bytes, prot, 0)
				: do_range(SYS_pkey_mprotect, addr, bytes, prot, key));
}

LARDER_PUBLIC int madvise(void *addr, size_t bytes, int advice)
{
	return answer(do_range(SYS_madvise, addr, bytes, advice, 0));
}

LARDER_PUBLIC ssize_t process_madvise(int pidfd, const struct iovec *ranges, size_t n, int advice, unsigned flags)
{
	long done = do_process_madvise(pidfd, ranges, n, advice, flags);

	return done < 0 ? answer(done) : done;
}

LARDER_PUBLIC int mlock(const void *addr, size_t bytes)
{
	return answer(do_range(SYS_mlock, (void *)(uintptr_t)addr, bytes, 0, 0));
}

LARDER_PUBLIC int mlock2(const void *addr, size_t bytes, unsigned flags)
{
	return answer(do_range(SYS_mlock2, (void *)(uintptr_t)addr, bytes, (long)flags, 0));
}

LARDER_PUBLIC int munlock(const void *addr, size_t bytes)
{
	return answer(do_range(SYS_munlock, (void *)(uintptr_t)addr, bytes, 0, 0));
}

LARDER_PUBLIC int mincore(void *addr, size_t bytes, unsigned char *answers)
{
	return answer(do_range(SYS_mincore, addr, bytes, (long)answers, 0));
}

LARDER_PUBLIC int msync(void *addr, size_t bytes, int flags)
{
	return answer(do_range(SYS_msync, addr, bytes, flags, 0));
}

LARDER_PUBLIC int mlockall(int flags)
{
	return answer(do_mlockall(flags));
}

LARDER_PUBLIC int munlockall(void)
{
	return answer(do_munlockall());
}

LARDER_PUBLIC int ioctl(int fd, unsigned long request, ...)
{
	void *argument;
	va_list args;

	va_start(args, request);
	argument = va_arg(args, void *); /* where there is none, whatever is there: the kernel does not look at it */
	va_end(args);
	return answer(do_ioctl(fd, request, argument));
}
