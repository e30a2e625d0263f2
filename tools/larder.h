/*
 * The larder command: what its parts share.
 */
#ifndef LARDER_TOOL_H
#define LARDER_TOOL_H

/* Exit codes, as env(1) has them; anything else is the program's own, or documented with the subcommand. */
enum {
	EXIT_LARDER = 125,     /* bad usage, or this machine cannot run Larder */
	EXIT_UNSUITABLE = 126, /* PROGRAM was found but cannot be run under Larder */
	EXIT_NOT_FOUND = 127,  /* PROGRAM was not found */
};

/* Each subcommand gets argv with its own name in argv[0], and returns the exit code. */
int run_main(int argc, char **argv);
int doctor_main(int argc, char **argv);
int stat_main(int argc, char **argv);
int bench_main(int argc, char **argv);

/* "larder: COMMAND: ..." and a newline on standard error. Returns EXIT_LARDER. */
int complain(const char *command, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
