/*
 * The log. See disk_log.h.
 */
#include "disk_log.h"

#include "log.h"
#include "sys.h"

/* Others may hold all that is free here: then it is not asked for again so soon. */
#define CLAIM_INTERVAL_NS 20000000u

static size_t pages_up(size_t bytes)
{
	return (bytes + 4095) & ~(size_t)4095;
}

static size_t summaries_bytes(const struct disk_log *log)
{
	return (size_t)log->nsegments * DISK_LOG_SEGMENT_OBJECTS * sizeof(*log->summaries);
}

static size_t emptied_words(const struct disk_log *log)
{
	return ((size_t)log->nsegments + 63) / 64;
}

int disk_log_open(struct disk_log *log, uint64_t bytes, uint64_t max_objects)
{
	log->nsegments = log->nfree = (uint32_t)(bytes / DISK_LOG_SEGMENT_BYTES);
	log->max_handles = max_objects < UINT32_MAX ? (uint32_t)max_objects : UINT32_MAX;
	for (int i = 0; i < DISK_LOG_STREAMS; i++)
		log->open[i] = DISK_LOG_NO_SEGMENT;
	log->segments = sys_map(pages_up(log->nsegments * sizeof(*log->segments)));
	log->summaries = sys_map(summaries_bytes(log));
	log->entries = sys_map(pages_up((size_t)log->max_handles * sizeof(*log->entries)));
	log->emptied = sys_map(pages_up(emptied_words(log) * sizeof(*log->emptied)));
	if (log->segments && log->summaries && log->entries && log->emptied)
		return 0;
	disk_log_close(log);
	return -ENOMEM;
}

void disk_log_close(struct disk_log *log)
{
	if (log->segments)
		sys_munmap(log->segments, pages_up(log->nsegments * sizeof(*log->segments)));
	if (log->summaries)
		sys_munmap(log->summaries, summaries_bytes(log));
	if (log->entries)
		sys_munmap(log->entries, pages_up((size_t)log->max_handles * sizeof(*log->entries)));
	if (log->emptied)
		sys_munmap(log->emptied, pages_up(emptied_words(log) * sizeof(*log->emptied)));
	*log = (struct disk_log){ 0 };
}

/* ---- segments ---- */

/* Any thread: what kept the segment from being free may have been the last. The bit first, so that who sees that there
 * is one finds it. */
static void note_emptied(struct disk_log *log, uint32_t segment)
{
	atomic_fetch_or(&log->emptied[segment / 64], (uint64_t)1 << segment % 64);
	atomic_store(&log->any_emptied, 1);
}

/* Make next_free one that nobody else holds. */
static int find_free(struct disk_log *log, uint32_t spare)
{
	if (log->nfree <= spare || (log->claim_after_ns && sys_now_ns() < log->claim_after_ns))
		return -ENOSPC;
	log->claim_after_ns = 0;
	for (uint32_t i = 0; i < log->nsegments; i++, log->next_free = (log->next_free + 1) % log->nsegments)
		if (log->segments[log->next_free].state == DISK_LOG_FREE && lease_claim(&log->lease, log->next_free))
			return 0;
	log->claim_after_ns = sys_now_ns() + CLAIM_INTERVAL_NS;
	return -ENOSPC;
}

static int open_segment(struct disk_log *log, enum disk_log_stream stream, uint32_t spare)
{
	struct disk_log_segment *s;
	int err = find_free(log, spare);

	if (err)
		return err;
	log->open[stream] = (int32_t)log->next_free;
	s = &log->segments[log->next_free];
	s->state = DISK_LOG_OPEN; /* readers and live bytes are nobody's to set: a reader may just be finding out that
				it is late */
	s->used_bytes = s->objects = 0;
	s->leave_until_ns = 0;
	s->opening =
		lease_is_shared(&log->lease) ? atomic_fetch_add(&log->lease.page->openings, 1) + 1 : ++log->openings;
	s->written_ns = sys_now_ns();
	if (!s->has_blocks)
		atomic_fetch_add_explicit(&log->occupied, 1, memory_order_relaxed);
	s->has_blocks = 1;
	log->nfree--;
	return 0;
}

static void close_segment(struct disk_log *log, enum disk_log_stream stream)
{
	log->segments[log->open[stream]].state = DISK_LOG_FULL;
	note_emptied(log, (uint32_t)log->open[stream]);
	log->open[stream] = DISK_LOG_NO_SEGMENT;
}

