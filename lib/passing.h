/*
 * Passing descriptors from the internal threads' table to a program thread's, through a pair of sockets.
 */
#ifndef LARDER_PASSING_H
#define LARDER_PASSING_H

enum { PASSING_MOST = 4 };

/* Send n descriptors. Returns 0 or a negative errno. Any thread. */
int pass_send(int socket, const int *fds, unsigned n);

/* Receive n descriptors that have been sent; they are close-on-exec. Returns 0 or a negative errno, with none received.
 */
int pass_receive(int socket, int *fds, unsigned n);

#endif
