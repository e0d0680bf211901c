/* Preloaded into a daemon: kills it before the DIE_AT-th change of a file system since the file DIE_ARMED is there.
   What the daemon had asked for until then is done, and nothing more: a crash between two steps. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

static long steps;

static void step(void)
{
	const char *armed = getenv("DIE_ARMED"), *at = getenv("DIE_AT");

	if (!armed || !at || access(armed, F_OK) != 0)
		return;
	if (__atomic_add_fetch(&steps, 1, __ATOMIC_SEQ_CST) == atol(at))
		for (;;)
			kill(getpid(), SIGKILL);
}

#define STEP(name, parameters, arguments)                                   \
	int name parameters                                                 \
	{                                                                   \
		int (*next) parameters = dlsym(RTLD_NEXT, #name);           \
		step();                                                     \
		return next arguments;                                      \
	}

STEP(fsync, (int fd), (fd))
STEP(fdatasync, (int fd), (fd))
STEP(rename, (const char *from, const char *to), (from, to))
STEP(unlink, (const char *path), (path))
STEP(linkat, (int a, const char *from, int b, const char *to, int flags), (a, from, b, to, flags))
