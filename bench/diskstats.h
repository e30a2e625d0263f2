/*
 * What the device below a directory has written, as /proc/diskstats says: everybody's writes, the filesystem's own
 * included.
 */
#ifndef BENCH_DISKSTATS_H
#define BENCH_DISKSTATS_H

/* Bytes since the device appeared; NAN when the filesystem is not on one block device. */
double diskstats_written_bytes(const char *dir);

#endif
