/*
 * Can a program be run with a preloaded object? The loader ignores LD_PRELOAD without a word where it cannot, so this
 * looks first.
 */
#ifndef LARDER_PROGRAM_H
#define LARDER_PROGRAM_H

#include <stddef.h>

/*
 * Find `name` as execvp would and look into it, and into the interpreter of a script.
 * path    the file to execute
 * why     when not 0: one line, what is wrong and what to do
 * returns 0, EXIT_NOT_FOUND or EXIT_UNSUITABLE
 */
int program_check(const char *name, char *path, size_t path_size, char *why, size_t why_size);

#endif
