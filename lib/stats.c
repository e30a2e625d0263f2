/*
 * The statistics page lives in a memfd mapping, for its name: `larder stat` finds it in /proc/PID/maps and reads it
 * with process_vm_readv. The descriptor is closed at once; the mapping ends with the process.
 */
#include "stats.h"

#include "sys.h"

#include <linux/memfd.h>

static struct larder_stats unread;
struct larder_stats *stats = &unread;

int stats_open(void)
{
	struct larder_stats *page;
	long fd = sys_call3(SYS_memfd_create, (long)LARDER_STATS_NAME, MFD_CLOEXEC, 0);
	long err;

	if (fd < 0)
		return (int)fd;
	err = sys_call3(SYS_ftruncate, fd, sizeof(*page), 0);
	page = err < 0 ? (void *)err : sys_mmap(NULL, sizeof(*page), PROT_READ | PROT_WRITE, MAP_SHARED, (int)fd);
	sys_close((int)fd);
	if (sys_is_error(page))
		return (int)(intptr_t)page;
	page->version = LARDER_STATS_VERSION;
	page->bytes = sizeof(*page);
	page->pid = sys_getpid();
	page->page_bytes = 4096;
	__atomic_store_n(&page->magic, LARDER_STATS_MAGIC, __ATOMIC_RELEASE);
	stats = page;
	return 0;
}

void stats_close(void)
{
	if (stats != &unread)
		sys_munmap(stats, sizeof(*stats));
	stats = &unread;
}

void stats_inherit(void)
{
	struct larder_stats *parent = stats;

	stats = &unread;
	if (stats_open() == 0)
		__builtin_memcpy(&stats->limit_bytes, &parent->limit_bytes,
				 offsetof(struct larder_stats, faults) - offsetof(struct larder_stats, limit_bytes));
	if (parent != &unread)
		sys_munmap(parent, sizeof(*parent));
}
