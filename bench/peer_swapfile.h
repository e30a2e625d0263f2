/*
 * The parts of the swap file that zswap, which stands in front of one, uses too. See struct peer.
 */
#ifndef BENCH_PEER_SWAPFILE_H
#define BENCH_PEER_SWAPFILE_H

#include <stdint.h>

void swapfile_prepare(const char *dir, uint64_t bytes);
void swapfile_on(void);
void swapfile_off(void);
void swapfile_close(void);

#endif
