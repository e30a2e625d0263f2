#include "contender.h"

#include <err.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

enum { CHUNK_PAGES = 4096 };

size_t contender_present_pages(const char *buffer, size_t bytes)
{
	static uint64_t entries[CHUNK_PAGES];
	size_t pages = bytes / CONTENDER_PAGE_BYTES, present = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	for (size_t at = 0; at < pages;) {
		off_t offset = (off_t)(((uintptr_t)buffer / CONTENDER_PAGE_BYTES + at) * sizeof(entries[0]));
		size_t want = pages - at < CHUNK_PAGES ? pages - at : CHUNK_PAGES;
		ssize_t n = pread(fd, entries, want * sizeof(entries[0]), offset);

		if (n <= 0)
			err(2, "cannot read /proc/self/pagemap");
		for (size_t i = 0; i < (size_t)n / sizeof(entries[0]); i++)
			present += entries[i] >> 63;
		at += (size_t)n / sizeof(entries[0]);
	}
	close(fd);
	return present;
}

char *contender_map(size_t bytes)
{
	char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		err(2, "no memory");
	madvise(p, bytes, MADV_NOHUGEPAGE);
	return p;
}
