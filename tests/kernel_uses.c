/*
 * The kernel as a user of the program's memory: system calls read from and write to pages that have been taken out, or
 * are being taken out at that moment, and pages that it has pinned stay where they are.
 *
 *   kernel_uses [--seconds N]
 *
 * An unmodified program, to be run with a limit of a fraction of its 64 MiB. Each round of each use draws new buffers
 * from them, while a thread goes through all of them, so that they do not stay. Exit status: 0, 1 something is wrong, 2
 * usage. The seed is printed.
 */
#include "mix.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <liburing.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

enum { PAGE = 4096, BUFFER_BYTES = 32 << 10, BUFFERS = (64 << 20) / BUFFER_BYTES, WORDS = BUFFER_BYTES / 8 };
enum { PIPE_BYTES = 16 << 10, HANG_SECONDS = 60 };

static uint64_t *buffers[BUFFERS]; /* [0, BUFFERS / 2): the uses' ; the rest: the other thread's */
static uint64_t random_state;
static _Atomic int stop;
static int file = -1;

__attribute__((noreturn)) static void fail(const char *what)
{
	fprintf(stderr, "kernel_uses: %s (errno %d)\n", what, errno);
	_exit(1);
}

static void expect(int condition, const char *what)
{
	if (!condition)
		fail(what);
}

static void fill(uint64_t *buffer, uint64_t seed)
{
	for (size_t i = 0; i < WORDS; i++)
		buffer[i] = i % 4 ? seed : mix(seed + i);
}

static int is_filled(const uint64_t *buffer, size_t words, uint64_t seed)
{
	for (size_t i = 0; i < words; i++)
		if (((const volatile uint64_t *)buffer)[i] != (i % 4 ? seed : mix(seed + i)))
			return 0;
	return 1;
}

static uint64_t *draw(void)
{
	return buffers[mix(random_state++) % (BUFFERS / 2)];
}

/* Two different ones. */
static void draw_pair(uint64_t **a, uint64_t **b)
{
	*a = draw();
	do
		*b = draw();
	while (*a == *b);
}

/* Makes the uses' buffers the coldest: touches its own, over and over. */
static void *push_out(void *arg)
{
	uint64_t round = 0;

	(void)arg;
	while (!stop)
		for (size_t i = BUFFERS / 2; i < BUFFERS && !stop; i++) {
			expect(round == 0 || is_filled(buffers[i], WORDS, round + i), "the other thread's buffer");
			fill(buffers[i], round + 1 + i);
			round += i == BUFFERS - 1;
		}
	return NULL;
}

/* ---- uses ---- */

static void read_and_write(uint64_t seed)
{
	uint64_t *from, *to;
	int ends[2];

	draw_pair(&from, &to);
	fill(from, seed);
	expect(pipe(ends) == 0, "pipe");
	expect(write(ends[1], from, PIPE_BYTES) == PIPE_BYTES, "write to a pipe");
	expect(read(ends[0], to, PIPE_BYTES) == PIPE_BYTES, "read from a pipe");
	expect(is_filled(to, PIPE_BYTES / 8, seed), "what a pipe carried");
	close(ends[0]);
	close(ends[1]);
	expect(pwrite(file, from, BUFFER_BYTES, 0) == BUFFER_BYTES, "pwrite");
	expect(pread(file, to, BUFFER_BYTES, 0) == BUFFER_BYTES, "pread");
	expect(is_filled(to, WORDS, seed), "what a file held");
}

static void vectors_and_messages(uint64_t seed)
{
	uint64_t *from[2], *to[2];
	struct iovec out[2], in[2];
	struct msghdr message = { .msg_iov = out, .msg_iovlen = 2 }, answer = { .msg_iov = in, .msg_iovlen = 2 };
	int ends[2];

	for (int i = 0; i < 2; i++) {
		draw_pair(&from[i], &to[i]);
		out[i] = (struct iovec){ from[i], PIPE_BYTES };
		in[i] = (struct iovec){ to[i], PIPE_BYTES };
	}
	if (from[0] == from[1] || to[0] == to[1] || from[0] == to[1] || from[1] == to[0])
		return;
	fill(from[0], seed);
	fill(from[1], seed + 1);
	expect(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0, "socketpair");
	expect(sendmsg(ends[0], &message, 0) == (ssize_t)2 * PIPE_BYTES, "sendmsg");
	expect(recvmsg(ends[1], &answer, MSG_WAITALL) == (ssize_t)2 * PIPE_BYTES, "recvmsg");
	expect(is_filled(to[0], PIPE_BYTES / 8, seed) && is_filled(to[1], PIPE_BYTES / 8, seed + 1), "a message");
	expect(pwritev(file, out, 2, 0) == (ssize_t)2 * PIPE_BYTES, "pwritev");
	fill(to[0], 0);
	fill(to[1], 0);
	expect(preadv(file, in, 2, 0) == (ssize_t)2 * PIPE_BYTES, "preadv");
	expect(is_filled(to[0], PIPE_BYTES / 8, seed) && is_filled(to[1], PIPE_BYTES / 8, seed + 1), "a vector");
	close(ends[0]);
	close(ends[1]);
}

