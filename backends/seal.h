/*
 * Seal: encryption of objects on disk, with a key that is made when the process starts, lies in memory that is in no
 * core dump, and is written nowhere (Provos, "Encrypting Virtual Memory", 2000). AES-256-GCM where the processor has
 * it, else ChaCha20-Poly1305; both from libsodium, which does here without memory of its own.
 *
 * The nonce is where the object lies and for the how manieth time its segment is filled, a number that is never used
 * again; so it takes no space, and an object that was written elsewhere or earlier does not open.
 */
#ifndef LARDER_SEAL_H
#define LARDER_SEAL_H

#include <stddef.h>
#include <stdint.h>

enum { SEAL_TAG_BYTES = 16 };

struct larder_seal;

/* Make a key. Returns NULL when there is no memory or no randomness. */
struct larder_seal *seal_open(void);
void seal_close(struct larder_seal *seal);

/* In a forked child, which has the key as well: keep it out of kernel swap there, too. */
void seal_inherit(struct larder_seal *seal);

/* Seal `bytes` of plain into sealed (bytes + SEAL_TAG_BYTES). Any thread. */
void seal(const struct larder_seal *seal, uint64_t opening, uint32_t offset, const void *plain, size_t bytes,
	  void *sealed);

/* Open sealed (bytes + SEAL_TAG_BYTES) into plain. Returns 0 or -EBADMSG. Any thread. */
int unseal(const struct larder_seal *seal, uint64_t opening, uint32_t offset, const void *sealed, size_t bytes,
	   void *plain);

#endif
