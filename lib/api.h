/*
 * The public functions of pools, but for larder_start(): the preload object and liblarder.so share them.
 */
#ifndef LARDER_API_H
#define LARDER_API_H

#define LARDER_PUBLIC __attribute__((visibility("default")))

/* Around fork: no pool is being made or destroyed. */
void pool_lock(void);
void pool_unlock(void);

#endif
