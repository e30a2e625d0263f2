/*
 * Idle. See idle.h.
 */
#include "idle.h"

#include "sys.h"

#include <sched.h>
#include <sys/resource.h>

static long set_policy(int tid, int policy)
{
	const struct sched_param none = { 0 };

	return sys_call3(SYS_sched_setscheduler, tid, policy, (long)&none);
}

/* Leaving SCHED_IDLE takes what becoming less nice takes. */
int idle_may_return(void)
{
	if (sys_call3(SYS_setpriority, PRIO_PROCESS, 0, -1) < 0)
		return 0;
	sys_call3(SYS_setpriority, PRIO_PROCESS, 0, 0);
	return 1;
}

int idle_begin(void)
{
	return (int)set_policy(0, SCHED_IDLE);
}

void idle_end(int tid)
{
	set_policy(tid, SCHED_OTHER);
}