int disk_log_reserve(struct disk_log *log, enum disk_log_stream stream, uint32_t bytes, uint32_t least, uint32_t spare,
		     uint64_t *offset, uint32_t *got)
{
	struct disk_log_segment *s;
	uint32_t left;

	if (log->open[stream] != DISK_LOG_NO_SEGMENT) {
		s = &log->segments[log->open[stream]];
		if (DISK_LOG_SEGMENT_BYTES - s->used_bytes < least || s->objects >= DISK_LOG_SEGMENT_OBJECTS / 2)
			close_segment(log, stream);
	}
	if (log->open[stream] == DISK_LOG_NO_SEGMENT) {
		int err = open_segment(log, stream, spare);

		if (err)
			return err;
	}
	s = &log->segments[log->open[stream]];
	left = DISK_LOG_SEGMENT_BYTES - s->used_bytes;
	*offset = (uint64_t)log->open[stream] * DISK_LOG_SEGMENT_BYTES + s->used_bytes;
	*got = left < bytes ? left : bytes;
	s->used_bytes += *got;
	return 0;
}

void disk_log_trim(struct disk_log *log, uint64_t offset, uint32_t reserved, uint32_t used)
{
	struct disk_log_segment *s = disk_log_segment_at(log, offset);

	if (s->state == DISK_LOG_OPEN && s->used_bytes == offset % DISK_LOG_SEGMENT_BYTES + reserved)
		s->used_bytes -= reserved - used;
}

void disk_log_write_begins(struct disk_log *log, uint64_t offset)
{
	disk_log_segment_at(log, offset)->writing++;
}

void disk_log_write_ends(struct disk_log *log, uint64_t offset)
{
	struct disk_log_segment *s = disk_log_segment_at(log, offset);

	s->writing--;
	s->written_ns = sys_now_ns();
	note_emptied(log, (uint32_t)(offset / DISK_LOG_SEGMENT_BYTES));
}

static int is_empty(struct disk_log_segment *s)
{
	return s->state == DISK_LOG_FULL && s->writing == 0 && atomic_load(&s->live_bytes) == 0 &&
	       atomic_load(&s->readers) == 0;
}

static void free_if_empty(struct disk_log *log, uint32_t segment)
{
	if (!is_empty(&log->segments[segment]))
		return; /* whatever keeps it notes it again when it goes */
	log->segments[segment].state = DISK_LOG_FREE;
	log->nfree++;
	lease_drop(&log->lease, segment, 1);
}

void disk_log_free_empty(struct disk_log *log)
{
	if (!atomic_load_explicit(&log->any_emptied, memory_order_relaxed) || !atomic_exchange(&log->any_emptied, 0))
		return;
	for (uint32_t word = 0; word < emptied_words(log); word++) {
		uint64_t bits = atomic_load_explicit(&log->emptied[word], memory_order_relaxed);

		if (bits)
			bits = atomic_exchange(&log->emptied[word], 0);
		for (; bits; bits &= bits - 1)
			free_if_empty(log, 64 * word + (uint32_t)__builtin_ctzll(bits));
	}
}

/* The next free segment with blocks. */
static uint32_t next_with_blocks(struct disk_log *log)
{
	for (uint32_t n = 0; n < log->nsegments; n++) {
		uint32_t i = log->next_giving;

		log->next_giving = (i + 1) % log->nsegments;
		if (log->segments[i].state == DISK_LOG_FREE && log->segments[i].has_blocks)
			return i;
	}
	larder_assert(0); /* their number says that there are some */
	return log->nsegments;
}

int32_t disk_log_take_blocks(struct disk_log *log, uint32_t spare)
{
	uint32_t taken = log->nsegments - log->nfree, i;

	/* Those that are taken have blocks, all but those that are being given back. */
	if (atomic_load_explicit(&log->occupied, memory_order_relaxed) <= taken + spare)
		return DISK_LOG_NO_SEGMENT;
	i = next_with_blocks(log);
	if (i == log->nsegments)
		return DISK_LOG_NO_SEGMENT;
	log->segments[i].has_blocks = 0;
	atomic_fetch_sub_explicit(&log->occupied, 1, memory_order_relaxed);
	if (!lease_claim(&log->lease, i)) /* they are another process's to give back */
		return DISK_LOG_NO_SEGMENT;
	log->segments[i].state = DISK_LOG_GIVING;
	log->nfree--;
	return (int32_t)i;
}

void disk_log_blocks_given(struct disk_log *log, int32_t segment, int given)
{
	struct disk_log_segment *s = &log->segments[segment];

	s->state = DISK_LOG_FREE;
	log->nfree++;
	lease_drop(&log->lease, (uint32_t)segment, 1);
	if (given)
		return;
	s->has_blocks = 1;
	atomic_fetch_add_explicit(&log->occupied, 1, memory_order_relaxed);
}

/* ---- sharing ---- */

