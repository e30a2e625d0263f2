/*
 * What the kernel has to keep cold memory elsewhere: zram, zswap, a swap file. One of them can be made ready for the
 * time of one benchmark; it is on only while the contender that uses it runs, and fresh each time.
 *
 * It needs root. Swap is a setting of the whole machine, so a second process keeps watch and puts everything back as it
 * was when the benchmark ends, however that ends (watcher.h).
 */
#ifndef BENCH_PEER_H
#define BENCH_PEER_H

#include <stdint.h>

struct peer {
	const char *name, *what;
	int needs_dir; /* it keeps pages in a file in a directory */
	/* See that it can be had, and choose what to use. Changes nothing. Exits with 2 and a message. */
	void (*prepare)(const char *dir, uint64_t bytes);
	/* Exit with 2 and a message when it fails. */
	void (*on)(void);
	/* Undo on(); harmless when it is off. Called by the watcher, too, which knows what prepare() left. */
	void (*off)(void);
	/* Undo prepare(). */
	void (*close)(void);
	/* RAM that it takes and that no cgroup is charged for; NULL = none. */
	uint64_t (*pool_bytes)(void);
	/* What it holds now: the pages' size, and what they take. NULL = the same. */
	void (*held)(uint64_t *content_bytes, uint64_t *occupied_bytes);
};

extern const struct peer peer_zram, peer_zswap, peer_swapfile;

/* The peer of that name, NULL for "none"; exits with 2 and a message when there is no such peer. */
const struct peer *peer_parse(const char *name);

/* Make `peer` (not NULL) ready for `bytes` of pages. Exits with 2 and a message when it is not to be had here. */
void peer_prepare(const struct peer *peer, const char *dir, uint64_t bytes);

/* Undo all of it, for watcher_begin(); nothing when no peer was prepared. */
void peer_put_back(void);

#endif
