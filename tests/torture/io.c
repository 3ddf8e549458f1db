/* Fails, or ends the process at, one chosen open, write, fsync, rename, unlink or mkdir below a folder; preloaded.

   What does not touch the folder passes. fopen and FILE streams open and write past these names, in libc itself, so
   fopen is here too; what they write is not, and Python writes none of them. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static char folder[PATH_MAX];
static size_t length;
static int chosen, failure, seen;
static char last[PATH_MAX + 64];

/* Chooses the operation, counted from 1, 0 for none, and the errno it fails with, 0 for the end of the process. */
void torture_arm(const char *path, int at, int error) {
    strncpy(folder, path, sizeof folder - 1);
    length = strlen(folder);
    seen = 0;
    chosen = at;
    failure = error;
    last[0] = 0;
}

int torture_seen(void) { return seen; }

const char *torture_last(void) { return last; }

static int below(const char *path) {
    return length && strncmp(path, folder, length) == 0 && (path[length] == '/' || path[length] == 0);
}

/* Tells whether this is the operation to fail; errno is then set. */
static int fails(const char *what, const char *path) {
    if (!below(path)) return 0;
    if (__sync_add_and_fetch(&seen, 1) != chosen) return 0;
    snprintf(last, sizeof last, "%s %s", what, path + length);
    if (!failure) kill(getpid(), SIGKILL);
    errno = failure;
    return 1;
}

static int fails_at(const char *what, int at, const char *name) {
    char path[2 * PATH_MAX], link[64];
    if (!length) return 0;
    if (name[0] == '/') return fails(what, name);
    if (at == AT_FDCWD) {
        if (!getcwd(path, PATH_MAX)) return 0;
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", at);
        ssize_t n = readlink(link, path, PATH_MAX - 1);
        if (n < 0) return 0;
        path[n] = 0;
    }
    strcat(path, "/");
    strncat(path, name, PATH_MAX - 1);
    return fails(what, path);
}

static int fails_on(const char *what, int fd) {
    char path[PATH_MAX], link[64];
    if (!length) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, PATH_MAX - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return fails(what, path);
}

#define REAL(type, name, ...)                                        \
    static type (*real)(__VA_ARGS__);                                \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

#define MODE                                                         \
    mode_t mode = 0;                                                 \
    if (flags & (O_CREAT | O_TMPFILE)) {                             \
        va_list more;                                                \
        va_start(more, flags);                                       \
        mode = va_arg(more, mode_t);                                 \
        va_end(more);                                                \
    }

#define OPEN(name)                                                   \
    int name(const char *path, int flags, ...) {                     \
        REAL(int, name, const char *, int, ...);                     \
        MODE return fails_at("open", AT_FDCWD, path) ? -1 : real(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                 \
    int name(int at, const char *path, int flags, ...) {             \
        REAL(int, name, int, const char *, int, ...);                \
        MODE return fails_at("open", at, path) ? -1 : real(at, path, flags, mode); \
    }
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(name)                                                  \
    FILE *name(const char *path, const char *mode) {                 \
        REAL(FILE *, name, const char *, const char *);              \
        return fails_at("open", AT_FDCWD, path) ? NULL : real(path, mode); \
    }
FOPEN(fopen)
FOPEN(fopen64)

ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, write, int, const void *, size_t);
    return fails_on("write", fd) ? -1 : real(fd, data, size);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(ssize_t, writev, int, const struct iovec *, int);
    return fails_on("write", fd) ? -1 : real(fd, parts, count);
}

#define PWRITE(name, type)                                           \
    ssize_t name(int fd, const void *data, size_t size, type at) {   \
        REAL(ssize_t, name, int, const void *, size_t, type);        \
        return fails_on("write", fd) ? -1 : real(fd, data, size, at); \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define SYNC(name)                                                   \
    int name(int fd) {                                               \
        REAL(int, name, int);                                        \
        return fails_on("fsync", fd) ? -1 : real(fd);                \
    }
SYNC(fsync)
SYNC(fdatasync)

int rename(const char *from, const char *to) {
    REAL(int, rename, const char *, const char *);
    return fails_at("rename", AT_FDCWD, to) ? -1 : real(from, to);
}

int renameat(int a, const char *from, int b, const char *to) {
    REAL(int, renameat, int, const char *, int, const char *);
    return fails_at("rename", b, to) ? -1 : real(a, from, b, to);
}

int unlink(const char *path) {
    REAL(int, unlink, const char *);
    return fails_at("unlink", AT_FDCWD, path) ? -1 : real(path);
}

int unlinkat(int at, const char *path, int flags) {
    REAL(int, unlinkat, int, const char *, int);
    return fails_at("unlink", at, path) ? -1 : real(at, path, flags);
}

int rmdir(const char *path) {
    REAL(int, rmdir, const char *);
    return fails_at("unlink", AT_FDCWD, path) ? -1 : real(path);
}

int mkdir(const char *path, mode_t mode) {
    REAL(int, mkdir, const char *, mode_t);
    return fails_at("mkdir", AT_FDCWD, path) ? -1 : real(path, mode);
}

/* A clock that is wrong by TORTURE_CLOCK seconds. */
static long wrong(void) {
    const char *told = getenv("TORTURE_CLOCK");
    return told ? atol(told) : 0;
}

int clock_gettime(clockid_t id, struct timespec *now) {
    REAL(int, clock_gettime, clockid_t, struct timespec *);
    int done = real(id, now);
    if (!done && id == CLOCK_REALTIME) now->tv_sec += wrong();
    return done;
}

time_t time(time_t *now) {
    struct timespec told;
    clock_gettime(CLOCK_REALTIME, &told);
    if (now) *now = told.tv_sec;
    return told.tv_sec;
}
