/*
 * Restore. See restore.h.
 *
 * Order of events for a page, so that its content is never in no place: content into the mapping (UFFDIO_COPY, which
 * wakes the faulting thread), then the state, then the old holder lets go. A crash of any step leaves the older holder
 * in charge.
 */
#include "restore.h"

#include "stats.h"
#include "sys.h"
#include "uffd.h"

enum { RETRY_NS = 1000000 };

int restorer_open_program(struct larder_restorer *w, struct larder_memory *m, int uffd)
{
	w->uffd = uffd;
	w->disk_fd = -1;
	w->drops.n = 0; /* in a forked child it has the parent's */
	w->scratch = store_scratch(&m->store);
	w->bounce = sys_map((size_t)RESTORE_MAX_PAGES * PAGE_BYTES);
	if (w->scratch && w->bounce)
		return 0;
	restorer_close(w, m);
	return -ENOMEM;
}

void restorer_close(struct larder_restorer *w, struct larder_memory *m)
{
	restorer_flush(w, m);
	store_scratch_free(&m->store, w->scratch);
	if (w->bounce)
		sys_munmap(w->bounce, (size_t)RESTORE_MAX_PAGES * PAGE_BYTES);
	*w = (struct larder_restorer){ 0 };
}

int restorer_open(struct larder_restorer *w, struct larder_memory *m)
{
	int err = restorer_open_program(w, m, m->uffd);

	w->internal = 1;
	if (err)
		return err;
	store_scratch_dontfork(&m->store, w->scratch); /* the thread does not live on in a forked child */
	sys_madvise(w->bounce, (size_t)RESTORE_MAX_PAGES * PAGE_BYTES, MADV_DONTFORK);
	return 0;
}

void restore_wake(struct larder_memory *m, size_t index)
{
	uffd_wake(m->uffd, region_address(&m->region, index), PAGE_BYTES);
}

static void wake(struct larder_memory *m, const struct larder_restorer *w, size_t index)
{
	if (w->internal)
		restore_wake(m, index);
	else
		pressure_ask_to_wake(m);
}

static void release(struct larder_memory *m, const struct larder_restorer *w, size_t index, uint64_t to)
{
	if (page_release(&m->region.pages[index], to))
		wake(m, w, index);
}

size_t restore_acquire(struct larder_memory *m, size_t first, size_t max, unsigned states, size_t wanted,
		       uint64_t *words)
{
	size_t n = 0;

	region_use(&m->region, region_chunk(&m->region, first));
	for (; n < max; n++) {
		struct larder_page *page = &m->region.pages[first + n];

		words[n] = page_load(page);
		if (n > 0 && n >= wanted && page_state(words[n]) == PAGE_FRESH && region_bit(m->region.lost, first + n))
			break;
		if (n > 0 && restore_needs_disk(m, words[n]) != restore_needs_disk(m, words[0]))
			break;
		if (!(states >> page_state(words[n]) & 1) || words[n] & PAGE_TRAP ||
		    !page_acquire(page, &words[n], PAGE_RESTORING))
			break;
	}
	return n;
}

static struct store_place place_of(const struct larder_memory *m, size_t index, uint64_t word)
{
	if (page_state(word) != PAGE_STORED)
		return (struct store_place){ 0 };
	return store_place_of(&m->region.pages[index], word);
}

/* Put the content of an owned page into `to`. Returns 0 or the store's error. */
static int gather(struct larder_memory *m, struct larder_restorer *w, size_t index, uint64_t word, char *to)
{
	switch (page_state(word)) {
	case PAGE_STORED:
		return store_get(&m->store, w->scratch, place_of(m, index, word), to);
	case PAGE_STAGED:
		__builtin_memcpy(to, staging_address(&m->staging, page_slot(word)), PAGE_BYTES);
		return 0;
	default:
		__builtin_memset(to, 0, PAGE_BYTES);
		return 0;
	}
}

