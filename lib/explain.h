/*
 * What to do about an error of starting, for a message.
 */
#ifndef LARDER_EXPLAIN_H
#define LARDER_EXPLAIN_H

/* Errors of the service, without swap. */
const char *explain_start(int err);

/* Errors of swap in a directory, or on a device. -EPERM and -ENOSYS are io_uring's. */
const char *explain_swap(int err, int is_device);

#endif
