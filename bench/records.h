/*
 * The records of the redis job: each is a function of (seed, index, version), so what was written need not be kept to
 * check what is read.
 *
 * Nine in ten are JSON documents of names, numbers, dates, events and prose; one in ten is binary (an image, a key,
 * something already compressed). Sizes are log-uniform from 100 bytes to 4 KiB, about 1 KiB on average, and change with
 * the version, as updates of real records do. A server's pages full of them compress about 2.4 times with LZ4
 * (redis_job prints what was reached).
 */
#ifndef BENCH_RECORDS_H
#define BENCH_RECORDS_H

#include <stddef.h>
#include <stdint.h>

enum {
	RECORD_MIN_BYTES = 100,
	RECORD_MAX_BYTES = 4096,
	RECORD_ROOM_BYTES = RECORD_MAX_BYTES + 512, /* what record_value() may write to */
	RECORD_KEY_BYTES = 24,
};

/* Not 0: all values are random bytes, which nothing compresses. Set before the first record is made. */
extern int record_incompressible;

/* The key's text and length. */
size_t record_key(char key[RECORD_KEY_BYTES], uint32_t index);

/* The size that record_value() will return. */
size_t record_bytes(uint64_t seed, uint32_t index, uint32_t version);

/* Write the record; returns its size. */
size_t record_value(char value[RECORD_ROOM_BYTES], uint64_t seed, uint32_t index, uint32_t version);

/* The same, but always a JSON document. */
size_t record_document(char value[RECORD_ROOM_BYTES], uint64_t seed, uint32_t index, uint32_t version);

#endif
