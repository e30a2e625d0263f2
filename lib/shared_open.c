/*
 * Making, opening and closing shared volatile ranges. See shared.h. Program threads only.
 */
#include "shared.h"

#include <linux/memfd.h>
#include <pthread.h>
#include <sys/stat.h>

#define LARDER_PUBLIC __attribute__((visibility("default")))

enum { PAGE = 4096, SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL };

static uint64_t round_up(uint64_t n, uint64_t to)
{
	return (n + to - 1) & ~(to - 1);
}

static uint64_t header_bytes(uint64_t units)
{
	return round_up(sizeof(struct shared_header) + units * sizeof(struct shared_unit), PAGE);
}

static int is_unit_size(uint64_t n)
{
	return n >= SHARED_UNIT_MIN_BYTES && n <= (uint64_t)1 << 46 && !(n & (n - 1));
}

/* ---- what the process has open ---- */

static void before_fork(void)
{
	mutex_lock(&atomic_load(&shared_process)->opening);
}

/* In the child the page has been wiped: there is nothing to unlock. */
static void after_fork_in_parent(void)
{
	mutex_unlock(&atomic_load(&shared_process)->opening);
}

/* Memory that is not managed, zero, and zero again in a forked child from `wiped` on. NULL when there is none. */
static char *map_wiped_on_fork(size_t bytes, size_t wiped)
{
	char *p = sys_map(bytes);

	if (p && sys_madvise(p + wiped, bytes - wiped, MADV_WIPEONFORK) < 0) {
		sys_munmap(p, bytes);
		return NULL;
	}
	return p;
}

static int open_process(void)
{
	struct shared_process *p, *none = NULL;

	if (atomic_load(&shared_process))
		return 0;
	p = (struct shared_process *)map_wiped_on_fork(sizeof(*p), 0);
	if (!p)
		return -ENOMEM;
	if (!atomic_compare_exchange_strong(&shared_process, &none, p)) {
		sys_munmap(p, sizeof(*p));
		return 0;
	}
	return -pthread_atfork(before_fork, after_fork_in_parent, NULL);
}

static void link_range(struct larder_shared *s)
{
	struct shared_process *p = atomic_load(&shared_process);

	mutex_lock(&p->list);
	s->next = p->first;
	p->first = s;
	mutex_unlock(&p->list);
}

/* Afterwards no internal thread is at work on it. */
static void unlink_range(struct larder_shared *s)
{
	struct shared_process *p = atomic_load(&shared_process);
	struct larder_shared **at = &p->first;

	mutex_lock(&p->list);
	while (*at && *at != s)
		at = &(*at)->next;
	if (*at)
		*at = s->next;
	mutex_unlock(&p->list);
}

/* ---- the file ---- */

static long fill_file(int fd, uint64_t units, uint64_t unit_bytes)
{
	uint64_t bytes = header_bytes(units);
	long err = sys_call3(SYS_ftruncate, fd, (long)(bytes + units * unit_bytes), 0);
	struct shared_header *h;

	if (err < 0)
		return err == -EFBIG || err == -EINVAL ? -ENOMEM : err;
	h = sys_mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	if (sys_is_error(h))
		return (long)h;
	h->geometry = (struct shared_geometry){
		.magic = SHARED_MAGIC,
		.version = SHARED_VERSION,
		.slots = SHARED_SLOTS,
		.unit_bytes = unit_bytes,
		.units = units,
		.data_offset = bytes,
	};
	for (uint64_t unit = 0; unit < units; unit++)
		atomic_init(&h->unit[unit].rank, shared_rank(LARDER_PRIORITY_MIN, 0));
	sys_munmap(h, bytes);
	return sys_call3(SYS_fcntl, fd, F_ADD_SEALS, SEALS);
}

/* Is it consistent, and does it fit the file? */
static int is_valid(const struct shared_geometry *g, uint64_t file_bytes)
{
	return g->magic == SHARED_MAGIC && g->version == SHARED_VERSION && g->slots == SHARED_SLOTS &&
	       is_unit_size(g->unit_bytes) && g->units > 0 && g->units <= SHARED_UNITS_MAX &&
	       g->units <= file_bytes / g->unit_bytes && g->data_offset == header_bytes(g->units) &&
	       g->data_offset + g->units * g->unit_bytes == file_bytes;
}

/* Read the geometry into *s. The seals come first: a file that cannot shrink is safe to look at. */
static int read_geometry(struct larder_shared *s, int fd)
{
	long seals = sys_call3(SYS_fcntl, fd, F_GET_SEALS, 0);
	const struct shared_header *h;
	struct shared_geometry g;
	struct stat st;

	if (seals < 0 || (seals & SEALS) != SEALS || sys_call3(SYS_fstat, fd, (long)&st, 0) < 0 || st.st_size < PAGE)
		return -EINVAL;
	h = sys_mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd);
	if (sys_is_error(h))
		return (int)(intptr_t)h;
	g = h->geometry; /* a copy, so that what is checked is what is used */
	sys_munmap((void *)h, PAGE);
	s->units = g.units;
	s->unit_bytes = g.unit_bytes;
	s->mapped_bytes = (uint64_t)st.st_size;
	s->device = st.st_dev;
	s->inode = st.st_ino;
	return is_valid(&g, (uint64_t)st.st_size) ? 0 : -EINVAL;
}

