/*
 * What a benchmark ran on: without it a figure says nothing.
 */
#ifndef BENCH_MACHINE_H
#define BENCH_MACHINE_H

#include <json-c/json.h>

/* Kernel, CPU, RAM, Larder's version, the time. The caller's. */
struct json_object *machine_json(void);

/* The same in a line; static. */
const char *machine_text(void);

#endif
