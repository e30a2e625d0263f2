/*
 * The statistics page lives in a memfd mapping, for its name: `larder stat` finds it in /proc/PID/maps and reads it
 * with process_vm_readv. The descriptor is closed at once; the mapping ends with the process.
 */
#include "stats.h"

#include "sys.h"

#include <linux/memfd.h>

static struct larder_stats unread;
struct larder_stats *stats = &unread;

/* A page of its own at `at` (NULL: anywhere). Returns it, or a negative errno in the pointer. */
static struct larder_stats *map_page(void *at)
{
	long fd = sys_call3(SYS_memfd_create, (long)LARDER_STATS_NAME, MFD_CLOEXEC, 0);
	long err = fd < 0 ? fd : sys_call3(SYS_ftruncate, fd, sizeof(struct larder_stats), 0);
	struct larder_stats *page = (void *)err;

	if (err >= 0)
		page = sys_mmap(at, sizeof(*page), PROT_READ | PROT_WRITE, MAP_SHARED | (at ? MAP_FIXED : 0), (int)fd);
	if (fd >= 0)
		sys_close((int)fd);
	return page;
}

static void begin(struct larder_stats *page)
{
	page->version = LARDER_STATS_VERSION;
	page->bytes = sizeof(*page);
	page->pid = sys_getpid();
	page->page_bytes = 4096;
	__atomic_store_n(&page->magic, LARDER_STATS_MAGIC, __ATOMIC_RELEASE);
}

int stats_open(void)
{
	struct larder_stats *page = map_page(NULL);

	if (sys_is_error(page))
		return (int)(intptr_t)page;
	begin(page);
	stats = page;
	return 0;
}

void stats_close(void)
{
	if (stats != &unread)
		sys_munmap(stats, sizeof(*stats));
	stats = &unread;
}

/* At the same address, which others have noted. Without a descriptor for it the page has no name, so nobody finds it.
 */
void stats_inherit(void)
{
	struct gauges {
		char bytes[offsetof(struct larder_stats, faults) - offsetof(struct larder_stats, limit_bytes)];
	} gauges;

	__builtin_memcpy(&gauges, &stats->limit_bytes, sizeof(gauges));
	if (sys_is_error(map_page(stats)))
		sys_mmap(stats, sizeof(*stats), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1);
	__builtin_memcpy(&stats->limit_bytes, &gauges, sizeof(gauges));
	begin(stats);
}
