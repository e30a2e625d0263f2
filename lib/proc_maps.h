/*
 * The kernel's list of a process's mappings, /proc/self/maps, without stdio: it is read where malloc may not be called.
 */
#ifndef LARDER_PROC_MAPS_H
#define LARDER_PROC_MAPS_H

#include <stdint.h>

struct proc_map {
	uintptr_t start, end;
	int prot;     /* PROT_READ, PROT_WRITE, PROT_EXEC */
	int has_name; /* a file, [heap], [stack] and the like */
};

/* Call `function` for each mapping, in the order of addresses, until it returns other than 0. Returns that, or a
 * negative errno when the list cannot be read. */
int proc_maps_each(int (*function)(void *arg, const struct proc_map *map), void *arg);

#endif
