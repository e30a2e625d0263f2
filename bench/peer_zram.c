/*
 * zram: a block device in RAM that compresses, here with lz4, as the swap area of highest priority.
 *
 * Should one be left: `swapoff /dev/zramN; echo 1 > /sys/block/zramN/reset`.
 */
#include "peer.h"
#include "swap.h"
#include "sysfile.h"

#include <err.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/swap.h>
#include <unistd.h>

enum { DEVICES = 16, SYS_PATH_BYTES = 64 };

static struct {
	int number; /* of /dev/zramN and /sys/block/zramN */
	char device[32], size[32];
	uint64_t bytes;
	int is_ours; /* we made the device, and must remove it */
} zram;

static const char *attribute(const char *name)
{
	static char path[SYS_PATH_BYTES];

	snprintf(path, sizeof(path), "/sys/block/zram%d/%s", zram.number, name);
	return path;
}

/* mm_stat: original, compressed, memory used, ... */
static void read_mm_stat(uint64_t *original, uint64_t *used)
{
	unsigned long long numbers[2] = { 0, 0 };
	char text[256];

	if (!sysfile_read(attribute("mm_stat"), text, sizeof(text)))
		sscanf(text, "%llu %*u %llu", &numbers[0], &numbers[1]);
	*original = numbers[0];
	*used = numbers[1];
}

static uint64_t pool_bytes(void)
{
	uint64_t original, used;

	read_mm_stat(&original, &used);
	return used;
}

/* Reading hot_add makes a device and tells its number. */
static int add_device(void)
{
	char text[32];

	if (sysfile_read("/sys/class/zram-control/hot_add", text, sizeof(text)))
		return 0;
	zram.number = atoi(text);
	return 1;
}

/* A device that nobody uses (its size is 0), or a new one. */
static void choose_device(void)
{
	for (zram.number = 0; zram.number < DEVICES; zram.number++)
		if (!access(attribute("disksize"), F_OK) && sysfile_number(attribute("disksize")) == 0)
			return;
	zram.is_ours = add_device();
	if (!zram.is_ours)
		errx(2, "no free zram device; load the module (modprobe zram), or choose another --peer");
}

static void prepare(const char *dir, uint64_t bytes)
{
	(void)dir;
	choose_device();
	zram.bytes = bytes;
	snprintf(zram.device, sizeof(zram.device), "/dev/zram%d", zram.number);
	snprintf(zram.size, sizeof(zram.size), "%llu", (unsigned long long)bytes);
}

static void on(void)
{
	const char *failed = NULL;

	if ((errno = -sysfile_write(attribute("comp_algorithm"), "lz4")) != 0)
		failed = "set lz4 on";
	else if ((errno = -sysfile_write(attribute("disksize"), zram.size)) != 0)
		failed = "set the size of";
	else if (swap_write_header(zram.device, zram.bytes))
		failed = "write a swap header to";
	else if (swapon(zram.device, SWAP_FLAG_PREFER | SWAP_FLAG_PRIO_MASK))
		failed = "swap on";
	if (failed)
		err(2, "cannot %s %s", failed, zram.device);
}

static void off(void)
{
	swapoff(zram.device);
	sysfile_write(attribute("reset"), "1");
}

static void close_device(void)
{
	if (zram.is_ours)
		sysfile_write_number("/sys/class/zram-control/hot_remove", (uint64_t)zram.number);
}

const struct peer peer_zram = {
	.name = "zram",
	.what = "plain memory, swap on zram with lz4",
	.prepare = prepare,
	.on = on,
	.off = off,
	.close = close_device,
	.pool_bytes = pool_bytes,
	.held = read_mm_stat,
};
