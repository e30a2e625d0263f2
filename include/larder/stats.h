/*
 * What a process under Larder tells about itself.
 *
 * A managed process keeps one `struct larder_stats` in a mapping whose name in /proc/PID/maps is
 * "/memfd:larder-stats (deleted)"; it vanishes with the process. `larder stat` finds it there and copies it with
 * process_vm_readv(2), so reading needs the permission that ptrace(2) would need and costs the process nothing.
 *
 * Every counter is written with relaxed atomics by several threads. A copy is not a snapshot: sums over fields may be
 * off by what happened while it was read. Gauges say what is now; counters only grow.
 */
#ifndef LARDER_STATS_H
#define LARDER_STATS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LARDER_STATS_MAGIC   0x31726472616cull /* "lardr1" */
#define LARDER_STATS_VERSION 4u
#define LARDER_STATS_NAME    "larder-stats"

/*
 * Fault-service latencies, in log-linear buckets as in HdrHistogram: below 2^SUB_BITS ns a bucket is 1 ns wide; above,
 * every power of two is split into 2^SUB_BITS equal buckets, so a bucket is at most 1/2^SUB_BITS (12.5 %) wide.
 * Bucket b holds values v with larder_latency_floor_ns(b) <= v < larder_latency_floor_ns(b + 1).
 */
enum { LARDER_LATENCY_SUB_BITS = 3, LARDER_LATENCY_BUCKETS = 320 };

static inline uint64_t larder_latency_floor_ns(unsigned bucket)
{
	unsigned sub = 1u << LARDER_LATENCY_SUB_BITS;

	if (bucket < sub)
		return bucket;
	return (uint64_t)(sub + bucket % sub) << (bucket / sub - 1);
}

enum larder_page_kind {				/* index of `pages`: where the content of a managed page is */
			LARDER_PAGES_UNTRACKED, /* handed to the allocator, not watched: no pressure has reached them.
						   May be resident. */
			LARDER_PAGES_RESIDENT,	/* in the program's mapping */
			LARDER_PAGES_STAGED,	/* unmapped, still in RAM uncompressed */
			LARDER_PAGES_STORED,	/* in a tier */
			LARDER_PAGES_SAME,	/* stored as one repeated word: no space taken */
			LARDER_PAGES_POISONED,	/* lost; a touch gets SIGBUS */
			LARDER_PAGES_KINDS
};

enum { LARDER_TIERS_MAX = 4, LARDER_TIER_NAME_BYTES = 16 };

struct larder_tier_stats {
	char name[LARDER_TIER_NAME_BYTES]; /* "" = no such tier */
	/* gauges */
	uint64_t objects;	 /* pages held */
	uint64_t stored_bytes;	 /* their compressed size */
	uint64_t occupied_bytes; /* space taken for them, in RAM or on disk */
	uint64_t metadata_bytes; /* RAM for the tier's own tables */
	/* counters */
	uint64_t puts, gets, drops;
	uint64_t rejected; /* pages that the tier would not gain by holding (incompressible) */
	uint64_t errors;   /* puts or gets that failed otherwise */
};

/* The tier on disk: what the device does. Latencies are in buckets as above, from submission to completion. */
struct larder_disk_stats {
	/* gauges */
	uint64_t limit_bytes; /* how large it may become; 0 = there is none */
	uint64_t is_device;   /* 1: a block device, 0: a file */
	uint64_t is_encrypted;
	uint64_t reads_in_flight, writes_in_flight;
	uint64_t refusing; /* 0, or the errno for which nothing is written for a while */
	/* counters */
	uint64_t reads, read_bytes, read_errors;
	uint64_t writes, write_bytes, write_errors;
	uint64_t peak_reads_in_flight;
	uint64_t retries;	/* reads tried again: the device said error, or the content was not what was written */
	uint64_t mismatches;	/* reads whose content was not what was written */
	uint64_t refused;	/* pages that stayed in RAM because a write failed or could not be tried */
	uint64_t cleaned_bytes; /* live objects moved together, to free the space between them */
	uint64_t freed_bytes;	/* space given back to the filesystem */
	uint64_t read_latency[LARDER_LATENCY_BUCKETS];
	uint64_t write_latency[LARDER_LATENCY_BUCKETS];
};

/* Priorities of volatile memory: what goes first. OBSOLETE is of no use any more; 0 goes next, 7 last. */
enum { LARDER_PRIORITY_OBSOLETE = -1, LARDER_PRIORITY_MIN = 0, LARDER_PRIORITY_MAX = 7 };
enum { LARDER_PRIORITIES = LARDER_PRIORITY_MAX - LARDER_PRIORITY_OBSOLETE + 1 };

/* How short memory is outside the process. Warning purges priorities below 2, urgent those below 5, critical all. */
enum { LARDER_SYSTEM_WARNING, LARDER_SYSTEM_URGENT, LARDER_SYSTEM_CRITICAL, LARDER_SYSTEM_LEVELS };

