/*
 * Files of a line or a number, as in /sys, /proc and cgroups.
 */
#ifndef BENCH_SYSFILE_H
#define BENCH_SYSFILE_H

#include <stddef.h>
#include <stdint.h>

/* Returns 0 or a negative errno. */
int sysfile_write(const char *path, const char *text);
int sysfile_write_number(const char *path, uint64_t number);

/* The first line, without its end. Returns 0 or a negative errno. */
int sysfile_read(const char *path, char *text, size_t room);

/* 0 when there is none. */
uint64_t sysfile_number(const char *path);

/* The number of kB after "name" in a file such as /proc/meminfo or /proc/PID/status, in bytes; 0 when there is none. */
uint64_t sysfile_kib_field(const char *path, const char *name);

#endif
