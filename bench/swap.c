#include "swap.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { PAGE_BYTES = 4096, CHUNK_BYTES = 1 << 20 };

/* Version 1, the last page's number, and the signature at the end of the first page. */
int swap_write_header(const char *path, uint64_t bytes)
{
	char page[PAGE_BYTES] = { 0 };
	uint32_t info[2] = { 1, (uint32_t)(bytes / PAGE_BYTES - 1) };
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -1;
	memcpy(page + 1024, info, sizeof(info));
	memcpy(page + PAGE_BYTES - 10, "SWAPSPACE2", 10);
	n = write(fd, page, sizeof(page));
	return close(fd) || n != sizeof(page) ? -1 : 0;
}

static int write_blocks(int fd, uint64_t bytes)
{
	static const char chunk[CHUNK_BYTES];

	for (uint64_t done = 0; done < bytes;) {
		ssize_t n = write(fd, chunk, bytes - done < CHUNK_BYTES ? bytes - done : CHUNK_BYTES);

		if (n <= 0)
			return -1;
		done += (uint64_t)n;
	}
	return fsync(fd);
}

int swap_make_file(const char *path, uint64_t bytes)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600), failed;

	if (fd < 0)
		return -1;
	failed = write_blocks(fd, bytes);
	/* What the page cache holds of it would only be in the way. */
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	return close(fd) || failed ? -1 : swap_write_header(path, bytes);
}

unsigned swap_areas(void)
{
	FILE *f = fopen("/proc/swaps", "r");
	char line[512];
	unsigned lines = 0;

	while (f && fgets(line, sizeof(line), f))
		lines++;
	if (f)
		fclose(f);
	return lines ? lines - 1 : 0; /* the first says what the columns are */
}

uint64_t swap_pages_out(void)
{
	FILE *f = fopen("/proc/vmstat", "r");
	unsigned long long pages = 0;
	char line[128];

	while (f && fgets(line, sizeof(line), f) && sscanf(line, "pswpout %llu", &pages) != 1)
		;
	if (f)
		fclose(f);
	return pages;
}
