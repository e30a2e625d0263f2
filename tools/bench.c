/*
 * larder bench: becomes larder-bench, which is a program of its own so that this one needs no library that a benchmark
 * needs.
 */
#include "larder.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { EXIT_BENCH = 2 }; /* larder-bench's own code for what cannot be set up */

/* From the command's folder: the build tree, the installed tree. */
static const char *const places[] = { "larder-bench", "../" LARDER_LIBEXECDIR "/larder/larder-bench" };

/* The folder that this command is in, with the slash at its end. */
static int own_folder(char folder[PATH_MAX])
{
	ssize_t n = readlink("/proc/self/exe", folder, PATH_MAX - 1);
	char *slash;

	folder[n > 0 ? n : 0] = 0;
	slash = strrchr(folder, '/');
	if (!slash)
		return -1;
	slash[1] = 0;
	return 0;
}

int bench_main(int argc, char **argv)
{
	char folder[PATH_MAX], path[PATH_MAX + 64];

	(void)argc;
	if (own_folder(folder))
		*folder = 0;
	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		snprintf(path, sizeof(path), "%s%s", folder, places[i]);
		if (access(path, X_OK))
			continue;
		execv(path, argv);
		complain("bench", "cannot execute '%s': %s", path, strerror(errno));
		return EXIT_BENCH;
	}
	complain("bench", "larder-bench is not installed beside this command; install Larder again");
	return EXIT_BENCH;
}