/* Any userfaultfd serves to copy into memory that is registered with another. */
static void reopen(struct larder_restorer *w)
{
	int fd = uffd_open_sigbus();

	if (fd >= 0)
		w->uffd = fd;
	else
		sys_sleep_ns(RETRY_NS);
}

/*
 * The pages of a fault that is timed are in the mapping. A handler has woken nobody yet: the thread that waits for it
 * may run at once in its place, for however long.
 */
static void end_timing(struct larder_restorer *w, char *address, size_t bytes)
{
	STATS_ADD(fault_latency[stats_latency_bucket(sys_now_ns() - w->since_ns)], RESTORE_TIMED_EVERY);
	w->since_ns = 0;
	if (w->internal)
		uffd_wake(w->uffd, address, bytes);
}

/* Copy into the mapping, whatever it takes. Returns bytes done, or the errno that says that the page cannot or need not
 * be copied. */
static long copy_in(struct larder_memory *m, struct larder_restorer *w, size_t index, const char *from, size_t bytes)
{
	char *address = region_address(&m->region, index);

	for (;;) {
		long done = (w->since_ns && w->internal ? uffd_copy_quietly : uffd_copy)(w->uffd, address, from, bytes);

		if (done == -ENOMEM) /* the system or the cgroup is out of memory: the fault can only wait */
			sys_sleep_ns(RETRY_NS);
		else if (done == -EAGAIN && !w->reads_messages) /* the address space is being changed */
			sys_yield();
		else if (!w->internal && (done == -EBADF || done == -ENOTTY))
			reopen(w); /* the program closed a descriptor that it did not open */
		else {
			if (done > 0 && w->since_ns)
				end_timing(w, address, (size_t)done);
			return done;
		}
	}
}

/* A page has become resident: release it, then let the old holder go. */
static void finish(struct larder_memory *m, struct larder_restorer *w, size_t index, uint64_t word, uint64_t to)
{
	struct larder_page *page = &m->region.pages[index];
	struct store_place place = place_of(m, index, word);
	enum larder_page_kind now = page_state(to) == PAGE_POISONED ? LARDER_PAGES_POISONED : LARDER_PAGES_RESIDENT;
	uint64_t copy = page_copy_handle(page);
	int was_on_disk = restore_needs_disk(m, word), had_copy = (word & PAGE_COPY) != 0;
	int keep = now == LARDER_PAGES_RESIDENT && (was_on_disk || had_copy) && w->written != index + 1;

	if (page_state(to) != PAGE_FRESH)
		region_count(&m->region, index, now, 1);
	if (keep) {
		page->handle = copy;
		to |= PAGE_COPY;
	}
	release(m, w, index, to);
	if (had_copy && !keep)
		store_drop_copy(&m->store, copy);
	if (keep != had_copy)
		STATS_ADD(copies, keep - had_copy);
	switch (page_state(word)) {
	case PAGE_STORED:
		region_count(&m->region, index, place.tier ? LARDER_PAGES_STORED : LARDER_PAGES_SAME, -1);
		if (!was_on_disk || !keep)
			store_drop_later(&m->store, &w->drops, place);
		STATS_ADD(refaults, 1);
		break;
	case PAGE_STAGED:
		region_count(&m->region, index, LARDER_PAGES_STAGED, -1);
		break;
	case PAGE_RESIDENT:
		region_count(&m->region, index, LARDER_PAGES_RESIDENT, -1);
		break;
	case PAGE_POISONED:
		if (!(word & PAGE_TRAP))
			region_count(&m->region, index, LARDER_PAGES_POISONED, -1);
		break;
	default:
		break;
	}
}

static void log_lost(const struct larder_memory *m, size_t index, int err)
{
	struct larder_text t = { 0 };

	text_string(&t, "page ");
	text_hex(&t, (uintptr_t)region_address(&m->region, index));
	text_string(&t, " cannot be restored (errno ");
	text_signed(&t, -err);
	text_string(&t, "): a touch raises SIGBUS");
	log_line(&t);
}

