#include "machine.h"

#include "sysfile.h"

#include <larder/larder.h>

#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

static const char *cpu_model(void)
{
	static char line[256];
	FILE *f = fopen("/proc/cpuinfo", "re");
	char *colon;

	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, "model name", 10) && (colon = strstr(line, ": ")) != NULL) {
			fclose(f);
			colon[strcspn(colon, "\n")] = 0;
			return colon + 2;
		}
	if (f)
		fclose(f);
	return "an unknown CPU";
}

static uint64_t ram_bytes(void)
{
	return sysfile_kib_field("/proc/meminfo", "MemTotal");
}

static long cpus(void)
{
	return sysconf(_SC_NPROCESSORS_ONLN);
}

struct json_object *machine_json(void)
{
	struct json_object *o = json_object_new_object();
	struct utsname u;
	char when[32];
	time_t now = time(NULL);

	uname(&u);
	strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", gmtime(&now));
	json_object_object_add(o, "larder", json_object_new_string(larder_version()));
	json_object_object_add(o, "kernel", json_object_new_string(u.release));
	json_object_object_add(o, "cpu", json_object_new_string(cpu_model()));
	json_object_object_add(o, "cpus", json_object_new_int64(cpus()));
	json_object_object_add(o, "ram_bytes", json_object_new_int64((int64_t)ram_bytes()));
	json_object_object_add(o, "time", json_object_new_string(when));
	return o;
}

const char *machine_text(void)
{
	static char text[512];
	struct utsname u;

	uname(&u);
	snprintf(text, sizeof(text), "Linux %s, %ld CPUs (%s), %.1f GiB RAM, Larder %s", u.release, cpus(), cpu_model(),
		 (double)ram_bytes() / (1 << 30), larder_version());
	return text;
}