/* Volatile memory of one priority. */
struct larder_volatile_stats {
	uint64_t bytes;	       /* gauge: volatile now, lost or not */
	uint64_t lost_bytes;   /* gauge: of those, lost */
	uint64_t marks;	       /* counters: ranges marked */
	uint64_t hits;	       /* pins and larder_nonvolatile() calls that found all of it */
	uint64_t losses;       /* ... that found something lost */
	uint64_t refills;      /* units made again by the callback */
	uint64_t purges;       /* units purged */
	uint64_t purged_bytes; /* their size */
};

struct larder_stats {
	uint64_t magic;	  /* LARDER_STATS_MAGIC, written last */
	uint32_t version; /* LARDER_STATS_VERSION */
	uint32_t bytes;	  /* sizeof this struct */
	int32_t pid;	  /* whose numbers these are: a forked child has a page of its own */
	uint32_t page_bytes;

	/* the limit; gauges */
	uint64_t limit_bytes;		/* in force now; 0 = none */
	uint32_t limit_percent;		/* when the limit was given as N%; else 0 */
	uint32_t limit_unmet;		/* 1 while the limit cannot be held (nothing more can be reclaimed) */
	uint64_t low_bytes, high_bytes; /* reclaim starts above high and stops at low */
	uint64_t usage_bytes; /* what counts against the limit: untracked + resident + staged + tiers + metadata, and
				 other */
	uint64_t other_bytes; /* the rest of the process's RSS when last measured; what exceeds 4 % of the limit counts,
				 up to 1/8 */
	uint64_t peak_usage_bytes;
	uint64_t metadata_bytes;  /* page table, staging table, stacks, this page; without the tiers' */
	uint64_t reserved_bytes;  /* address space of the region */
	uint64_t allocated_bytes; /* handed to the allocator */
	uint64_t pages[LARDER_PAGES_KINDS];

	/* fault service; counters */
	uint64_t faults;	   /* faults served */
	uint64_t faults_zero;	   /* first touches of pages that held nothing */
	uint64_t faults_staged;	   /* touched while staged: back without decompression */
	uint64_t faults_stored;	   /* major faults: fetched from a tier (same-filled pages included) */
	uint64_t faults_raced;	   /* page was already back, or busy; the thread was woken to look again */
	uint64_t faults_throttled; /* put off until reclaim had made room */
	uint64_t fault_around;	   /* neighbours brought back without a fault of their own */
	uint64_t refaults;	   /* pages that came back from a tier, by fault or fault-around */
	uint64_t fault_latency[LARDER_LATENCY_BUCKETS]; /* from message read to page mapped; one fault in 8 is timed,
							   and counts 8 times */

	/* reclaim; counters */
	uint64_t staged;	     /* pages moved out of the mapping */
	uint64_t staged_by_handlers; /* of those, pages moved by a handler before it served a fault */
	uint64_t moves;		     /* UFFDIO_MOVE calls that moved them: each is a TLB shootdown */
	uint64_t evictions;	     /* pages put into a tier or kept as same-filled */
	uint64_t same_filled;	     /* of those, pages stored as one word */
	uint64_t incompressible;     /* pages put back because no tier gains by them */
	uint64_t move_busy;	     /* pages refused by UFFDIO_MOVE with EBUSY: pinned for DMA or shared after fork */
	uint64_t move_uncounted;     /* pages that UFFDIO_MOVE moved without saying so */
	uint64_t unshared;	     /* pages that a fork had left shared, made movable again */
	uint64_t purges;	     /* times the allocator was asked to give back what it holds free */
	uint64_t discarded;	     /* pages dropped because the allocator or the program let them go */
	uint64_t adopted;	     /* 2 MiB chunks put under watch */
	uint64_t pressure_waits;     /* extent allocations that waited for reclaim */
	uint64_t pressure_wait_ns;
	uint64_t limit_unmet_events;
	uint64_t forks;	     /* forks of this process */
	uint64_t reclaim_ns; /* time the reclaimer was at work */

	struct larder_tier_stats tiers[LARDER_TIERS_MAX];

	/* the tier on disk, which is one of `tiers` */
	struct larder_disk_stats disk;
	uint64_t copies; /* gauge: pages in RAM, compressed or not, with a copy on disk that may still be the same */
	uint64_t compressed_limit_bytes; /* gauge: what compressed pages may take in RAM before some go on to disk */
	uint64_t demoted;		 /* counters: pages that went on from RAM, compressed, to disk */
	uint64_t direct;		 /* pages that went straight to disk, because they do not compress */
	uint64_t clean_evictions; /* pages that went to disk without a write: the copy there was still the same */
	uint64_t readahead;	  /* pages read from disk before they were asked for */

	/* volatile memory of all pools; [0] = obsolete, [1 + p] = priority p. Up to a second behind. */
	struct larder_volatile_stats volatiles[LARDER_PRIORITIES];
	uint64_t system_pressure[LARDER_SYSTEM_LEVELS]; /* counters: times that memory was short outside the process */
};

#ifdef __cplusplus
}
#endif
#endif