/* The device itself reads from and writes to the pages. */
static void direct(uint64_t seed)
{
	uint64_t *from, *to;
	int fd = open("/proc/self/fd/3", O_RDWR | O_DIRECT);

	if (fd < 0)
		return; /* the file system has none */
	draw_pair(&from, &to);
	fill(from, seed);
	expect(pwrite(fd, from, BUFFER_BYTES, 0) == BUFFER_BYTES, "direct write");
	expect(pread(fd, to, BUFFER_BYTES, 0) == BUFFER_BYTES, "direct read");
	expect(is_filled(to, WORDS, seed), "what was written directly");
	close(fd);
}

/* Pinned for as long as they are registered: the kernel writes to the pages, wherever the program's addresses point. */
static void fixed_buffers(uint64_t seed)
{
	static struct io_uring ring;
	static struct iovec fixed[8];
	static int rounds, works;
	unsigned n = mix(seed) % 8;
	struct io_uring_cqe *cqe;

	if (rounds == 0) {
		for (int i = 0; i < 8; i++)
			fixed[i] = (struct iovec){ aligned_alloc(PAGE, BUFFER_BYTES), BUFFER_BYTES };
		works = io_uring_queue_init(8, &ring, 0) == 0 && io_uring_register_buffers(&ring, fixed, 8) == 0;
	}
	rounds++;
	if (!works)
		return;
	fill(fixed[n].iov_base, seed);
	for (int is_read = 0; is_read < 2; is_read++) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

		if (is_read)
			io_uring_prep_read_fixed(sqe, file, fixed[(n + 1) % 8].iov_base, BUFFER_BYTES, 0,
						 (int)(n + 1) % 8);
		else
			io_uring_prep_write_fixed(sqe, file, fixed[n].iov_base, BUFFER_BYTES, 0, (int)n);
		expect(io_uring_submit_and_wait(&ring, 1) == 1 && io_uring_wait_cqe(&ring, &cqe) == 0, "io_uring");
		expect(cqe->res == BUFFER_BYTES, "a fixed buffer's transfer");
		io_uring_cqe_seen(&ring, cqe);
	}
	expect(is_filled(fixed[(n + 1) % 8].iov_base, WORDS, seed), "what was read into a fixed buffer");
}

/* Another process reads and writes this one's memory. */
static void other_process(uint64_t seed)
{
	uint64_t *buffer = draw();
	pid_t parent = getpid(), pid;
	int status;

	fill(buffer, seed);
	pid = fork();
	if (pid == 0) {
		static uint64_t copy[WORDS];
		struct iovec here = { copy, BUFFER_BYTES }, there = { buffer, BUFFER_BYTES };

		expect(process_vm_readv(parent, &here, 1, &there, 1, 0) == BUFFER_BYTES, "process_vm_readv");
		expect(is_filled(copy, WORDS, seed), "what another process read");
		fill(copy, seed + 1);
		expect(process_vm_writev(parent, &here, 1, &there, 1, 0) == BUFFER_BYTES, "process_vm_writev");
		_exit(0);
	}
	expect(waitpid(pid, &status, 0) == pid && status == 0, "the other process");
	expect(is_filled(buffer, WORDS, seed + 1), "what another process wrote");
}

static _Atomic uint32_t *word;

static void *wake(void *arg)
{
	(void)arg;
	usleep(2000);
	*word = 1;
	syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
	return NULL;
}

static void futexes(uint64_t seed)
{
	pthread_t waker;

	(void)seed;
	word = (_Atomic uint32_t *)(void *)draw();
	*word = 0;
	pthread_create(&waker, NULL, wake, NULL);
	while (*word == 0) /* not a private one: found by what the page is */
		syscall(SYS_futex, word, FUTEX_WAIT, 0, &(struct timespec){ .tv_sec = 20 }, NULL, 0);
	pthread_join(waker, NULL);
}

static void pages_in_a_pipe(uint64_t seed)
{
	uint64_t *from, *to;
	struct iovec pages;
	int ends[2];

	draw_pair(&from, &to);
	fill(from, seed);
	pages = (struct iovec){ from, PIPE_BYTES };
	expect(pipe(ends) == 0, "pipe");
	expect(vmsplice(ends[1], &pages, 1, 0) == PIPE_BYTES, "vmsplice");
	usleep(1000);
	expect(read(ends[0], to, PIPE_BYTES) == PIPE_BYTES, "read what was spliced");
	expect(is_filled(to, PIPE_BYTES / 8, seed), "what was spliced");
	close(ends[0]);
	close(ends[1]);
}

static volatile uint64_t on_stack;

