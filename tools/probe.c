/*
 * What this machine can do. See probe.h.
 */
#include "probe.h"

#include "uffd.h"

#include "linux_userfaultfd.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <limits.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

enum { KERNEL_MAJOR = 6, KERNEL_MINOR = 8, MAP_COUNT_MIN = 65530 };

static void set(char *to, size_t size, const char *format, va_list args)
{
	vsnprintf(to, size, format, args);
}

__attribute__((format(printf, 2, 3))) static void found(struct probe_finding *f, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	set(f->found, sizeof(f->found), format, args);
	va_end(args);
}

__attribute__((format(printf, 3, 4))) static void bad(struct probe_finding *f, enum probe_verdict verdict,
						      const char *format, ...)
{
	va_list args;

	f->verdict = verdict;
	va_start(args, format);
	set(f->remedy, sizeof(f->remedy), format, args);
	va_end(args);
}

/* A number from /proc/sys, or -1. */
static long read_sysctl(const char *path)
{
	FILE *f = fopen(path, "re");
	long value = -1;

	if (!f)
		return -1;
	if (fscanf(f, "%ld", &value) != 1)
		value = -1;
	fclose(f);
	return value;
}

static void check_kernel(struct probe_finding *f)
{
	struct utsname u;
	int major = 0, minor = 0;

	f->check = "kernel";
	uname(&u);
	found(f, "Linux %s", u.release);
	if (sscanf(u.release, "%d.%d", &major, &minor) != 2 || major < KERNEL_MAJOR ||
	    (major == KERNEL_MAJOR && minor < KERNEL_MINOR))
		bad(f, PROBE_FAIL, "run Linux %d.%d or newer, which has UFFDIO_MOVE", KERNEL_MAJOR, KERNEL_MINOR);
}

static void check_userfaultfd(struct probe_finding *f)
{
	int fd = uffd_open();

	f->check = "userfaultfd";
	if (fd >= 0) {
		found(f, "permitted, with MOVE and POISON");
		close(fd);
	} else if (fd == -EPERM || fd == -EACCES) {
		found(f, "not permitted for this user (vm.unprivileged_userfaultfd=%ld)",
		      read_sysctl("/proc/sys/vm/unprivileged_userfaultfd"));
		bad(f, PROBE_FAIL,
		    "run as root, or sysctl vm.unprivileged_userfaultfd=1, or give this user access to /dev/userfaultfd");
	} else if (fd == -ENOSYS) {
		found(f, "not in this kernel");
		bad(f, PROBE_FAIL, "use a kernel built with CONFIG_USERFAULTFD");
	} else if (fd == -EOPNOTSUPP) {
		found(f, "without UFFDIO_MOVE or UFFDIO_POISON");
		bad(f, PROBE_FAIL, "run Linux 6.8 or newer");
	} else {
		found(f, "cannot be opened: %s", strerror(-fd));
		bad(f, PROBE_FAIL, "raise ulimit -n if it is the number of descriptors");
	}
}

static void check_pagemap_scan(struct probe_finding *f)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	struct pm_scan_arg arg = { .size = sizeof(arg),
				   .category_mask = PAGE_IS_PRESENT,
				   .return_mask = PAGE_IS_PRESENT };
	struct page_region region;

	f->check = "pagemap";
	arg.vec = (uintptr_t)&region;
	arg.vec_len = 1;
	arg.start = (uintptr_t)&arg & ~4095ul;
	arg.end = arg.start + 4096;
	if (fd >= 0 && ioctl(fd, PAGEMAP_SCAN, &arg) >= 0) {
		found(f, "PAGEMAP_SCAN works");
	} else {
		found(f, "/proc/self/pagemap: %s", strerror(errno));
		bad(f, PROBE_FAIL, "run Linux 6.8 or newer with /proc mounted and CONFIG_PROC_PAGE_MONITOR");
	}
	if (fd >= 0)
		close(fd);
}

static void check_io_uring(struct probe_finding *f)
{
	struct io_uring ring;
	int err = io_uring_queue_init(2, &ring, 0);
	long disabled = read_sysctl("/proc/sys/kernel/io_uring_disabled");

	f->check = "io_uring";
	if (err == 0) {
		found(f, "works");
		io_uring_queue_exit(&ring);
	} else if (disabled > 0) {
		found(f, "disabled by kernel.io_uring_disabled=%ld", disabled);
		bad(f, PROBE_WARN, "sysctl kernel.io_uring_disabled=0; only swap on disk needs it");
	} else {
		found(f, "%s", strerror(-err));
		bad(f, PROBE_WARN,
		    "allow io_uring_setup in the container's seccomp policy; only swap on disk needs it");
	}
}

static void check_overcommit(struct probe_finding *f)
{
	long mode = read_sysctl("/proc/sys/vm/overcommit_memory");

	f->check = "overcommit";
	found(f, "vm.overcommit_memory=%ld", mode);
	if (mode == 2)
		bad(f, PROBE_WARN,
		    "sysctl vm.overcommit_memory=0 if the start fails: tables are reserved in full, filled as needed");
}

