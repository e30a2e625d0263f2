/*
 * Swap on the command line. See swap.h.
 */
#include "swap.h"

#include "disk.h"
#include "explain.h"
#include "larder.h"
#include "limit.h"
#include "probe.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static int check_size(const char *text, uint64_t *bytes)
{
	int err = text ? swap_size_parse(text, bytes) : 0;

	if (!err)
		return 0;
	return complain("run", "the swap size '%s' is %s; %s", text, err == -ERANGE ? "out of range" : "not a size",
			swap_size_explain(err));
}

int swap_check_options(const struct swap_options *o)
{
	int swaps = o->dir || o->device;
	uint64_t bytes;

	if (o->none && (swaps || o->size || o->encrypt))
		return complain("run", "--no-swap was given with another option of swap; leave one of them out");
	if (o->dir && o->device)
		return complain("run", "--swap-dir and --swap-device were both given; give one of them");
	if (!swaps && (o->size || o->encrypt))
		return complain("run", "%s was given without a place; add --swap-dir DIR or --swap-device DEV",
				o->size ? "--swap-size" : "--swap-encrypt");
	return check_size(o->size, &bytes);
}

static int check_io_uring(void)
{
	struct probe_finding f;

	return probe_io_uring(&f) ? complain("run", "io_uring: %s; %s", f.found, f.remedy) : 0;
}

/* Opening some other kind of file could have effects of its own. */
static int check_device_kind(const char *device)
{
	struct stat s;

	if (stat(device, &s) < 0)
		return -errno;
	return S_ISBLK(s.st_mode) ? 0 : -ENOTBLK;
}

static int try_to_open(const struct disk_place *place)
{
	struct larder_disk disk;
	int err = place->device ? check_device_kind(place->device) : 0;

	if (!err && place->device)
		disk_await_device(place->device, DISK_RELEASE_NS); /* the same program may have ended just now */
	if (!err)
		err = disk_open(&disk, place);
	if (!err)
		disk_close(&disk);
	return err == -EPERM ? -EACCES : err;
}

int swap_check_place(const struct swap_options *o)
{
	struct disk_place place = { .dir = o->dir, .device = o->device };
	int err;

	if (!o->dir && !o->device)
		return 0;
	err = check_size(o->size, &place.bytes);
	if (!err)
		err = check_io_uring();
	if (err)
		return err;
	err = try_to_open(&place);
	return err ? complain("run", "cannot swap to '%s': %s", o->dir ? o->dir : o->device,
			      explain_swap(err, o->device != NULL))
		   : 0;
}

static void set_or_unset(const char *name, const char *value)
{
	if (value)
		setenv(name, value, 1);
	else
		unsetenv(name);
}

int swap_set_environment(const struct swap_options *o)
{
	const char *given = o->dir ? o->dir : o->device;
	char path[PATH_MAX]; /* absolute: the program may change directory before it executes another one */

	if (given && !realpath(given, path))
		return complain("run", "cannot find '%s': %s; name another place for swap", given, strerror(errno));
	set_or_unset("LARDER_SWAP_DIR", o->dir ? path : NULL);
	set_or_unset("LARDER_SWAP_DEVICE", o->device ? path : NULL);
	set_or_unset("LARDER_SWAP_SIZE", o->size);
	set_or_unset("LARDER_SWAP_ENCRYPT", o->encrypt ? "1" : NULL);
	return 0;
}
