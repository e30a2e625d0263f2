/*
 * A swap file, of highest priority. Should one be left: `swapoff DIR/larder-bench-PID.swap`, and remove
 * it.
 */
#include "peer_swapfile.h"

#include "peer.h"
#include "swap.h"

#include <err.h>
#include <limits.h>
#include <stdio.h>
#include <sys/statvfs.h>
#include <sys/swap.h>
#include <unistd.h>

static char path[PATH_MAX];
static uint64_t size_bytes;
static int is_made;

void swapfile_prepare(const char *dir, uint64_t bytes)
{
	struct statvfs fs;

	if (access(dir, W_OK | X_OK) || statvfs(dir, &fs))
		err(2, "%s", dir);
	if ((uint64_t)fs.f_bavail * fs.f_frsize < bytes)
		errx(2, "%s: %llu MiB are free, and the swap file needs %llu; name another place with --dir", dir,
		     (unsigned long long)fs.f_bavail * fs.f_frsize >> 20, (unsigned long long)bytes >> 20);
	if (snprintf(path, sizeof(path), "%s/larder-bench-%d.swap", dir, (int)getpid()) >= (int)sizeof(path))
		errx(2, "%s: the name is too long", dir);
	size_bytes = bytes;
}

/* Written once, by whoever switches it on first: that takes a while. */
void swapfile_on(void)
{
	if (!is_made && swap_make_file(path, size_bytes))
		err(2, "cannot make the swap file %s", path);
	is_made = 1;
	if (swapon(path, SWAP_FLAG_PREFER | SWAP_FLAG_PRIO_MASK))
		err(2, "cannot swap on %s", path);
}

void swapfile_off(void)
{
	swapoff(path);
}

void swapfile_close(void)
{
	unlink(path);
}

const struct peer peer_swapfile = {
	.name = "swapfile",
	.what = "plain memory, a swap file",
	.needs_dir = 1,
	.prepare = swapfile_prepare,
	.on = swapfile_on,
	.off = swapfile_off,
	.close = swapfile_close,
};
