/*
 * The options of `larder run` that say where pages go on a disk.
 */
#ifndef LARDER_TOOL_SWAP_H
#define LARDER_TOOL_SWAP_H

/* As given; NULL or 0 = not given. */
struct swap_options {
	const char *dir, *device, *size;
	int encrypt, none;
};

/* Do the options make sense? Looks at nothing but them. Returns 0, or EXIT_LARDER when it has complained. */
int swap_check_options(const struct swap_options *o);

/*
 * Can it be swapped there? Does what the program will do, and leaves nothing behind. Returns 0, or EXIT_LARDER when it
 * has complained.
 */
int swap_check_place(const struct swap_options *o);

/* Put the options into the environment, in the place of what is there. Returns 0, or EXIT_LARDER. */
int swap_set_environment(const struct swap_options *o);

#endif
