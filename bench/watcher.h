/*
 * A second process that puts the machine back as it was when a benchmark ends, however that ends: a third one, which
 * nobody knows of, does it when the watcher is killed, too.
 */
#ifndef BENCH_WATCHER_H
#define BENCH_WATCHER_H

/*
 * Go on in a child process; the caller's process becomes the watcher and never returns: it forwards the signals that
 * end programs, calls undo() when the child has ended, and exits as the child did. Call it before there are threads.
 * What undo() needs to know must be known by then.
 */
void watcher_begin(void (*undo)(void));

#endif
