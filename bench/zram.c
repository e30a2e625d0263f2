#include "zram.h"

#include "swap.h"
#include "watcher.h"

#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/swap.h>
#include <unistd.h>

enum { DEVICES = 16 };

static struct {
	int number; /* of /dev/zramN and /sys/block/zramN */
	char device[32];
	int added; /* we made the device, and must remove it */
} zram;

/* ---- sysfs ---- */

static void attribute_path(char path[64], const char *name)
{
	snprintf(path, 64, "/sys/block/zram%d/%s", zram.number, name);
}

static int attribute_write(const char *name, const char *text)
{
	char path[64];
	ssize_t n;
	int fd;

	attribute_path(path, name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	n = write(fd, text, strlen(text));
	close(fd);
	return n < 0 ? -1 : 0;
}

static int attribute_read(const char *name, char *text, size_t room)
{
	char path[64];
	ssize_t n;
	int fd;

	attribute_path(path, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	n = read(fd, text, room - 1);
	close(fd);
	text[n > 0 ? n : 0] = 0;
	return n < 0 ? -1 : 0;
}

uint64_t zram_used_bytes(void)
{
	char text[256];
	unsigned long long used = 0;

	if (!attribute_read("mm_stat", text, sizeof(text)))
		sscanf(text, "%*u %*u %llu", &used); /* original, compressed, memory used */
	return used;
}

/* ---- on ---- */

/* Reading hot_add makes a device and tells its number. */
static int add_device(void)
{
	FILE *f = fopen("/sys/class/zram-control/hot_add", "r");
	int ok = f && fscanf(f, "%d", &zram.number) == 1;

	if (f)
		fclose(f);
	return ok;
}

static void remove_device(void)
{
	FILE *f = fopen("/sys/class/zram-control/hot_remove", "w");

	if (!f)
		return;
	fprintf(f, "%d", zram.number);
	fclose(f);
}

/* A device that nobody uses (its size is 0), or a new one. */
static void choose_device(void)
{
	char size[32];

	for (zram.number = 0; zram.number < DEVICES; zram.number++)
		if (!attribute_read("disksize", size, sizeof(size)) && atoll(size) == 0)
			return;
	zram.added = add_device();
	if (!zram.added)
		errx(2, "no free zram device; load the module (modprobe zram)");
}

static void switch_off(void)
{
	swapoff(zram.device);
	attribute_write("reset", "1");
	if (zram.added)
		remove_device();
}

static void switch_on(uint64_t bytes)
{
	char size[32];
	const char *failed = NULL;

	snprintf(size, sizeof(size), "%llu", (unsigned long long)bytes);
	if (attribute_write("comp_algorithm", "lz4"))
		failed = "set lz4 on";
	else if (attribute_write("disksize", size))
		failed = "set the size of";
	else if (swap_write_header(zram.device, bytes))
		failed = "write a swap header to";
	else if (swapon(zram.device, SWAP_FLAG_PREFER | 32767))
		failed = "swap on";
	if (failed)
		err(2, "cannot %s %s", failed, zram.device);
}

void zram_begin(uint64_t bytes)
{
	if (geteuid())
		errx(2, "the kernel's side needs root, to switch zram swap on and off");
	choose_device();
	snprintf(zram.device, sizeof(zram.device), "/dev/zram%d", zram.number);
	watcher_begin(switch_off);
	switch_on(bytes);
}