void restore_report(struct larder_memory *m)
{
	uint64_t report = atomic_exchange(&m->lost_report, 0);

	if (report)
		log_lost(m, report >> 16, -(int)(report & 0xffff));
}

/* A program thread has no log: it leaves word to the reclaim thread, and the newest word counts. */
static void report_lost(struct larder_memory *m, const struct larder_restorer *w, size_t index, int err)
{
	if (w->internal) {
		log_lost(m, index, err);
		return;
	}
	atomic_store(&m->lost_report, (uint64_t)index << 16 | (uint64_t)-err);
	pressure_wake_reclaim(m);
}

/*
 * A handler has to read a message that is not a fault before this page can be copied (EAGAIN), and gets to it only when
 * no fault is left to read. So it wakes nobody: the thread would be back at once. The reclaim thread does, later.
 */
static void put_off(struct larder_memory *m, size_t index, uint64_t word)
{
	page_release(&m->region.pages[index], word);
	pressure_ask_to_wake(m);
}

/* Returns 0, or -EAGAIN when the page has to be given up for now. */
static long poison_mapping(struct larder_memory *m, const struct larder_restorer *w, size_t index)
{
	long err;

	while ((err = uffd_poison(w->uffd, region_address(&m->region, index), PAGE_BYTES)) == -EAGAIN &&
	       !w->reads_messages)
		sys_yield(); /* the address space is being changed */
	return err == -EAGAIN ? err : 0;
}

/* The content of an owned page is lost: never return anything else in its place. */
static void poison(struct larder_memory *m, struct larder_restorer *w, size_t index, uint64_t word, int err)
{
	if (poison_mapping(m, w, index)) {
		put_off(m, index, word);
		return;
	}
	report_lost(m, w, index, err);
	finish(m, w, index, word, PAGE_POISONED);
	wake(m, w, index);
}

void restore_trap(struct larder_memory *m, size_t index)
{
	const struct larder_restorer w = { .uffd = m->uffd, .internal = 1, .reads_messages = 1 };
	struct larder_page *page = &m->region.pages[index];
	uint64_t word = PAGE_FRESH | PAGE_TRAP;

	region_use(&m->region, region_chunk(&m->region, index));
	if (page_acquire(page, &word, PAGE_RESTORING)) {
		if (poison_mapping(m, &w, index)) {
			put_off(m, index, word);
			return;
		}
		page_release(page, PAGE_POISONED | PAGE_TRAP);
	}
	restore_wake(m, index);
}

/* UFFDIO_COPY refused an owned page, alone. */
static void refused(struct larder_memory *m, struct larder_restorer *w, size_t index, uint64_t word, long err)
{
	switch (err) {
	case -EEXIST: /* the mapping has a page already: what the program sees is the newest there can be */
		larder_assert(page_state(word) == PAGE_FRESH || page_state(word) == PAGE_RESIDENT);
		finish(m, w, index, word, page_word_resident(0));
		break;
	case -ENOENT: /* not registered: the program unmapped or replaced the range. Whoever touches it does not need
			 us; keep what we have. */
	case -EINVAL:
		release(m, w, index, word);
		break;
	case -EAGAIN:
		put_off(m, index, word);
		return;
	case -ESRCH: /* the process is exiting */
		for (;;)
			sys_sleep_ns(RETRY_NS);
	default:
		log_panic("UFFDIO_COPY failed with errno", -err);
	}
	wake(m, w, index);
}

/* Copy gathered pages in. Returns how many; *err says why there are not more. */
static size_t copy_run(struct larder_memory *m, struct larder_restorer *w, size_t first, const char *from, size_t n,
		       const uint64_t *words, size_t wanted, unsigned credit, long *err)
{
	size_t done = 0, batch = n;

	*err = 0;
	while (done < n) {
		long copied = copy_in(m, w, first + done, from + done * PAGE_BYTES, batch * PAGE_BYTES);

		if (copied < 0 && batch > 1) {
			batch = 1; /* a batch may not span mappings (mprotect splits them), so ENOENT says nothing of
				      its pages */
			continue;
		}
		if (copied < 0) {
			*err = copied;
			break;
		}
		for (long i = 0; i < copied / PAGE_BYTES; i++, done++)
			finish(m, w, first + done, words[done],
			       page_word_resident(first + done == wanted ? credit : 0));
		batch = batch > 1 ? n - done : 1;
	}
	return done;
}

