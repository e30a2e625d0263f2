/*
 * A disk that fails at random, in every way that disks do: for tests whose contents must survive it. What fails is
 * tried again by its owner and then passes, unless it lies at a bad place: there every read fails. Nothing here
 * allocates; it runs on internal threads.
 */
#ifndef LARDER_TEST_FLAKY_DISK_H
#define LARDER_TEST_FLAKY_DISK_H

#include "disk.h"
#include "mix.h"

#include <errno.h>
#include <stdatomic.h>

enum flaky_kind {
	FLAKY_READ_ERROR,
	FLAKY_READ_SHORT,
	FLAKY_READ_DAMAGE,
	FLAKY_READ_DELAY,
	FLAKY_WRITE_ERROR,
	FLAKY_WRITE_FULL,
	FLAKY_WRITE_TOO_LARGE,
	FLAKY_WRITE_SHORT,
	FLAKY_WRITE_DELAY,
	FLAKY_BAD_PLACE,
	FLAKY_KINDS
};

static const char *const flaky_names[FLAKY_KINDS] = {
	"read EIO", "short read", "damaged read", "late read",	"write EIO",
	"ENOSPC",   "EFBIG",	  "short write",  "late write", "bad place",
};

enum { FLAKY_BLOCK = 512, FLAKY_MEMORY = 1 << 16 };

struct flaky_disk {
	_Atomic int on;
	_Atomic unsigned one_in;     /* transfers, one fails at random; 0 = none */
	_Atomic unsigned bad_one_in; /* blocks, one is bad; 0 = none */
	_Atomic uint64_t random;
	_Atomic uint64_t count[FLAKY_KINDS];
	_Atomic uint8_t failed[FLAKY_MEMORY]; /* by place: the last read there failed, or was damaged */
	_Atomic uint8_t damage[FLAKY_MEMORY];
};

static inline unsigned flaky_slot(const struct disk_transfer *t)
{
	return (unsigned)(mix(t->offset) % FLAKY_MEMORY);
}

static inline int flaky_is_bad(const struct flaky_disk *d, const struct disk_transfer *t)
{
	uint64_t first = t->offset / FLAKY_BLOCK, end = (t->offset + t->bytes) / FLAKY_BLOCK;

	if (d->bad_one_in == 0)
		return 0;
	for (uint64_t block = first; block < end; block++)
		if (mix(block) % d->bad_one_in == 0)
			return 1;
	return 0;
}

static inline int32_t flaky_read(struct flaky_disk *d, const struct disk_transfer *t, uint64_t r, uint64_t *delay_ns)
{
	unsigned slot = flaky_slot(t);
	enum flaky_kind kind = FLAKY_READ_ERROR + (enum flaky_kind)(r % 4);

	if (atomic_exchange(&d->failed[slot], 1)) { /* never twice */
		d->failed[slot] = 0;
		return 0;
	}
	d->count[kind]++;
	switch (kind) {
	case FLAKY_READ_SHORT:
		return FLAKY_BLOCK;
	case FLAKY_READ_DAMAGE:
		d->damage[slot] = 1;
		return 0;
	case FLAKY_READ_DELAY:
		*delay_ns = (r >> 8) % 20000000;
		return 0;
	default:
		return -EIO;
	}
}

static inline int32_t flaky_write(struct flaky_disk *d, uint64_t r, uint64_t *delay_ns)
{
	enum flaky_kind kind = FLAKY_WRITE_ERROR + (enum flaky_kind)(r % 5);

	d->count[kind]++;
	switch (kind) {
	case FLAKY_WRITE_SHORT:
		return FLAKY_BLOCK;
	case FLAKY_WRITE_DELAY:
		*delay_ns = (r >> 8) % 100000000;
		return 0;
	case FLAKY_WRITE_FULL:
		return -ENOSPC;
	case FLAKY_WRITE_TOO_LARGE:
		return -EFBIG;
	default:
		return -EIO;
	}
}

static inline int32_t flaky_submit(void *arg, const struct disk_transfer *t, uint64_t *delay_ns)
{
	struct flaky_disk *d = arg;
	uint64_t r = mix(d->random++);

	if (!d->on)
		return 0;
	if (t->kind == DISK_READ && flaky_is_bad(d, t)) {
		d->count[FLAKY_BAD_PLACE]++;
		return -EIO;
	}
	if (d->one_in == 0 || r % d->one_in)
		return 0;
	return t->kind == DISK_READ ? flaky_read(d, t, r >> 32, delay_ns) : flaky_write(d, r >> 32, delay_ns);
}

static inline void flaky_complete(void *arg, struct disk_transfer *t)
{
	struct flaky_disk *d = arg;

	if (t->kind != DISK_READ || !atomic_exchange(&d->damage[flaky_slot(t)], 0))
		return;
	for (uint32_t i = 0; i < t->bytes; i += 64)
		((char *)t->buffer)[i] ^= 4;
}

static inline struct disk_seam flaky_seam(struct flaky_disk *d)
{
	return (struct disk_seam){ .submit = flaky_submit, .complete = flaky_complete, .arg = d, .refuse_ns = 1000000 };
}

#endif
