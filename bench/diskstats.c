#include "diskstats.h"

#include <math.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

enum { SECTOR_BYTES = 512 };

double diskstats_written_bytes(const char *dir)
{
	unsigned long long sectors;
	double bytes = NAN;
	struct stat st;
	char line[512];
	unsigned ma, mi;
	FILE *f;

	if (stat(dir, &st))
		return NAN;
	f = fopen("/proc/diskstats", "re");
	/* major, minor, name; reads: completed, merged, sectors, ms; writes: completed, merged, sectors */
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "%u %u %*s %*u %*u %*u %*u %*u %*u %llu", &ma, &mi, &sectors) == 3 &&
		    makedev(ma, mi) == st.st_dev)
			bytes = (double)sectors * SECTOR_BYTES;
	if (f)
		fclose(f);
	return bytes;
}
