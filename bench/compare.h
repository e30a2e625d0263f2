/*
 * Contenders in turn: A B A B, another one first in each run.
 */
#ifndef BENCH_COMPARE_H
#define BENCH_COMPARE_H

#include "table.h"
#include "turn.h"

/*
 * All runs of one case; entrants[i] belongs to the table's column i, and one without a body does not take part. After
 * each turn `finish` (NULL = nothing) may add figures that only the orchestrator knows, and returns 0, or 1 when
 * something is wrong after all. A contender that fails is left out from then on.
 */
void compare_case(struct table *t, struct table_case *c, const struct turn_setup *entrants, unsigned runs,
		  int (*finish)(struct turn *, const struct turn_setup *));

#endif
