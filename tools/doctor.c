/*
 * larder doctor: can this machine run Larder?
 */
#include "larder.h"
#include "probe.h"

#include <json-c/json.h>

#include <getopt.h>
#include <stdio.h>
#include <string.h>

static const char usage[] =
	"Usage: larder doctor [--json]\n"
	"Say whether this machine can run Larder, and what to do where it cannot.\n"
	"\n"
	"Exit status: 0 everything works; 1 Larder runs, something optional is missing; 125 Larder cannot run.\n";

static const char *const verdicts[] = { "ok", "warn", "FAIL" };

static void print_text(const struct probe_finding *f, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		printf("%-5s %-14s %s", verdicts[f[i].verdict], f[i].check, f[i].found);
		if (f[i].remedy[0])
			printf("; %s", f[i].remedy);
		putchar('\n');
	}
}

static void print_json(const struct probe_finding *f, size_t n)
{
	struct json_object *all = json_object_new_array();

	for (size_t i = 0; i < n; i++) {
		struct json_object *one = json_object_new_object();

		json_object_object_add(one, "check", json_object_new_string(f[i].check));
		json_object_object_add(one, "verdict", json_object_new_string(verdicts[f[i].verdict]));
		json_object_object_add(one, "found", json_object_new_string(f[i].found));
		json_object_object_add(one, "remedy", json_object_new_string(f[i].remedy));
		json_object_array_add(all, one);
	}
	puts(json_object_to_json_string_ext(all, JSON_C_TO_STRING_PRETTY));
	json_object_put(all);
}

int doctor_main(int argc, char **argv)
{
	static const struct option known[] = { { "json", no_argument, NULL, 'j' },
					       { "help", no_argument, NULL, 'h' },
					       { 0 } };
	struct probe_finding findings[PROBE_MAX_FINDINGS];
	enum probe_verdict worst = PROBE_OK;
	int c, json = 0;
	size_t n;

	opterr = 0;
	while ((c = getopt_long(argc, argv, "jh", known, NULL)) != -1)
		switch (c) {
		case 'j':
			json = 1;
			break;
		case 'h':
			fputs(usage, stdout);
			return 0;
		default:
			return complain("doctor", "there is no option '%s'; try larder doctor --help",
					argv[optind - 1]);
		}
	if (optind < argc)
		return complain("doctor", "'%s' is one argument too many; try larder doctor --help", argv[optind]);
	n = probe_machine(findings);
	for (size_t i = 0; i < n; i++)
		if (findings[i].verdict > worst)
			worst = findings[i].verdict;
	(json ? print_json : print_text)(findings, n);
	return worst == PROBE_FAIL ? EXIT_LARDER : worst == PROBE_WARN;
}