static void drop_free(struct disk_log *log)
{
	for (uint32_t i = 0, n; i < log->nsegments; i += n + 1) {
		for (n = 0; i + n < log->nsegments && log->segments[i + n].state == DISK_LOG_FREE; n++)
			;
		lease_drop(&log->lease, i, n);
	}
}

int disk_log_lend(struct disk_log *log)
{
	int fd = lease_lend(&log->lease, log->nsegments, log->openings);

	drop_free(log);
	return fd;
}

/* What the parent gives back stays the parent's until it is done: it has the lease. */
static void inherit_segment(struct disk_log *log, uint32_t i)
{
	struct disk_log_segment *s = &log->segments[i];

	if (s->state == DISK_LOG_GIVING) {
		s->state = DISK_LOG_FREE;
		log->nfree++;
	} else if (s->state != DISK_LOG_FREE) {
		s->readers = s->writing = 0;
		note_emptied(log, i);
	}
}

void disk_log_inherit(struct disk_log *log, int (*named)(void *arg, uint64_t handle), void *arg)
{
	uint64_t objects = 0, live_bytes = 0;
	uint32_t used = atomic_load(&log->handles_used);

	log->handles_lock = (struct larder_mutex){ 0 };
	for (int stream = 0; stream < DISK_LOG_STREAMS; stream++) /* they are the parent's to fill */
		if (log->open[stream] != DISK_LOG_NO_SEGMENT)
			close_segment(log, (enum disk_log_stream)stream);
	for (uint32_t i = 0; i < log->nsegments; i++)
		inherit_segment(log, i);
	for (uint64_t handle = 0; handle < used; handle++) {
		disk_log_place place = disk_log_place_now(log, handle);

		if (place && !named(arg, handle)) {
			disk_log_drop(log, handle);
		} else if (place) {
			objects++;
			live_bytes += disk_log_bytes(place);
		}
	}
	atomic_store(&log->objects, objects);
	atomic_store(&log->live_bytes, live_bytes);
}

void disk_log_take_leases(struct disk_log *log, int fd)
{
	lease_inherit(&log->lease, fd);
	drop_free(log);
}

/*
 * Cost-benefit of Sprite LFS: (1 - u) * age / (1 + u), where u is the share that is live, and which has to be read and
 * written again; and space that has been stable for long will stay free for long. The share is that of what was used: a
 * segment of small objects is full when its summary is, and moving them all would gain nothing.
 */
static double benefit(const struct disk_log_segment *s, uint64_t now_ns)
{
	double u = (double)s->live_bytes / s->used_bytes;

	return (1 - u) * ((double)(now_ns - s->written_ns) + 1e6) / (1 + u);
}

static int can_be_cleaned(const struct disk_log_segment *s, uint64_t now_ns)
{
	return s->state == DISK_LOG_FULL && !s->writing && s->leave_until_ns <= now_ns && s->live_bytes > 0 &&
	       s->live_bytes <= s->used_bytes / 8 * 7;
}

int32_t disk_log_victim(struct disk_log *log, uint64_t now_ns)
{
	int32_t best = DISK_LOG_NO_SEGMENT;
	double most = 0;

	for (uint32_t n = 0, could_be = 0; n < log->nsegments && could_be < DISK_LOG_VICTIMS; n++) {
		uint32_t i = log->next_victim;
		const struct disk_log_segment *s = &log->segments[i];

		log->next_victim = (i + 1) % log->nsegments;
		if (!can_be_cleaned(s, now_ns))
			continue;
		could_be++;
		if (benefit(s, now_ns) > most) {
			most = benefit(s, now_ns);
			best = (int32_t)i;
		}
	}
	return best;
}

/* ---- handles ---- */

static int take_handle(struct disk_log *log, uint64_t *handle)
{
	int err = 0;

	mutex_lock(&log->handles_lock);
	if (log->free_handle) {
		*handle = log->free_handle - 1;
		log->free_handle = (uint32_t)log->entries[*handle].checksum;
	} else if (log->handles_used < log->max_handles) {
		*handle = atomic_fetch_add_explicit(&log->handles_used, 1, memory_order_relaxed);
	} else {
		err = -ENOSPC;
	}
	mutex_unlock(&log->handles_lock);
	return err;
}

static void give_back_handle(struct disk_log *log, uint64_t handle)
{
	mutex_lock(&log->handles_lock);
	atomic_store_explicit(&log->entries[handle].checksum, log->free_handle, memory_order_relaxed);
	log->free_handle = (uint32_t)handle + 1;
	mutex_unlock(&log->handles_lock);
}