static void check_map_count(struct probe_finding *f)
{
	long count = read_sysctl("/proc/sys/vm/max_map_count");

	f->check = "map-count";
	found(f, "vm.max_map_count=%ld", count);
	if (count >= 0 && count < MAP_COUNT_MIN)
		bad(f, PROBE_WARN, "sysctl vm.max_map_count=%d, or memory that cannot be registered stays resident",
		    MAP_COUNT_MIN);
}

static void check_address_space(struct probe_finding *f)
{
	struct rlimit limit;

	f->check = "address-space";
	getrlimit(RLIMIT_AS, &limit);
	if (limit.rlim_cur == RLIM_INFINITY) {
		found(f, "unlimited");
		return;
	}
	found(f, "limited to %llu MiB", (unsigned long long)limit.rlim_cur >> 20);
	if (limit.rlim_cur < (rlim_t)8 << 30)
		bad(f, PROBE_FAIL, "ulimit -v unlimited: the managed region reserves addresses, not memory");
}

/*
 * libjemalloc can be preloaded but not loaded later (its thread-local variables need room that only exists at start),
 * so ask the loader the way that the program will: run this command with it preloaded and see whether its functions are
 * there.
 */
static int jemalloc_can_be_preloaded(void)
{
	static char *const argv[] = { (char *)"larder", (char *)PROBE_JEMALLOC, NULL };
	static char *const env[] = { (char *)"LD_PRELOAD=libjemalloc.so.2", NULL };
	posix_spawn_file_actions_t actions;
	int status = -1, err;
	pid_t pid;

	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
	err = posix_spawn(&pid, "/proc/self/exe", &actions, NULL, argv, env);
	posix_spawn_file_actions_destroy(&actions);
	return !err && waitpid(pid, &status, 0) == pid && status == 0;
}

int probe_jemalloc_is_here(void)
{
	return dlsym(RTLD_DEFAULT, "mallocx") != NULL;
}

static void check_jemalloc(struct probe_finding *f)
{
	f->check = "jemalloc";
	if (jemalloc_can_be_preloaded()) {
		found(f, "libjemalloc.so.2 found");
	} else {
		found(f, "libjemalloc.so.2 cannot be preloaded");
		bad(f, PROBE_FAIL, "apt install libjemalloc2");
	}
}

static void check_preload(struct probe_finding *f)
{
	char path[PATH_MAX];

	f->check = "preload";
	if (probe_preload_path(path, sizeof(path)) == 0) {
		found(f, "%.190s", path);
	} else {
		found(f, "liblarder-preload.so is not beside this command");
		bad(f, PROBE_FAIL, "install Larder again, or name it in LARDER_PRELOAD_LIB");
	}
}

static void (*const checks[])(struct probe_finding *) = {
	check_kernel,	     check_userfaultfd, check_pagemap_scan,
	check_address_space, check_jemalloc,	check_preload, /* those after this one only warn */
	check_io_uring,	     check_overcommit,	check_map_count,
};

size_t probe_machine(struct probe_finding findings[PROBE_MAX_FINDINGS])
{
	size_t n = sizeof(checks) / sizeof(checks[0]);

	memset(findings, 0, n * sizeof(*findings));
	for (size_t i = 0; i < n; i++)
		checks[i](&findings[i]);
	return n;
}

int probe_for_run(struct probe_finding *finding)
{
	for (size_t i = 0; i < sizeof(checks) / sizeof(checks[0]) && checks[i] != check_io_uring; i++) {
		memset(finding, 0, sizeof(*finding));
		checks[i](finding);
		if (finding->verdict == PROBE_FAIL)
			return 1;
	}
	return 0;
}

int probe_io_uring(struct probe_finding *finding)
{
	memset(finding, 0, sizeof(*finding));
	check_io_uring(finding);
	return finding->verdict != PROBE_OK;
}

int probe_preload_path(char *path, size_t size)
{
	/* From the command's folder: the build tree, the installed tree; then where it was configured to be installed.
	 */
	static const char *const places[] = { "../lib/liblarder-preload.so",
					      "../" LARDER_LIBDIR "/larder/liblarder-preload.so" };
	const char *override = getenv("LARDER_PRELOAD_LIB");
	char self[PATH_MAX], candidate[PATH_MAX + 64];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash;

	if (override) {
		snprintf(path, size, "%s", override);
		return access(path, R_OK);
	}
	if (n < 0)
		return -1;
	self[n] = 0;
	slash = strrchr(self, '/');
	*slash = 0;
	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		char *real;

		snprintf(candidate, sizeof(candidate), "%s/%s", self, places[i]);
		real = realpath(candidate, NULL);
		if (real && (size_t)snprintf(path, size, "%s", real) < size) {
			free(real);
			return 0;
		}
		free(real);
	}
	return -1;
}
