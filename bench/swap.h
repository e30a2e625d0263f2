/*
 * Swap areas of the kernel: what mkswap(8) and swapon(8) do, for benchmarks that set one up and take it away again.
 */
#ifndef BENCH_SWAP_H
#define BENCH_SWAP_H

#include <stdint.h>

/* Write the header of an area of `bytes` to a device or file. Returns 0, or -1 and errno. */
int swap_write_header(const char *path, uint64_t bytes);

/* Make a swap file of mode 0600 that nothing else had: its blocks are written, so that using it allocates none.
 * Returns 0, or -1 and errno. */
int swap_make_file(const char *path, uint64_t bytes);

/* How many swap areas are on. */
unsigned swap_areas(void);

/* Pages that the kernel has written to swap areas since it started, all processes together. */
uint64_t swap_pages_out(void);

#endif
