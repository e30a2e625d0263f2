#include "ratio.h"

#include "contents.h"
#include "records.h"
#include "redis_client.h"
#include "redis_server.h"

#include <err.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { BLOCK_BYTES = 64 * RATIO_PAGE_BYTES };

void ratio_pages_open(struct ratio_pages *pages, size_t megabytes)
{
	*pages = (struct ratio_pages){ .max = (megabytes << 20) / RATIO_PAGE_BYTES };
	pages->bytes = mmap(NULL, megabytes << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (pages->bytes == MAP_FAILED)
		err(2, "no memory for %zu MiB of pages", megabytes);
}

static int is_same_filled(const char *page)
{
	return !memcmp(page, page + 8, RATIO_PAGE_BYTES - 8);
}

static void add(struct ratio_pages *pages, const char *page)
{
	if (pages->n == pages->max || is_same_filled(page))
		return;
	memcpy(pages->bytes + pages->n++ * RATIO_PAGE_BYTES, page, RATIO_PAGE_BYTES);
}

/* The bytes [at, end) of an open file; what cannot be read is left out. */
static void add_range(struct ratio_pages *pages, int fd, uint64_t at, uint64_t end)
{
	static char block[BLOCK_BYTES];

	for (; at < end && pages->n < pages->max; at += BLOCK_BYTES) {
		uint64_t bytes = end - at < BLOCK_BYTES ? end - at : BLOCK_BYTES;
		ssize_t n = pread(fd, block, bytes, (off_t)at);

		for (ssize_t i = 0; i + RATIO_PAGE_BYTES <= n; i += RATIO_PAGE_BYTES)
			add(pages, block + i);
	}
}

static int open_or_exit(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		err(2, "cannot open %s", path);
	return fd;
}

void ratio_pages_of_file(struct ratio_pages *pages, const char *path)
{
	int fd = open_or_exit(path);

	add_range(pages, fd, 0, (uint64_t)lseek(fd, 0, SEEK_END));
	close(fd);
}

void ratio_pages_of_process(struct ratio_pages *pages, pid_t pid)
{
	char path[PATH_MAX], line[PATH_MAX + 128], access[8];
	unsigned long long start, end, inode;
	FILE *maps;
	int mem;

	snprintf(path, sizeof(path), "/proc/%d/mem", (int)pid);
	mem = open_or_exit(path);
	snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
	maps = fopen(path, "r");
	if (!maps)
		err(2, "cannot open %s", path);
	while (fgets(line, sizeof(line), maps))
		if (sscanf(line, "%llx-%llx %7s %*x %*s %llu", &start, &end, access, &inode) == 4 && inode == 0 &&
		    !strcmp(access, "rw-p") && !strstr(line, "[stack]"))
			add_range(pages, mem, start, end);
	fclose(maps);
	close(mem);
}

void ratio_pages_of_redis(struct ratio_pages *pages, uint64_t seed)
{
	struct records_written written;

	server_start("/usr/bin/redis-server", NULL, NULL, NULL);
	records_plan(&written, seed, pages->max * RATIO_PAGE_BYTES);
	client_load(&written, server_socket());
	ratio_pages_of_process(pages, server_pid());
	server_stop();
	records_free(&written);
}

void ratio_pages_of_contents(struct ratio_pages *pages, const char *name, uint64_t seed)
{
	contents_fill(contents_parse(name), pages->bytes, pages->max * RATIO_PAGE_BYTES, seed);
	pages->n = pages->max;
}