void restore_give_up(struct larder_memory *m, struct larder_restorer *w, size_t first, const uint64_t *words, size_t n)
{
	for (size_t i = 0; i < n; i++)
		release(m, w, first + i, words[i]);
}

/* Content for the first `gathered` of n owned pages is there; err, if not 0, says why there is none for the next. */
static size_t settle(struct larder_memory *m, struct larder_restorer *w, size_t first, const uint64_t *words, size_t n,
		     const char *from, size_t gathered, int err, size_t wanted, unsigned credit)
{
	long copy_err;
	size_t done = copy_run(m, w, first, from, gathered, words, wanted, credit, &copy_err);

	if (copy_err)
		refused(m, w, first + done, words[done], copy_err);
	else if (err)
		poison(m, w, first + done, words[done], err);
	else
		return done;
	restore_give_up(m, w, first + done + 1, words + done + 1, n - done - 1);
	return done;
}

size_t restore_pages(struct larder_memory *m, struct larder_restorer *w, size_t first, const uint64_t *words, size_t n,
		     unsigned credit)
{
	const char *from = w->bounce;
	size_t gathered = 0;
	int err = 0;

	if (n == 1 && page_state(words[0]) == PAGE_STAGED) {
		from = staging_address(&m->staging, page_slot(words[0]));
		gathered = 1;
	}
	for (; gathered < n && !err; gathered += !err) {
		if (gathered + 1 < n)
			restore_expect(m, first + gathered + 1, words[gathered + 1]);
		err = gather(m, w, first + gathered, words[gathered], w->bounce + gathered * PAGE_BYTES);
	}
	return settle(m, w, first, words, n, from, gathered, err, first, credit);
}

void restore_contents(struct larder_memory *m, struct larder_restorer *w, size_t first, const uint64_t *words, size_t n,
		      const char *content, const int *errors, size_t wanted, unsigned credit)
{
	size_t end;

	for (size_t i = 0; i < n; i = end + 1) { /* a page without content ends a run, and is dealt with by it */
		for (end = i; end < n && !errors[end]; end++)
			;
		settle(m, w, first + i, words + i, end < n ? end - i + 1 : end - i, content + i * PAGE_BYTES, end - i,
		       end < n ? errors[end] : 0, wanted, credit);
	}
}

/* Own up to `max` trapped pages in a row. */
static size_t acquire_trapped(struct larder_memory *m, size_t first, size_t max, uint64_t *words)
{
	size_t n = 0;

	for (; n < max; n++) {
		struct larder_page *page = &m->region.pages[first + n];

		words[n] = page_load(page);
		if (page_is_busy(words[n]) || !(words[n] & PAGE_TRAP) || !page_acquire(page, &words[n], PAGE_RESTORING))
			break;
	}
	return n;
}

size_t restore_install(struct larder_memory *m, struct larder_restorer *w, size_t first, size_t n, const char *content)
{
	uint64_t words[RESTORE_MAX_PAGES];
	size_t installed = 0;

	for (size_t i = 0; i < n;) {
		size_t max = n - i < RESTORE_MAX_PAGES ? n - i : RESTORE_MAX_PAGES;
		size_t got = acquire_trapped(m, first + i, max, words), done;
		long err;

		if (got == 0) {
			i++;
			continue;
		}
		done = copy_run(m, w, first + i, content + i * PAGE_BYTES, got, words, 0, 0, &err);
		for (size_t left = done; left < got; left++)
			release(m, w, first + i + left, words[left]);
		installed += done;
		i += got;
	}
	return installed;
}
