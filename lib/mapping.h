/*
 * Mappings: private anonymous memory that the program maps itself, in the region.
 *
 * What mmap() would have made becomes a piece of the region, and so is watched, taken out and brought back like the
 * heap. Each function does what the system call of its name does on plain memory and returns what that returns: a
 * value, or a negative errno. The kernel goes on keeping what it knows (who may access what, what is locked); the table
 * of free addresses (addresses.h) says what is mapped, and the bits of region.h what else has to be known.
 *
 * Unmapping does not give addresses back to the kernel, which would put something of its own there: the pages are made
 * inaccessible and empty, as they were. What the program puts over its mappings with MAP_FIXED and is not private
 * anonymous memory - a file, shared memory - is *foreign*: really mapped, and not managed.
 *
 * Program threads only. One lock guards the free addresses; whoever changes what is mapped holds it throughout, others
 * only while they look. It is taken with all signals blocked, since a handler may map memory. Lock order: the pools'
 * lock, then this one, then what memory.h and region.h name; the reclaim thread, which some functions ask to do
 * something while they hold it, never takes it.
 */
#ifndef LARDER_MAPPING_H
#define LARDER_MAPPING_H

#include <stddef.h>
#include <sys/types.h>

struct larder_memory;
struct larder_reclaim;

/*
 * Smaller mappings are left to the kernel: they are mostly stacks, buffers and code. This is where malloc of glibc
 * begins to map instead of to carve (M_MMAP_THRESHOLD).
 */
enum { MAPPING_MIN_BYTES = 128 << 10 };

/* From now on there are mappings. Called once. Returns 0 or a negative errno. */
int mapping_open(struct larder_memory *m, struct larder_reclaim *r);

int mapping_is_open(void);

/* Does any of [addr, addr + bytes) lie in the region? Then, and only then, the functions below are to be called. */
int mapping_concerns(const void *addr, size_t bytes);

/* Would a mapping with these arguments be managed? */
int mapping_wants(size_t bytes, int prot, int flags);

/* mmap(2), when mapping_wants() it, or when it is to replace memory of the region (MAP_FIXED). */
long mapping_mmap(char *addr, size_t bytes, int prot, int flags, int fd, off_t offset);

/*
 * A system call on a range of addresses: munmap, mprotect, pkey_mprotect, madvise, mlock, mlock2, munlock, mincore and
 * msync, by its number. a and b: its third and fourth argument. Parts of the range outside the region are the kernel's.
 */
long mapping_call(long number, char *addr, size_t bytes, long a, long b);

/* mremap(2). */
long mapping_mremap(char *from, size_t bytes, size_t new_bytes, int flags, char *to);

/* mlockall(2), munlockall(2): of all memory, managed or not. */
long mapping_mlockall(int flags);
long mapping_munlockall(void);

/*
 * The program is about to watch [addr, addr + bytes) with a userfaultfd of its own, or has just ceased to. Returns 0 or
 * a negative errno.
 */
long mapping_relinquish(char *addr, size_t bytes);
void mapping_take_back(char *addr, size_t bytes);

/* Memory of the region has been handed out: lock it if all that comes is to be locked. */
void mapping_handed_out(const void *addr, size_t bytes);

/* Around a fork, on the thread that forks. */
void mapping_lock_for_fork(void);
void mapping_unlock_after_fork(void);

/* After a fork, in the child: what is to be locked in future is the parent's affair. */
void mapping_inherit(void);

#endif
