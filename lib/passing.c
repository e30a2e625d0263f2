/*
 * Passing descriptors. See passing.h.
 */
#include "passing.h"

#include "sys.h"

#include <sys/socket.h>

struct envelope {
	struct msghdr message;
	struct iovec content;
	char byte;
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(PASSING_MOST * sizeof(int))];
	} control;
};

/* A message must have a byte of content. */
static void address(struct envelope *e, unsigned n)
{
	e->content = (struct iovec){ &e->byte, 1 };
	e->message = (struct msghdr){
		.msg_iov = &e->content,
		.msg_iovlen = 1,
		.msg_control = &e->control,
		.msg_controllen = CMSG_SPACE(n * sizeof(int)),
	};
}

int pass_send(int socket, const int *fds, unsigned n)
{
	struct envelope e = { 0 };
	long sent;

	address(&e, n);
	e.control.header.cmsg_level = SOL_SOCKET;
	e.control.header.cmsg_type = SCM_RIGHTS;
	e.control.header.cmsg_len = CMSG_LEN(n * sizeof(int));
	__builtin_memcpy(CMSG_DATA(&e.control.header), fds, n * sizeof(int));
	sent = sys_call3(SYS_sendmsg, socket, (long)&e.message, MSG_NOSIGNAL);
	return sent < 0 ? (int)sent : 0;
}

/* Fewer than wanted: the table of the process is full. */
int pass_receive(int socket, int *fds, unsigned n)
{
	struct envelope e = { 0 };
	long received;
	unsigned got = 0;

	address(&e, n);
	received = sys_call3(SYS_recvmsg, socket, (long)&e.message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	if (received < 0)
		return (int)received;
	if (e.message.msg_controllen >= sizeof(struct cmsghdr) && e.control.header.cmsg_type == SCM_RIGHTS)
		got = (unsigned)((e.control.header.cmsg_len - CMSG_LEN(0)) / sizeof(int));
	__builtin_memcpy(fds, CMSG_DATA(&e.control.header), (got < n ? got : n) * sizeof(int));
	if (got == n)
		return 0;
	for (unsigned i = 0; i < got; i++)
		sys_close(fds[i]);
	return -EMFILE;
}
