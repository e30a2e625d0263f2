/*
 * /proc/self/maps. See proc_maps.h. A line is
 *   start-end rwxp offset device inode      name
 * with numbers in hexadecimal; the name may be missing.
 */
#include "proc_maps.h"

#include "sys.h"

enum { BUFFER_BYTES = 4096 };

struct reader {
	int fd;
	long at, bytes;
	char buffer[BUFFER_BYTES];
};

/* The next character, or -1 at the end. */
static int next(struct reader *r)
{
	if (r->at == r->bytes) {
		r->bytes = sys_read(r->fd, r->buffer, sizeof(r->buffer));
		r->at = 0;
		if (r->bytes <= 0) {
			r->bytes = 0;
			return -1;
		}
	}
	return (unsigned char)r->buffer[r->at++];
}

/* A hexadecimal number, and what ended it in *end. */
static uintptr_t number(struct reader *r, int *end)
{
	uintptr_t value = 0;

	for (;;) {
		int c = next(r);

		if (c >= '0' && c <= '9')
			value = value << 4 | (uintptr_t)(c - '0');
		else if (c >= 'a' && c <= 'f')
			value = value << 4 | (uintptr_t)(c - 'a' + 10);
		else {
			*end = c;
			return value;
		}
	}
}

/* The rest of a line: is there a name in it? Names begin with '/' or '['. */
static int rest_has_name(struct reader *r)
{
	int named = 0, c;

	while ((c = next(r)) != -1 && c != '\n')
		named |= c == '/' || c == '[';
	return named;
}

static int read_line(struct reader *r, struct proc_map *map)
{
	int end;

	map->start = number(r, &end);
	if (end != '-')
		return 0;
	map->end = number(r, &end);
	map->prot = (next(r) == 'r' ? PROT_READ : 0);
	map->prot |= (next(r) == 'w' ? PROT_WRITE : 0);
	map->prot |= (next(r) == 'x' ? PROT_EXEC : 0);
	map->has_name = rest_has_name(r);
	return 1;
}

int proc_maps_each(int (*function)(void *arg, const struct proc_map *map), void *arg)
{
	struct reader r = { .fd = (int)sys_open("/proc/self/maps", O_RDONLY | O_CLOEXEC) };
	struct proc_map map;
	int result = 0;

	if (r.fd < 0)
		return r.fd;
	while (!result && read_line(&r, &map))
		result = function(arg, &map);
	sys_close(r.fd);
	return result;
}
