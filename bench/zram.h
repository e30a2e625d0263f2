/*
 * The kernel's own way to compress memory, set up for the time of one benchmark: a zram device with lz4 as the swap
 * area of highest priority.
 *
 * It needs root. Swap is a setting of the whole machine, so a second process keeps watch: it switches swap off and
 * resets the device when the benchmark ends, however that ends. Only `kill -9` on the watcher itself leaves it on
 * (`swapoff` and `echo 1 > /sys/block/zramN/reset` undo it).
 */
#ifndef BENCH_ZRAM_H
#define BENCH_ZRAM_H

#include <stdint.h>

/*
 * Switch zram swap on and go on in a child process; the caller's process becomes the watcher and never returns. Call it
 * first, before there are threads and before larder_start(). Exits with 2 when the device cannot be set up.
 */
void zram_begin(uint64_t bytes);

/* RAM that the device takes for what it holds; 0 when unknown. */
uint64_t zram_used_bytes(void);

#endif