static void on_signal(int signal)
{
	volatile uint64_t there[512];

	(void)signal;
	for (int i = 0; i < 512; i++)
		there[i] = mix((uint64_t)i);
	for (int i = 0; i < 512; i++)
		on_stack += there[i] == mix((uint64_t)i);
}

/* The kernel puts the signal's frame on pages that are away. */
static void signal_stack(uint64_t seed)
{
	struct sigaction action = { .sa_handler = on_signal, .sa_flags = SA_ONSTACK };
	stack_t stack = { .ss_sp = draw(), .ss_size = BUFFER_BYTES };

	(void)seed;
	on_stack = 0;
	expect(sigaction(SIGUSR1, &action, NULL) == 0 && sigaltstack(&stack, NULL) == 0, "sigaltstack");
	raise(SIGUSR1);
	expect(on_stack == 512, "a signal's stack");
	stack.ss_flags = SS_DISABLE;
	sigaltstack(&stack, NULL);
}

static void *on_own_stack(void *arg)
{
	volatile uint64_t here[1024];

	for (int i = 0; i < 1024; i++)
		here[i] = mix((uint64_t)i);
	usleep(3000); /* its stack may go */
	for (int i = 0; i < 1024; i++)
		*(volatile uint64_t *)arg += here[i] == mix((uint64_t)i);
	return NULL;
}

static void thread_stack(uint64_t seed)
{
	volatile uint64_t good = 0;
	pthread_attr_t attr;
	pthread_t thread;

	(void)seed;
	pthread_attr_init(&attr);
	expect(pthread_attr_setstack(&attr, draw(), BUFFER_BYTES) == 0, "pthread_attr_setstack");
	expect(pthread_create(&thread, &attr, on_own_stack, (void *)&good) == 0, "a thread");
	pthread_join(thread, NULL);
	pthread_attr_destroy(&attr);
	expect(good == 1024, "a thread's stack");
}

/* Locked pages never leave, and can be let go again. */
static void locked(uint64_t seed)
{
	unsigned char is_there[BUFFER_BYTES / PAGE];
	uint64_t *buffer = draw();

	fill(buffer, seed);
	if (mlock(buffer, BUFFER_BYTES))
		return; /* RLIMIT_MEMLOCK */
	usleep(3000);
	expect(mincore(buffer, BUFFER_BYTES, is_there) == 0, "mincore");
	for (size_t i = 0; i < sizeof(is_there); i++)
		expect(is_there[i] & 1, "a locked page is away");
	expect(is_filled(buffer, WORDS, seed), "locked memory");
	expect(munlock(buffer, BUFFER_BYTES) == 0, "munlock");
}

static const struct {
	const char *name;
	void (*once)(uint64_t seed);
} uses[] = {
	{ "read and write", read_and_write },
	{ "vectors and messages", vectors_and_messages },
	{ "direct I/O", direct },
	{ "io_uring's fixed buffers", fixed_buffers },
	{ "another process", other_process },
	{ "futex", futexes },
	{ "vmsplice", pages_in_a_pipe },
	{ "signal stack", signal_stack },
	{ "thread stack", thread_stack },
	{ "mlock", locked },
};

enum { USES = sizeof(uses) / sizeof(uses[0]) };

static void on_alarm(int signal)
{
	static const char message[] = "kernel_uses: hangs\n";

	(void)signal;
	if (write(STDERR_FILENO, message, sizeof(message) - 1) > 0)
		abort();
	_exit(1);
}

int main(int argc, char **argv)
{
	static const struct option known[] = { { "seconds", required_argument, NULL, 's' }, { 0 } };
	const char *dir = getenv("TMPDIR");
	uint64_t seed, rounds = 0;
	unsigned seconds = 10;
	pthread_t pusher;
	time_t end;
	int c;

	while ((c = getopt_long(argc, argv, "", known, NULL)) != -1)
		if (c == 's')
			seconds = (unsigned)strtoul(optarg, NULL, 10);
		else
			return 2;
	seed = random_state = (uint64_t)time(NULL) << 20 ^ (uint64_t)getpid();
	printf("kernel_uses: seed 0x%" PRIx64 "\n", seed);
	fflush(stdout);
	signal(SIGALRM, on_alarm);
	alarm(seconds + HANG_SECONDS);
	file = open(dir ? dir : "/var/tmp", O_TMPFILE | O_RDWR, 0600);
	expect(file >= 0 && dup2(file, 3) == 3, "a file");
	for (size_t i = 0; i < BUFFERS; i++) {
		buffers[i] = aligned_alloc(PAGE, BUFFER_BYTES);
		expect(buffers[i] != NULL, "memory");
		fill(buffers[i], i);
	}
	pthread_create(&pusher, NULL, push_out, NULL);
	for (end = time(NULL) + (time_t)seconds; time(NULL) < end; rounds++)
		uses[rounds % USES].once(seed + rounds);
	stop = 1;
	pthread_join(pusher, NULL);
	printf("kernel_uses: %" PRIu64 " rounds, nothing wrong\n", rounds);
	return 0;
}
