/*
 * zswap: a compressed pool in RAM in front of a swap file, with lz4 where the kernel has it, else with the compressor
 * that is set. Every parameter that is changed gets its old value back.
 *
 * Should something be left: what the swap file says, and the values in /sys/module/zswap/parameters.
 */
#include "cgroup.h"
#include "peer.h"
#include "peer_swapfile.h"
#include "sysfile.h"

#include <err.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define PARAMETERS "/sys/module/zswap/parameters/"

/* What a machine is likely to have, but for the pool's size, which is what the limit leaves to it. */
static struct parameter {
	const char *path, *wanted;
	char before[64];
	int is_optional;
} parameters[] = {
	{ .path = PARAMETERS "compressor", .wanted = "lz4", .is_optional = 1 },
	{ .path = PARAMETERS "max_pool_percent", .wanted = "80" },
	{ .path = PARAMETERS "enabled", .wanted = "Y" }, /* last on, first off */
};

enum { COUNT = sizeof(parameters) / sizeof(parameters[0]) };

static int is_saved;

static void prepare(const char *dir, uint64_t bytes)
{
	if (access(PARAMETERS "enabled", F_OK))
		errx(2, "this kernel has no zswap (there is no %senabled); choose another --peer", PARAMETERS);
	for (unsigned i = 0; i < COUNT; i++)
		if (sysfile_read(parameters[i].path, parameters[i].before, sizeof(parameters[i].before)))
			err(2, "cannot read %s", parameters[i].path);
	is_saved = 1;
	swapfile_prepare(dir, bytes);
}

static void on(void)
{
	swapfile_on();
	for (unsigned i = 0; i < COUNT; i++) {
		int failed = sysfile_write(parameters[i].path, parameters[i].wanted);

		if (failed && !parameters[i].is_optional)
			errx(2, "cannot set %s to %s: %s", parameters[i].path, parameters[i].wanted, strerror(-failed));
	}
}

static void off(void)
{
	swapfile_off();
	for (unsigned i = COUNT; is_saved && i-- > 0;)
		sysfile_write(parameters[i].path, parameters[i].before);
}

static uint64_t zswap_bytes(void)
{
	return sysfile_kib_field("/proc/meminfo", "Zswap");
}

/* Version 2 charges the cgroup for the pool. */
static uint64_t pool_bytes(void)
{
	return cgroup_is_v1() ? zswap_bytes() : 0;
}

static void held(uint64_t *content_bytes, uint64_t *occupied_bytes)
{
	*content_bytes = sysfile_kib_field("/proc/meminfo", "Zswapped");
	*occupied_bytes = zswap_bytes();
}

const struct peer peer_zswap = {
	.name = "zswap",
	.what = "plain memory, zswap in front of a swap file",
	.needs_dir = 1,
	.prepare = prepare,
	.on = on,
	.off = off,
	.close = swapfile_close,
	.pool_bytes = pool_bytes,
	.held = held,
};
