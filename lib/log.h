/*
 * The log: one line per unusual thing, to standard error or to the file given with --log. Quiet otherwise.
 *
 * Lines come from the internal threads, whose descriptor table is their own (lib/thread.h), so the log holds its
 * own descriptor: log_open() runs on the program's thread before the first internal thread exists, log_adopt() on that
 * thread.
 */
#ifndef LARDER_LOG_H
#define LARDER_LOG_H

#include "text.h"

/* path: an absolute file name, opened for appending by log_adopt(); NULL or "" = standard error. Copied. */
void log_open(const char *path);

/* On the first internal thread, whose table holds standard error alone: open the file, if one was named, in its place.
 */
void log_adopt(void);

/* After a fork, in the child: no thread has adopted it yet. */
void log_inherit(void);

/*
 * Internal threads only: the log's descriptor means something else, or nothing, in the program's table. (A panic on a
 * program thread, the process's last word, goes to its standard error.) One line: "larder[PID]: " is put in front, a
 * newline behind.
 */
void log_line(const struct larder_text *line);
void log_string(const char *line);

/* Say why, and end the process at once (SIGABRT): an invariant is broken and going on could return wrong data. */
__attribute__((noreturn)) void log_panic(const char *what, int64_t value);

/* The program has misused a function, and this is a debug build: say what and with which error, and end the process. */
__attribute__((noreturn)) void log_misuse(const char *what, int err);

#ifdef LARDER_DEBUG
#define larder_assert(condition) ((condition) ? (void)0 : log_panic("assertion failed: " #condition, __LINE__))
#else
#define larder_assert(condition) ((void)0)
#endif

#endif
