/*
 * The larder command: picks the subcommand.
 */
#include "larder.h"
#include "probe.h"

#include <larder/larder.h>

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char usage[] =
	"Usage: larder COMMAND [OPTION...]\n"
	"Run programs in less memory than they need.\n"
	"\n"
	"Commands:\n"
	"  run [--limit SIZE|N%] [--log FILE] [--] PROGRAM [ARG...]\n"
	"                run PROGRAM with its cold memory compressed\n"
	"  stat PID [--json] [--interval SECONDS [--count N]]\n"
	"                show where the memory of a running program is\n"
	"  doctor [--json]\n"
	"                say whether this machine can run Larder, and what to do if not\n"
	"  bench BENCHMARK [OPTION...]\n"
	"                measure on this machine whether Larder beats zram, zswap or a swap file; see larder-bench(1)\n"
	"\n"
	"  --help        show this text; larder COMMAND --help tells more\n"
	"  --version     show the version\n"
	"\n"
	"Exit status: the program's own; 125 if larder itself fails, 126 if PROGRAM cannot be run under Larder,\n"
	"127 if it is not found. See larder(1).\n";

int complain(const char *command, const char *format, ...)
{
	va_list args;

	fprintf(stderr, "larder: %s: ", command);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	return EXIT_LARDER;
}

static int help(void)
{
	fputs(usage, stdout);
	return 0;
}

static const struct {
	const char *name;
	int (*main)(int argc, char **argv);
} commands[] = {
	{ "run", run_main },
	{ "stat", stat_main },
	{ "doctor", doctor_main },
	{ "bench", bench_main },
};

static int dispatch(int argc, char **argv)
{
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (!strcmp(argv[0], commands[i].name))
			return commands[i].main(argc, argv);
	fprintf(stderr, "larder: there is no command '%s'; try larder --help\n", argv[0]);
	return EXIT_LARDER;
}

/* larder help COMMAND = larder COMMAND --help */
static int help_for(int argc, char **argv)
{
	char *asked[] = { argv[0], (char *)"--help", NULL };

	return argc < 1 ? help() : dispatch(2, asked);
}

int main(int argc, char **argv)
{
	if (argc < 2) {
		fputs(usage, stderr);
		return EXIT_LARDER;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))
		return help();
	if (!strcmp(argv[1], "help"))
		return help_for(argc - 2, argv + 2);
	if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V")) {
		puts("larder " LARDER_VERSION_STRING);
		return 0;
	}
	if (!strcmp(argv[1], PROBE_JEMALLOC))
		return !probe_jemalloc_is_here();
	return dispatch(argc - 1, argv + 1);
}
