/*
 * Can a program be run with a preloaded object? See program.h.
 */
#include "program.h"

#include "larder.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { SCRIPT_DEPTH_MAX = 4, PHNUM_MAX = 128 };

static const char glibc_loader[] = "ld-linux-x86-64.so.2";

struct verdict {
	char *why;
	size_t size;
};

#define REFUSE(v, code, ...) (snprintf((v)->why, (v)->size, __VA_ARGS__), (code))

static int is_program(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISREG(st.st_mode) && access(path, X_OK) == 0;
}

static int join(char *path, size_t size, const char *dir, size_t dir_length, const char *name)
{
	int n = dir_length ? snprintf(path, size, "%.*s/%s", (int)dir_length, dir, name)
			   : snprintf(path, size, "%s", name);

	return n > 0 && (size_t)n < size;
}

/* As execvp: a name with a slash is a path; else each directory of PATH. Remembers a file that is there but not
 * executable. */
static int find(const char *name, char *path, size_t size, struct verdict *v)
{
	const char *dirs = getenv("PATH");
	int seen = 0;

	if (strchr(name, '/')) {
		if (!join(path, size, "", 0, name) || access(path, F_OK) < 0)
			return REFUSE(v, EXIT_NOT_FOUND, "there is no '%s'; check the path", name);
		if (!is_program(path))
			return REFUSE(v, EXIT_UNSUITABLE,
				      "'%s' is not an executable file; chmod +x it, or name another", name);
		return 0;
	}
	if (!dirs)
		dirs = "/bin:/usr/bin";
	for (;;) {
		size_t length = strcspn(dirs, ":");

		if (join(path, size, dirs, length, name) && access(path, F_OK) == 0) {
			if (is_program(path))
				return 0;
			seen = 1;
		}
		if (!dirs[length])
			break;
		dirs += length + 1;
	}
	if (seen)
		return REFUSE(v, EXIT_UNSUITABLE, "'%s' is on the PATH but not an executable file; chmod +x it", name);
	return REFUSE(v, EXIT_NOT_FOUND, "'%s' is not on the PATH; install it or give its path", name);
}

/* The loader ignores LD_PRELOAD when executing the file changes the user, the group or the capabilities. */
static int check_privileges(const char *path, struct verdict *v)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return REFUSE(v, EXIT_UNSUITABLE, "'%s': %s", path, strerror(errno));
	if ((st.st_mode & S_ISUID && st.st_uid != geteuid()) || (st.st_mode & S_ISGID && st.st_gid != getegid()))
		return REFUSE(v, EXIT_UNSUITABLE,
			      "'%s' is setuid or setgid, so nothing can be preloaded; run it as its owner", path);
	if (geteuid() != 0 && getxattr(path, "security.capability", NULL, 0) > 0)
		return REFUSE(v, EXIT_UNSUITABLE,
			      "'%s' has file capabilities, so nothing can be preloaded; run it as root", path);
	return 0;
}

/* The dynamic loader named in the file into `interpreter`, "" when there is none. */
static void read_interpreter(int fd, const Elf64_Ehdr *header, char *interpreter, size_t size)
{
	Elf64_Phdr segments[PHNUM_MAX];
	size_t n = header->e_phnum < PHNUM_MAX ? header->e_phnum : PHNUM_MAX;

	interpreter[0] = 0;
	if (pread(fd, segments, n * sizeof(*segments), (off_t)header->e_phoff) != (ssize_t)(n * sizeof(*segments)))
		return;
	for (size_t i = 0; i < n; i++)
		if (segments[i].p_type == PT_INTERP) {
			size_t length = segments[i].p_filesz < size - 1 ? segments[i].p_filesz : size - 1;
			ssize_t got = pread(fd, interpreter, length, (off_t)segments[i].p_offset);

			interpreter[got > 0 ? got : 0] = 0;
			return;
		}
}

static int check_elf(int fd, const char *path, const Elf64_Ehdr *header, struct verdict *v)
{
	char interpreter[PATH_MAX];

	if (header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_machine != EM_X86_64)
		return REFUSE(v, EXIT_UNSUITABLE, "'%s' is not an x86-64 program; build it for x86-64", path);
	read_interpreter(fd, header, interpreter, sizeof(interpreter));
	if (!interpreter[0])
		return REFUSE(v, EXIT_UNSUITABLE,
			      "'%s' is statically linked, so nothing can be preloaded; link it dynamically", path);
	if (!strstr(interpreter, glibc_loader))
		return REFUSE(v, EXIT_UNSUITABLE, "'%s' uses the loader %.100s, not glibc's; build it for glibc", path,
			      interpreter);
	return 0;
}

static int check_file(const char *path, int depth, struct verdict *v);

/* "#!/usr/bin/env python3" runs python3: look at that, when it is there. */
static int check_script(char *line, const char *path, int depth, struct verdict *v)
{
	char *interpreter = strtok(line, " \t"), *argument = strtok(NULL, " \t"), found[PATH_MAX];
	const char *base;
	int err;

	if (!interpreter)
		return REFUSE(v, EXIT_UNSUITABLE, "'%s' names no interpreter behind #!; name one", path);
	if (!is_program(interpreter))
		return REFUSE(v, EXIT_UNSUITABLE, "'%s' needs the interpreter '%s', which is not there; install it",
			      path, interpreter);
	base = strrchr(interpreter, '/');
	if (base && !strcmp(base, "/env") && argument && argument[0] != '-') {
		err = find(argument, found, sizeof(found), v);
		return err ? err : check_file(found, depth + 1, v);
	}
	return check_file(interpreter, depth + 1, v);
}

static int check_contents(int fd, const char *path, int depth, struct verdict *v)
{
	union {
		Elf64_Ehdr elf;
		char text[512];
	} head = { 0 };
	ssize_t n = pread(fd, &head, sizeof(head) - 1, 0);

	if (n >= (ssize_t)sizeof(head.elf) && !memcmp(head.elf.e_ident, ELFMAG, SELFMAG))
		return check_elf(fd, path, &head.elf, v);
	if (n > 2 && head.text[0] == '#' && head.text[1] == '!') {
		head.text[strcspn(head.text, "\n")] = 0;
		return check_script(head.text + 2, path, depth, v);
	}
	return REFUSE(v, EXIT_UNSUITABLE, "'%s' is neither a program nor a script with #!; run it by its interpreter",
		      path);
}

static int check_file(const char *path, int depth, struct verdict *v)
{
	int err = depth > SCRIPT_DEPTH_MAX ? REFUSE(v, EXIT_UNSUITABLE, "'%s': interpreters nest too deep", path)
					   : check_privileges(path, v);
	int fd;

	if (err)
		return err;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) /* executable but not readable: nothing can be said of it, so let it run */
		return 0;
	err = check_contents(fd, path, depth, v);
	close(fd);
	return err;
}

int program_check(const char *name, char *path, size_t path_size, char *why, size_t why_size)
{
	struct verdict v = { why, why_size };
	int err = find(name, path, path_size, &v);

	return err ? err : check_file(path, 0, &v);
}
