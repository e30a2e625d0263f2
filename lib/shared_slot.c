/*
 * Slots of a shared volatile range: who is alive, and clearing up after who is not. See shared.h.
 */
#include "shared.h"

#include "text.h"

#include <sys/stat.h>

enum { CLAIM_ROUNDS = 10, CLAIM_PAUSE_NS = 1000000 };

static struct flock lock_of(unsigned slot)
{
	return (struct flock){ .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = slot, .l_len = 1 };
}

/* When in doubt, yes: a descriptor that the program has closed can tell nothing. */
static int slot_is_live(const struct larder_shared *s, unsigned slot)
{
	struct flock lock = lock_of(slot);

	return sys_call3(SYS_fcntl, s->fd, F_OFD_GETLK, (long)&lock) < 0 || lock.l_type != F_UNLCK;
}

/* "thread-self": the caller's own descriptor table, though the main thread may have another or have exited. */
int shared_reopen(int fd)
{
	struct larder_text path = { 0 };

	text_string(&path, "/proc/thread-self/fd/");
	text_number(&path, (uint64_t)fd);
	return (int)sys_open(path.bytes, O_RDWR | O_CLOEXEC);
}

/* The program may have closed our descriptor, and the number may be another file's now. */
static int is_our_file(const struct larder_shared *s, int fd)
{
	struct stat st;

	return sys_call3(SYS_fstat, fd, (long)&st, 0) == 0 && st.st_dev == s->device && st.st_ino == s->inode;
}

/* Lock the slot through `fd` and put the description into the keeping of an anchor. */
static int lock_and_anchor(const struct larder_shared *s, int fd, unsigned slot, void **anchor)
{
	struct flock lock = lock_of(slot);
	long err;

	if (!is_our_file(s, fd))
		return -EBADF;
	*anchor = sys_mmap(NULL, SHARED_UNIT_MIN_BYTES, PROT_NONE, MAP_SHARED, fd);
	if (sys_is_error(*anchor))
		return (int)(intptr_t)*anchor;
	err = sys_madvise(*anchor, SHARED_UNIT_MIN_BYTES, MADV_DONTFORK);
	if (!err)
		err = sys_call3(SYS_fcntl, fd, F_OFD_SETLK, (long)&lock);
	if (err)
		sys_munmap(*anchor, SHARED_UNIT_MIN_BYTES);
	return (int)err;
}

/* returns 0 and *anchor, which holds the slot's lock until unmapped; -EAGAIN: the slot is live, or being recovered. */
static int slot_lock(const struct larder_shared *s, unsigned slot, void **anchor)
{
	struct shared_process *p = atomic_load(&shared_process);
	int fd, err;

	mutex_lock(&p->opening);
	fd = shared_reopen(s->fd);
	err = fd < 0 ? fd : lock_and_anchor(s, fd, slot, anchor);
	if (fd >= 0)
		sys_close(fd);
	mutex_unlock(&p->opening);
	return err == -EACCES ? -EAGAIN : err;
}

static void slot_unlock(void *anchor)
{
	sys_munmap(anchor, SHARED_UNIT_MIN_BYTES);
}

/* The slot's lock is held: nobody else sets or clears this bit. Others come and go in the mask of a VALID unit. */
static void clear_unit(struct larder_shared *s, uint64_t unit, uint64_t bit)
{
	_Atomic uint64_t *word = &s->header->unit[unit].word;
	uint64_t w = atomic_load(word);

	while (w & bit && shared_state_of(w) == SHARED_VALID)
		if (atomic_compare_exchange_weak(word, &w, w & ~bit))
			w &= ~bit;
	if (!(w & bit))
		return;
	if (shared_state_of(w) == SHARED_FILLING) {
		shared_count(&s->header->abandoned);
		atomic_store(word, shared_word(SHARED_PURGING, bit));
		shared_step(SHARED_STEP_RECOVER_PURGING);
	}
	shared_drop(s, unit);
}

/* The slot's lock is held. May be interrupted by death anywhere and begun again by another. */
static void slot_clear(struct larder_shared *s, unsigned slot)
{
	struct shared_header *h = s->header;
	uint64_t bit = (uint64_t)1 << slot;

	if (!(atomic_load(&h->slots_used) & bit))
		return;
	shared_step(SHARED_STEP_RECOVER_BEGUN);
	for (uint64_t unit = 0; unit < s->units; unit++)
		if (atomic_load_explicit(&h->unit[unit].word, memory_order_relaxed) & bit) {
			clear_unit(s, unit, bit);
			shared_step(SHARED_STEP_RECOVER_UNIT);
		}
	shared_step(SHARED_STEP_RECOVERED);
	shared_count(&h->recovered);
	atomic_fetch_and(&h->slots_used, ~bit);
}

void slot_recover(struct larder_shared *s, unsigned slot)
{
	void *anchor;

	if (slot == s->slot || slot_is_live(s, slot) || slot_lock(s, slot, &anchor) < 0)
		return;
	slot_clear(s, slot);
	slot_unlock(anchor);
}

static void recover_all(struct larder_shared *s)
{
	uint64_t used = atomic_load(&s->header->slots_used) & SHARED_MASK;

	for (; used; used &= used - 1)
		slot_recover(s, (unsigned)__builtin_ctzll(used));
}

void slots_sweep(struct larder_shared *s, uint64_t now_ns)
{
	_Atomic uint64_t *last = &s->header->last_sweep_ns;
	uint64_t seen = atomic_load_explicit(last, memory_order_relaxed);

	if (now_ns - seen >= SHARED_SWEEP_NS && atomic_compare_exchange_strong(last, &seen, now_ns))
		recover_all(s);
}

/* returns 0; -EAGAIN: none is free just now; other negative errnos. */
static int claim_any(struct larder_shared *s)
{
	for (unsigned slot = 0; slot < SHARED_SLOTS; slot++) {
		int err = slot_is_live(s, slot) ? -EAGAIN : slot_lock(s, slot, &s->anchor);

		if (err == -EAGAIN)
			continue;
		if (err)
			return err;
		s->slot = slot;
		s->bit = (uint64_t)1 << slot;
		return 0;
	}
	return -EAGAIN;
}

int slot_claim(struct larder_shared *s)
{
	int err = -EAGAIN;

	s->slot = SHARED_SLOTS;
	/* A slot that is being recovered looks taken for a moment. */
	for (int round = 0; round < CLAIM_ROUNDS && err == -EAGAIN; round++) {
		if (round)
			sys_sleep_ns(CLAIM_PAUSE_NS);
		err = claim_any(s);
	}
	if (err)
		return err;
	shared_step(SHARED_STEP_CLAIMED);
	slot_clear(s, s->slot);
	atomic_fetch_or(&s->header->slots_used, s->bit);
	recover_all(s);
	return 0;
}

void slot_leave(struct larder_shared *s)
{
	shared_step(SHARED_STEP_LEAVING);
	atomic_fetch_and(&s->header->slots_used, ~s->bit);
	slot_unlock(s->anchor);
}
