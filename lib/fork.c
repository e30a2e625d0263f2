/*
 * Fork. See fork.h, and inherit.h for what the child gets.
 */
#include "fork.h"

#include "api.h"
#include "mapping.h"
#include "passing.h"
#include "process.h"
#include "range.h"
#include "service.h"
#include "sys.h"

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

/* libc's list of streams, which its fork looks through: exported by glibc for the like of this, but in no header. */
extern void _IO_list_lock(void);
extern void _IO_list_unlock(void);
extern void _IO_list_resetlock(void);
extern void *_IO_iter_begin(void);
extern void *_IO_iter_end(void);
extern void *_IO_iter_next(void *);
extern FILE *_IO_iter_file(void *);

typedef int register_function(void (*)(void), void (*)(void), void (*)(void), void *);

extern void *__dso_handle;

static uint64_t signals; /* the forking thread's mask; one thread forks at a time, by the pool lock */

/* In the child libc resets every stream's lock before any handler runs. Nobody opens or closes one meanwhile. */
static void touch_streams(void)
{
	for (void *i = _IO_iter_begin(); i != _IO_iter_end(); i = _IO_iter_next(i)) {
		const volatile FILE *stream = _IO_iter_file(i);

		(void)stream->_flags;
		(void)*(const volatile char *)stream->_lock;
	}
}

static void set_signals(const uint64_t *to, uint64_t *was)
{
	sys_call6(SYS_rt_sigprocmask, SIG_SETMASK, (long)to, (long)was, sizeof(*to), 0, 0);
}

/* ---- the disk ---- */

static const int none[LARDER_LENT] = { -1, -1 };
static int lent[LARDER_LENT] = { -1, -1 }; /* like `signals` */

static int borrow(struct larder_service *s)
{
	int sockets[2];
	int64_t err;

	if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, sockets))
		return -errno;
	err = reclaim_ask(&s->reclaim, &(struct reclaim_request){ .kind = REQUEST_LEND, .fd = sockets[1] });
	if (!err)
		err = pass_receive(sockets[0], lent, LARDER_LENT);
	sys_close(sockets[0]);
	sys_close(sockets[1]);
	return (int)err;
}

/* Descriptors of the disk are in the program's table for as long as the fork takes. Without, the pages come back from
 * the disk first. */
static void borrow_disk(struct larder_service *s)
{
	int saved_errno = errno, is_lent = s->memory.store.disk && borrow(s) == 0;

	if (!is_lent)
		memcpy(lent, none, sizeof(lent));
	atomic_store(&s->reclaim.disk_is_lent, (uint32_t)is_lent);
	errno = saved_errno;
}

static void give_back_disk(void)
{
	for (unsigned i = 0; i < LARDER_LENT; i++)
		if (lent[i] >= 0)
			sys_close(lent[i]);
	memcpy(lent, none, sizeof(lent));
}

/* ---- one fork at a time ---- */

/* A handler of the program's may fork itself: then the thread has the lock already. */
static _Atomic int forking_tid; /* 0 = none */
static int forks_within;

static void lock_pools(void)
{
	if (!process_service())
		return;
	if (atomic_load(&forking_tid) == sys_gettid()) {
		forks_within++;
		return;
	}
	pool_lock();
	atomic_store(&forking_tid, sys_gettid());
}

static void unlock_pools(void)
{
	if (!process_service())
		return;
	if (forks_within > 0) {
		forks_within--;
		return;
	}
	atomic_store(&forking_tid, 0);
	pool_unlock();
}

/* ---- first in the child, last before the fork ---- */

static void rest(void)
{
	static const uint64_t all = ~(uint64_t)0;
	struct larder_service *s = process_service();

	if (!s)
		return;
	mapping_lock_for_fork(); /* before reclaim rests, for which its holder may wait */
	if (process_is_managed()) {
		borrow_disk(s);
		reclaim_freeze(&s->reclaim);
	}
	ranges_lock_all(&s->memory);
	_IO_list_lock();
	touch_streams();
	set_signals(&all, &signals); /* a signal handler must not run in the child before it has threads */
}

static void go_on(void)
{
	struct larder_service *s = process_service();

	if (!s)
		return;
	give_back_disk();
	set_signals(&signals, NULL);
	_IO_list_unlock();
	ranges_unlock_all(&s->memory);
	if (process_is_managed())
		reclaim_thaw(&s->reclaim);
	mapping_unlock_after_fork();
}

static void begin_anew(void)
{
	struct larder_service *s = process_service();

	if (!s)
		return;
	_IO_list_resetlock();
	ranges_unlock_all(&s->memory);
	mapping_unlock_after_fork();
	atomic_store(&forking_tid, sys_gettid());
	process_inherit(lent);
	give_back_disk();
	set_signals(&signals, NULL);
}

/* ---- first before the fork, last in the child ---- */

static void finish_child(void)
{
	unlock_pools();
	if (process_is_managed())
		arena_inherit();
}

/* ---- registration ---- */

static register_function *real_register(void)
{
	static register_function *real;

	if (!real)
		*(void **)&real = dlsym(RTLD_NEXT, "__register_atfork");
	return real;
}

static int register_first(void)
{
	static int registered; /* the first caller comes before there are threads */

	if (registered)
		return 0;
	registered = 1;
	return real_register()(rest, go_on, begin_anew, &__dso_handle);
}

/* What pthread_atfork() calls, wherever it is called. ThreadSanitizer calls it before instrumented code can run. */
#ifndef __SANITIZE_THREAD__
LARDER_PUBLIC int __register_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void), void *dso)
{
	int err = register_first();

	return err ? err : real_register()(prepare, parent, child, dso);
}
#endif

int fork_open(void)
{
	int err = register_first();

	return err ? -err : -real_register()(lock_pools, unlock_pools, finish_child, &__dso_handle);
}

void fork_before(void)
{
	lock_pools();
	rest();
}

void fork_after_in_parent(void)
{
	go_on();
	unlock_pools();
}

/* Without the allocator's leave there is no purging thread. */
void fork_after_in_child(void)
{
	begin_anew();
	unlock_pools();
}

/* fork() itself runs handlers, and does not come this way. */
LARDER_PUBLIC pid_t _Fork(void)
{
	static pid_t (*real)(void);
	pid_t pid;

	if (!real)
		*(void **)&real = dlsym(RTLD_NEXT, "_Fork");
	fork_before();
	pid = real();
	if (pid == 0)
		fork_after_in_child();
	else
		fork_after_in_parent();
	return pid;
}
