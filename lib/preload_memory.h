/*
 * The calls by which a program lays out its memory, in front of libc's. Part of the preload object.
 */
#ifndef LARDER_PRELOAD_MEMORY_H
#define LARDER_PRELOAD_MEMORY_H

/*
 * The library that `function` belongs to is the allocator: what it maps for itself is not to be managed, since its
 * locks and lists are used by threads that can take no SIGBUS. Before there are threads.
 */
void memory_calls_spare(const void *function);

/*
 * The same by number, for a program that calls syscall(): is it one of these calls, and then what it returns: a value
 * or a negative errno.
 */
int memory_call_is_known(long number);
long memory_call(long number, const long arguments[6]);

#endif
