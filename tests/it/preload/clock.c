/*
 * A wall clock that jumps, slipped under a real process.
 *
 *     cc -O2 -shared -fPIC -o clock.so clock.c ;  LD_PRELOAD=clock.so CLOCK_FILE=… server
 *
 * CLOCK_FILE holds whole seconds ("+3600"), which are added to the wall clock; it is read each time anew. The monotonic
 * clock stays what it is. Nothing but system calls: an allocator asks for the time before it is there, and would be asked
 * for memory meanwhile (libfaketime and jemalloc wait for each other so).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static time_t offset(void)
{
	const char *path = getenv("CLOCK_FILE");
	char text[24];
	long length, number = 0;
	int before = errno;
	int file = path ? syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC) : -1;

	if (file < 0) {
		errno = before;
		return 0;
	}
	length = syscall(SYS_read, file, text, sizeof text);
	syscall(SYS_close, file);
	for (long at = 0; at < length; at++)
		if (text[at] >= '0' && text[at] <= '9')
			number = number * 10 + (text[at] - '0');
	errno = before;
	return length > 0 && text[0] == '-' ? -number : number;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
	int result = syscall(SYS_clock_gettime, clock, now);

	if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
		now->tv_sec += offset();
	return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	struct timespec precise;

	(void)zone;
	clock_gettime(CLOCK_REALTIME, &precise);
	now->tv_sec = precise.tv_sec;
	now->tv_usec = precise.tv_nsec / 1000;
	return 0;
}

time_t time(time_t *now)
{
	struct timespec precise;

	clock_gettime(CLOCK_REALTIME, &precise);
	if (now)
		*now = precise.tv_sec;
	return precise.tv_sec;
}
