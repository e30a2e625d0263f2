/*
 * The subcommands of `larder bench`. Each gets argv with its own name in argv[0] and returns the exit code: 0; 1 when a
 * contender failed or contents were not as they had been written; 2 for bad usage or when something cannot be set up.
 */
#ifndef BENCH_BENCH_H
#define BENCH_BENCH_H

int fault_main(int argc, char **argv);
int reclaim_main(int argc, char **argv);
int alloc_main(int argc, char **argv);
int fork_main(int argc, char **argv);
int app_main(int argc, char **argv);
int volatile_main(int argc, char **argv);
int report_main(int argc, char **argv);

#endif