static uint32_t *summary_of(const struct disk_log *log, const struct disk_log_segment *s)
{
	return log->summaries + (size_t)(s - log->segments) * DISK_LOG_SEGMENT_OBJECTS;
}

int disk_log_add(struct disk_log *log, uint64_t offset, uint32_t bytes, uint64_t checksum, uint64_t *handle)
{
	struct disk_log_segment *s = disk_log_segment_at(log, offset);
	int err = s->objects < DISK_LOG_SEGMENT_OBJECTS ? take_handle(log, handle) : -ENOSPC;

	if (err)
		return err;
	summary_of(log, s)[s->objects++] = (uint32_t)*handle;
	atomic_fetch_add(&s->live_bytes, bytes);
	atomic_store_explicit(&log->entries[*handle].checksum, checksum, memory_order_relaxed);
	atomic_store_explicit(&log->entries[*handle].place, disk_log_place_of(offset, bytes), memory_order_release);
	atomic_fetch_add_explicit(&log->objects, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&log->live_bytes, bytes, memory_order_relaxed);
	return 0;
}

static void count_dead(struct disk_log *log, disk_log_place place)
{
	uint32_t segment = (uint32_t)(disk_log_offset(place) / DISK_LOG_SEGMENT_BYTES);

	if (atomic_fetch_sub(&log->segments[segment].live_bytes, disk_log_bytes(place)) == disk_log_bytes(place))
		note_emptied(log, segment);
}

void disk_log_drop(struct disk_log *log, uint64_t handle)
{
	disk_log_place place = atomic_exchange(&log->entries[handle].place, 0);

	larder_assert(place != 0);
	count_dead(log, place);
	atomic_fetch_sub_explicit(&log->objects, 1, memory_order_relaxed);
	atomic_fetch_sub_explicit(&log->live_bytes, disk_log_bytes(place), memory_order_relaxed);
	give_back_handle(log, handle);
}

/* The segment cannot be freed between its reader being counted and the place being seen unchanged: until it moves, the
 * object is live there. */
disk_log_place disk_log_pin(struct disk_log *log, uint64_t handle)
{
	for (;;) {
		disk_log_place place = atomic_load(&log->entries[handle].place);
		struct disk_log_segment *s = disk_log_segment_at(log, disk_log_offset(place));

		atomic_fetch_add(&s->readers, 1);
		if (atomic_load(&log->entries[handle].place) == place)
			return place;
		disk_log_unpin(log, place);
	}
}

void disk_log_unpin(struct disk_log *log, disk_log_place place)
{
	disk_log_release(log, (int32_t)(disk_log_offset(place) / DISK_LOG_SEGMENT_BYTES));
}

void disk_log_hold(struct disk_log *log, int32_t segment)
{
	atomic_fetch_add(&log->segments[segment].readers, 1);
}

void disk_log_release(struct disk_log *log, int32_t segment)
{
	struct disk_log_segment *s = &log->segments[segment];

	if (atomic_fetch_sub(&s->readers, 1) == 1 && atomic_load(&s->live_bytes) == 0)
		note_emptied(log, (uint32_t)segment);
}

int disk_log_move(struct disk_log *log, uint64_t handle, disk_log_place from, uint64_t to_offset)
{
	struct disk_log_segment *to = disk_log_segment_at(log, to_offset);
	const uint32_t bytes = disk_log_bytes(from);
	disk_log_place now = from;

	if (to->objects >= DISK_LOG_SEGMENT_OBJECTS)
		return 0;
	atomic_fetch_add(&to->live_bytes, bytes);
	if (!atomic_compare_exchange_strong(&log->entries[handle].place, &now, disk_log_place_of(to_offset, bytes))) {
		atomic_fetch_sub(&to->live_bytes, bytes); /* `now` is another place, or none */
		return 0;
	}
	summary_of(log, to)[to->objects++] = (uint32_t)handle;
	count_dead(log, from);
	return 1;
}

struct disk_log_usage disk_log_usage(const struct disk_log *log)
{
	uint64_t occupied = atomic_load_explicit(&log->occupied, memory_order_relaxed);

	return (struct disk_log_usage){
		.objects = atomic_load_explicit(&log->objects, memory_order_relaxed),
		.live_bytes = atomic_load_explicit(&log->live_bytes, memory_order_relaxed),
		.occupied_bytes = occupied * DISK_LOG_SEGMENT_BYTES,
		.metadata_bytes = pages_up((size_t)atomic_load_explicit(&log->handles_used, memory_order_relaxed) *
					   sizeof(*log->entries)) +
				  pages_up(log->nsegments * sizeof(*log->segments)) +
				  pages_up(emptied_words(log) * sizeof(*log->emptied)) + occupied * 4096,
	};
}
