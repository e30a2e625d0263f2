#include "compare.h"

#include <err.h>
#include <string.h>

static void take_turn(struct table *t, struct cell *cell, const struct turn_setup *s, const char *name, unsigned run,
		      int (*finish)(struct turn *, const struct turn_setup *))
{
	struct turn *turn;

	cell->failed = turn_run(&turn, s, name, run, &cell->killed);
	if (cell->failed > 128)
		warnx("%s was ended by signal %d (%s)", name, cell->failed - 128, strsignal(cell->failed - 128));
	if (cell->failed)
		return;
	if (finish)
		cell->failed = finish(turn, s);
	if (cell->failed)
		return;
	table_add_turn(t, cell, turn, s->limit_bytes);
}

void compare_case(struct table *t, struct table_case *c, const struct turn_setup *entrants, unsigned runs,
		  int (*finish)(struct turn *, const struct turn_setup *))
{
	for (unsigned run = 0; run < runs; run++)
		for (unsigned i = 0; i < t->columns_count; i++) {
			unsigned column = (run + i) % t->columns_count;
			struct cell *cell = &c->cells[column];

			if (entrants[column].body && !cell->failed)
				take_turn(t, cell, &entrants[column], t->columns[column].name, run, finish);
		}
}
