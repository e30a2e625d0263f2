/*
 * Fork: what is done around it, on the thread that forks.
 *
 * A child must have internal threads of its own before it touches managed memory, where pages are absent; so ours is
 * the first of its handlers to run. Handlers run in the order in which they were registered (and before the fork in the
 * opposite one), so ours is registered before anybody else's: that is what __register_atfork() is interposed for. By
 * then libc itself has used its streams, and whatever it has locked for the fork; what it touched just before the fork
 * is present, since nothing leaves any more, and fork.c touches the rest. A second pair of handlers, registered after
 * the allocator's, does what needs the allocator.
 *
 * _Fork() runs no handlers, and is interposed, too. fork by a bare system call has none of this: its child must not use
 * managed memory.
 */
#ifndef LARDER_FORK_H
#define LARDER_FORK_H

/* Register what has to run first, at the latest now; and what comes after the allocator. Returns 0 or a negative errno.
 */
int fork_open(void);

/* Around a fork that runs no handlers. */
void fork_before(void);
void fork_after_in_parent(void);
void fork_after_in_child(void);

#endif
