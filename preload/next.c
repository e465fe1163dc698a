// SPDX-License-Identifier: MIT
#include "next.h"

#include "sys.h"

#include <stdarg.h>

#define RTLD_NEXT_OBJECT ((void *)-1L) // RTLD_NEXT in every C library

void *dlsym(void *, const char *) __attribute__((weak));

long next_result(long result)
{
    if (result >= 0)
        return result;
    errno = (int)-result;
    return -1;
}

static int bare_bind(int fd, const void *address, unsigned length)
{
    return (int)next_result(sys_bind(fd, address, length));
}

static int bare_close(int fd)
{
    return (int)next_result(sys_close(fd));
}

static int bare_close_range(unsigned first, unsigned last, int flags)
{
    return (int)next_result(sys_close_range(first, last, (unsigned)flags));
}

static void bare_closefrom(int first)
{
    sys_close_range((unsigned)first, ~0U, 0);
}

static int bare_dup(int fd)
{
    return (int)next_result(sys_dup(fd));
}

static int bare_dup2(int from, int to)
{
    // aarch64 has no dup2, and dup3 refuses equal numbers.
    if (from != to)
        return (int)next_result(sys_dup3(from, to, 0));
    return next_result(sys_fcntl(from, F_GETFD, 0)) < 0 ? -1 : to;
}

static int bare_dup3(int from, int to, int flags)
{
    return (int)next_result(sys_dup3(from, to, flags));
}

static int bare_fcntl(int fd, int command, ...)
{
    va_list arguments;
    va_start(arguments, command);
    long argument = va_arg(arguments, long);
    va_end(arguments);
    return (int)next_result(sys_fcntl(fd, command, argument));
}

static int bare_ioctl(int fd, unsigned long request, ...)
{
    va_list arguments;
    va_start(arguments, request);
    long argument = va_arg(arguments, long);
    va_end(arguments);
    return (int)next_result(sys_ioctl(fd, request, argument));
}

// What a C library does not offer, its programs do not call.
static int no_addclose(void *actions, int fd)
{
    (void)actions;
    (void)fd;
    return ENOSYS;
}

static int no_adddup2(void *actions, int from, int to)
{
    (void)actions;
    (void)from;
    (void)to;
    return ENOSYS;
}

static int no_addopen(void *actions, int fd, const char *path, int flags, unsigned mode)
{
    (void)actions;
    (void)fd;
    (void)path;
    (void)flags;
    (void)mode;
    return ENOSYS;
}

struct next next = {
    .bind = bare_bind,
    .close = bare_close,
    .close_range = bare_close_range,
    .closefrom = bare_closefrom,
    .dup = bare_dup,
    .dup2 = bare_dup2,
    .dup3 = bare_dup3,
    .fcntl = bare_fcntl,
    .fcntl64 = bare_fcntl,
    .ioctl = bare_ioctl,
    .spawn_addclose = no_addclose,
    .spawn_adddup2 = no_adddup2,
    .spawn_addopen = no_addopen,
    .spawn_addclosefrom = no_addclose,
};

static const struct {
    const char *name;
    void *slot;
} names[] = {
    {"bind", &next.bind},
    {"close", &next.close},
    {"close_range", &next.close_range},
    {"closefrom", &next.closefrom},
    {"dup", &next.dup},
    {"dup2", &next.dup2},
    {"dup3", &next.dup3},
    {"fcntl", &next.fcntl},
    {"fcntl64", &next.fcntl64},
    {"ioctl", &next.ioctl},
    {"posix_spawn_file_actions_addclose", &next.spawn_addclose},
    {"posix_spawn_file_actions_adddup2", &next.spawn_adddup2},
    {"posix_spawn_file_actions_addopen", &next.spawn_addopen},
    {"posix_spawn_file_actions_addclosefrom_np", &next.spawn_addclosefrom},
};

void next_resolve(void)
{
    if (!dlsym)
        return;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; ++i) {
        void *found = dlsym(RTLD_NEXT_OBJECT, names[i].name);
        if (found)
            *(void **)names[i].slot = found; // POSIX lets dlsym's object pointer be a function
    }
}
