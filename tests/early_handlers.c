/*
 * For process_life.c: a library of the program's, which is initialised before anything that is preloaded, and registers
 * its handlers around forks by then.
 */
#include <pthread.h>

void (*early_handler)(void);

static void handle(void)
{
	if (early_handler)
		early_handler();
}

__attribute__((constructor)) static void register_early(void)
{
	pthread_atfork(handle, handle, handle);
}