/* ---- one opening ---- */

static int map_file(struct larder_shared *s)
{
	void *map = sys_mmap(NULL, s->mapped_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, s->fd);

	if (sys_is_error(map)) /* -EPERM: sealed against writing */
		return (intptr_t)map == -EPERM ? -EACCES : (int)(intptr_t)map;
	s->header = map;
	s->data = (char *)map + header_bytes(s->units);
	return (int)sys_madvise(map, s->mapped_bytes, MADV_DONTFORK);
}

/* The handle, which a forked child keeps for larder_shared_fd(), and behind it the session, which it does not. */
static struct larder_shared *map_handle(const struct larder_shared *geometry)
{
	uint64_t bytes =
		PAGE + round_up(sizeof(struct shared_session) + geometry->units * sizeof(struct shared_pins), PAGE);
	char *p = map_wiped_on_fork(bytes, PAGE);
	struct larder_shared *s = (struct larder_shared *)p;

	if (!p)
		return NULL;
	*s = *geometry;
	s->private_bytes = bytes;
	s->session = (struct shared_session *)(p + PAGE);
	s->session->connected = 1;
	return s;
}

static void unmap(struct larder_shared *s)
{
	if (s->header && shared_is_connected(s)) /* a child does not have it, but may have something else there */
		sys_munmap(s->header, s->mapped_bytes);
	if (s->fd >= 0)
		sys_close(s->fd);
	sys_munmap(s, s->private_bytes);
}

static int connect(struct larder_shared *s)
{
	int err = map_file(s);

	return err ? err : slot_claim(s);
}

static int check_and_open(struct larder_shared **shared, int fd)
{
	struct larder_shared geometry = { .fd = -1 }, *s;
	int err = read_geometry(&geometry, fd);

	if (!err)
		err = open_process();
	if (err)
		return err;
	geometry.fd = shared_reopen(fd);
	if (geometry.fd < 0)
		return geometry.fd == -EPERM ? -EACCES : geometry.fd;
	s = map_handle(&geometry);
	if (!s) {
		sys_close(geometry.fd);
		return -ENOMEM;
	}
	err = connect(s);
	if (err) {
		unmap(s);
		return err;
	}
	link_range(s);
	*shared = s;
	return 0;
}

/* What another process handed over is not this program's mistake: no debug build stops for it. */
LARDER_PUBLIC int larder_shared_open(larder_shared **shared, int fd)
{
	return shared ? check_and_open(shared, fd) : shared_misuse(-EINVAL, "larder_shared_open");
}

static int create(struct larder_shared **shared, uint64_t units, uint64_t unit_bytes)
{
	int fd = (int)sys_call3(SYS_memfd_create, (long)"larder-shared", MFD_CLOEXEC | MFD_ALLOW_SEALING, 0);
	int err = fd < 0 ? fd : (int)fill_file(fd, units, unit_bytes);

	if (!err)
		err = check_and_open(shared, fd);
	if (fd >= 0)
		sys_close(fd);
	return err;
}

LARDER_PUBLIC int larder_shared_create(larder_shared **shared, size_t bytes, size_t unit_bytes)
{
	uint64_t units;

	if (!shared || !bytes || !is_unit_size(unit_bytes))
		return shared_misuse(-EINVAL, "larder_shared_create");
	units = (bytes - 1) / unit_bytes + 1;
	if (units > SHARED_UNITS_MAX || units > ((uint64_t)1 << 62) / unit_bytes)
		return -ENOMEM;
	return create(shared, units, unit_bytes);
}

LARDER_PUBLIC int larder_shared_close(larder_shared *s)
{
	int pinned;

	if (!s)
		return shared_misuse(-EINVAL, "larder_shared_close");
	mutex_lock(&s->session->mutex);
	pinned = s->session->pinned != 0;
	mutex_unlock(&s->session->mutex);
	if (pinned)
		return shared_misuse(-EBUSY, "larder_shared_close");
	if (shared_is_connected(s)) {
		unlink_range(s);
		slot_leave(s);
	}
	unmap(s);
	return 0;
}

LARDER_PUBLIC int larder_shared_fd(const larder_shared *s)
{
	return s->fd;
}

LARDER_PUBLIC void *larder_shared_address(const larder_shared *s)
{
	return s->data;
}

LARDER_PUBLIC size_t larder_shared_bytes(const larder_shared *s)
{
	return s->units * s->unit_bytes;
}

LARDER_PUBLIC size_t larder_shared_unit_bytes(const larder_shared *s)
{
	return s->unit_bytes;
}
