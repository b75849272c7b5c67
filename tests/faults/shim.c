/* Preloaded into every process of a command: storage below a folder that fails, and a wall clock that jumps.
 *
 * CPL_FAULT_PREFIX  absolute folder; calls that write at or below it are counted, each process for itself
 * CPL_FAULT_EVERY   every so many-th of them fails; a failing write has written half of its bytes
 * CPL_FAULT_ERRNO   with this number
 * CPL_FAULT_SWITCH  only while this file exists; unset: always
 * CPL_CLOCK_SWITCH  once this file exists, the wall clock is off by the number of seconds that it holds
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define CACHED(name) \
    static __typeof__(&name) real; \
    if (!real) real = REAL(name)

/* ---- storage ---- */

static int below(const char *path) {
    const char *prefix = getenv("CPL_FAULT_PREFIX");
    size_t length = prefix ? strlen(prefix) : 0;
    return length && !strncmp(path, prefix, length) && (path[length] == '/' || !path[length]);
}

static int fails(void) {
    static unsigned long count;
    const char *only_while = getenv("CPL_FAULT_SWITCH"), *every = getenv("CPL_FAULT_EVERY");
    int kept = errno;
    if (only_while && access(only_while, F_OK)) {
        errno = kept;
        return 0;
    }
    errno = kept;
    if (!every || __atomic_add_fetch(&count, 1, __ATOMIC_RELAXED) % strtoul(every, NULL, 10)) return 0;
    errno = atoi(getenv("CPL_FAULT_ERRNO"));
    return 1;
}

static int path_fails(int folder, const char *path) {
    char whole[8192], place[4096];
    if (path[0] == '/') return below(path) && fails();
    if (folder == AT_FDCWD) {
        if (!getcwd(place, sizeof place)) return 0;
    } else {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t length = readlink(link, place, sizeof place - 1);
        if (length < 0) return 0;
        place[length] = 0;
    }
    snprintf(whole, sizeof whole, "%s/%s", place, path);
    return below(whole) && fails();
}

static int file_fails(int file) {
    char link[64], place[4096];
    int kept = errno;
    if (!getenv("CPL_FAULT_PREFIX")) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, place, sizeof place - 1);
    errno = kept;
    if (length < 0) return 0;
    place[length] = 0;
    return below(place) && fails();
}

#define OPEN(name, real_call, folder, ...) \
    mode_t mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { \
        va_list more; \
        va_start(more, flags); \
        mode = va_arg(more, mode_t); \
        va_end(more); \
    } \
    CACHED(name); \
    if ((flags & O_ACCMODE) != O_RDONLY && path_fails(folder, path)) return -1; \
    return real_call

int open(const char *path, int flags, ...) { OPEN(open, real(path, flags, mode), AT_FDCWD); }
int open64(const char *path, int flags, ...) { OPEN(open64, real(path, flags, mode), AT_FDCWD); }
int openat(int folder, const char *path, int flags, ...) { OPEN(openat, real(folder, path, flags, mode), folder); }
int openat64(int folder, const char *path, int flags, ...) { OPEN(openat64, real(folder, path, flags, mode), folder); }

ssize_t write(int file, const void *bytes, size_t size) {
    CACHED(write);
    if (!file_fails(file)) return real(file, bytes, size);
    int code = errno;
    if (code == EIO) real(file, bytes, size / 2);
    errno = code;
    return -1;
}

ssize_t writev(int file, const struct iovec *parts, int count) {
    CACHED(writev);
    return file_fails(file) ? -1 : real(file, parts, count);
}

ssize_t pwrite(int file, const void *bytes, size_t size, off_t at) {
    CACHED(pwrite);
    return file_fails(file) ? -1 : real(file, bytes, size, at);
}

ssize_t pwrite64(int file, const void *bytes, size_t size, off64_t at) {
    CACHED(pwrite64);
    return file_fails(file) ? -1 : real(file, bytes, size, at);
}

int fsync(int file) {
    CACHED(fsync);
    return file_fails(file) ? -1 : real(file);
}

int fdatasync(int file) {
    CACHED(fdatasync);
    return file_fails(file) ? -1 : real(file);
}

int rename(const char *from, const char *to) {
    CACHED(rename);
    return path_fails(AT_FDCWD, to) ? -1 : real(from, to);
}

int renameat(int one, const char *from, int other, const char *to) {
    CACHED(renameat);
    return path_fails(other, to) ? -1 : real(one, from, other, to);
}

int mkdir(const char *path, mode_t mode) {
    CACHED(mkdir);
    return path_fails(AT_FDCWD, path) ? -1 : real(path, mode);
}

/* ---- the wall clock ---- */

static long offset(void) {
    static long known, looked_at_ms = -1000;
    const char *path = getenv("CPL_CLOCK_SWITCH");
    if (!path || known) return known;
    struct timespec now;
    CACHED(clock_gettime);
    real(CLOCK_MONOTONIC, &now);
    long ms = now.tv_sec * 1000 + now.tv_nsec / 1000000;
    if (ms - looked_at_ms < 100) return 0;
    looked_at_ms = ms;
    int kept = errno, file = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY);
    if (file >= 0) {
        char text[32] = "";
        ssize_t length = syscall(SYS_read, file, text, sizeof text - 1);
        syscall(SYS_close, file);
        if (length > 0) known = atol(text);
    }
    errno = kept;
    return known;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    CACHED(clock_gettime);
    int failed = real(clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += offset();
    return failed;
}

int gettimeofday(struct timeval *now, void *zone) {
    CACHED(gettimeofday);
    int failed = real(now, zone);
    if (!failed) now->tv_sec += offset();
    return failed;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}

/* The kernel's clock has not jumped: points in wall time that a thread waits for are translated back. Seconds since 1970
 * are more than 10^9, those of the monotonic clock are fewer. */
static const struct timespec *back(const struct timespec *until, struct timespec *place) {
    if (!until || until->tv_sec < 1000000000 || !offset()) return until;
    *place = *until;
    place->tv_sec -= offset();
    return place;
}

int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *until) {
    static __typeof__(&pthread_cond_timedwait) real;
    struct timespec place;
    if (!real) real = (__typeof__(real))dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    if (!real) real = REAL(pthread_cond_timedwait);
    return real(condition, mutex, back(until, &place));
}

int sem_timedwait(sem_t *semaphore, const struct timespec *until) {
    struct timespec place;
    CACHED(sem_timedwait);
    return real(semaphore, back(until, &place));
}

int pthread_mutex_timedlock(pthread_mutex_t *mutex, const struct timespec *until) {
    struct timespec place;
    CACHED(pthread_mutex_timedlock);
    return real(mutex, back(until, &place));
}

long syscall(long number, ...) {
    long a[6];
    struct timespec place;
    va_list more;
    va_start(more, number);
    for (int i = 0; i < 6; i++) a[i] = va_arg(more, long);
    va_end(more);
    if (number == SYS_futex && (a[1] & FUTEX_CLOCK_REALTIME)) a[3] = (long)back((const struct timespec *)a[3], &place);
    CACHED(syscall);
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
