// SPDX-License-Identifier: GPL-3.0-or-later
/*
 * Faults of one process (LD_PRELOAD), controlled by the file PODNET_FAULTS: its wall clock is
 * ahead, and it is killed before one of the next steps. A step is a write of a BPF map or a change
 * of a file.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static struct faults {
	long long seconds;	/* that the wall clock is ahead */
	long long steps;	/* after which the process is killed; 0: never */
} *faults;

__attribute__((constructor)) static void faults_map(void)
{
	static struct faults none;
	const char *path = getenv("PODNET_FAULTS");
	int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;

	faults = fd < 0 ? MAP_FAILED :
		 mmap(NULL, sizeof(*faults), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (faults == MAP_FAILED)
		faults = &none;
}

static void faults_step(void)
{
	if (__atomic_load_n(&faults->steps, __ATOMIC_RELAXED) &&
	    !__atomic_sub_fetch(&faults->steps, 1, __ATOMIC_RELAXED))
		kill(getpid(), SIGKILL);
}

#define REAL(name) ((__typeof__(name) *)dlsym(RTLD_NEXT, #name))

long syscall(long number, ...)
{
	__typeof__(syscall) *real = REAL(syscall);
	__builtin_va_list list;
	long a[6];

	__builtin_va_start(list, number);
	for (int i = 0; i < 6; i++)
		a[i] = __builtin_va_arg(list, long);
	__builtin_va_end(list);
	if (number == SYS_bpf) {
		switch ((int)a[0]) {
		case BPF_MAP_UPDATE_ELEM:
		case BPF_MAP_DELETE_ELEM:
		case BPF_MAP_UPDATE_BATCH:
		case BPF_MAP_DELETE_BATCH:
			faults_step();
		}
	}
	return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

int rename(const char *from, const char *to)
{
	faults_step();
	return REAL(rename)(from, to);
}

int ftruncate64(int fd, off64_t size)
{
	faults_step();
	return REAL(ftruncate64)(fd, size);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
	int result = REAL(clock_gettime)(clock, now);

	if (!result && clock == CLOCK_REALTIME)
		now->tv_sec += faults->seconds;
	return result;
}

int gettimeofday(struct timeval *now, void *zone)
{
	int result = REAL(gettimeofday)(now, zone);

	if (!result)
		now->tv_sec += faults->seconds;
	return result;
}

time_t time(time_t *now)
{
	time_t found = REAL(time)(NULL) + faults->seconds;

	if (now)
		*now = found;
	return found;
}
