// SPDX-License-Identifier: MIT
// The functions that the preloaded library exports: only libc functions that programs call
// themselves. Any further name would change programs that do not expect it. What the functions do
// is in guard.c, client.c and resvport.c.
#include "channel.h"
#include "client.h"
#include "guard.h"
#include "next.h"
#include "resvport.h"
#include "sys.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <sys/auxv.h>

// The C names differ from the exported ones, so that no C library's header has a say in their
// types.
#define EXPORT(name) __asm__(name) __attribute__((visibility("default")))

extern char **environ __attribute__((weak));
unsigned long getauxval(unsigned long) __attribute__((weak));

static atomic_bool started;

__attribute__((constructor)) static void start(void)
{
    // Set first: what dlsym calls may come back here, and then goes to the bare system calls.
    if (atomic_exchange(&started, true))
        return;
    next_resolve();
    // Under AT_SECURE the environment is not to be trusted.
    if (getauxval && !getauxval(AT_SECURE) && &environ)
        channel_start(environ);
}

// Other libraries' constructors may run before this one's.
static inline void ensure_started(void)
{
    if (!atomic_load_explicit(&started, memory_order_acquire))
        start();
}

int shim_bind(int fd, const void *address, unsigned length) EXPORT("bind");
int shim_bind(int fd, const void *address, unsigned length)
{
    ensure_started();
    int before = errno;
    client_share(fd, address, length);
    int result = next.bind(fd, address, length);
    if (result >= 0 || errno != EACCES || !channel_known())
        return result;
    int error = client_bind(fd, address, length);
    errno = error ? error : before;
    return error ? -1 : 0;
}

int shim_rresvport(int *port) EXPORT("rresvport");
int shim_rresvport(int *port)
{
    ensure_started();
    return resvport_socket(port, AF_INET);
}

int shim_rresvport_af(int *port, sa_family_t family) EXPORT("rresvport_af");
int shim_rresvport_af(int *port, sa_family_t family)
{
    ensure_started();
    return resvport_socket(port, family);
}

int shim_bindresvport(int fd, void *address) EXPORT("bindresvport");
int shim_bindresvport(int fd, void *address)
{
    ensure_started();
    return resvport_bind(fd, address);
}

int shim_close(int fd) EXPORT("close");
int shim_close(int fd)
{
    ensure_started();
    return guard_close(fd);
}

int shim_close_range(unsigned first, unsigned last, int flags) EXPORT("close_range");
int shim_close_range(unsigned first, unsigned last, int flags)
{
    ensure_started();
    return guard_close_range(first, last, flags);
}

void shim_closefrom(int first) EXPORT("closefrom");
void shim_closefrom(int first)
{
    ensure_started();
    guard_closefrom(first);
}

int shim_dup(int fd) EXPORT("dup");
int shim_dup(int fd)
{
    ensure_started();
    return guard_dup(fd);
}

int shim_dup2(int from, int to) EXPORT("dup2");
int shim_dup2(int from, int to)
{
    ensure_started();
    return guard_dup2(from, to);
}

int shim_dup3(int from, int to, int flags) EXPORT("dup3");
int shim_dup3(int from, int to, int flags)
{
    ensure_started();
    return guard_dup3(from, to, flags);
}

// The third argument, passed on as the register it came in; reading one that was not given is
// harmless on both CPUs.
#define THIRD_ARGUMENT(last, argument)                                                             \
    va_list arguments;                                                                             \
    va_start(arguments, last);                                                                     \
    void *argument = va_arg(arguments, void *);                                                    \
    va_end(arguments)

int shim_fcntl(int fd, int command, ...) EXPORT("fcntl");
int shim_fcntl(int fd, int command, ...)
{
    THIRD_ARGUMENT(command, argument);
    ensure_started();
    return channel_is(fd) ? (int)next_result(-EBADF) : next.fcntl(fd, command, argument);
}

int shim_fcntl64(int fd, int command, ...) EXPORT("fcntl64");
int shim_fcntl64(int fd, int command, ...)
{
    THIRD_ARGUMENT(command, argument);
    ensure_started();
    return channel_is(fd) ? (int)next_result(-EBADF) : next.fcntl64(fd, command, argument);
}

int shim_ioctl(int fd, unsigned long request, ...) EXPORT("ioctl");
int shim_ioctl(int fd, unsigned long request, ...)
{
    THIRD_ARGUMENT(request, argument);
    ensure_started();
    return channel_is(fd) ? (int)next_result(-EBADF) : next.ioctl(fd, request, argument);
}

int shim_addclose(void *actions, int fd) EXPORT("posix_spawn_file_actions_addclose");
int shim_addclose(void *actions, int fd)
{
    ensure_started();
    return guard_spawn_addclose(actions, fd);
}

int shim_adddup2(void *actions, int from, int to) EXPORT("posix_spawn_file_actions_adddup2");
int shim_adddup2(void *actions, int from, int to)
{
    ensure_started();
    return guard_spawn_adddup2(actions, from, to);
}

int shim_addopen(void *actions, int fd, const char *path, int flags, unsigned mode)
    EXPORT("posix_spawn_file_actions_addopen");
int shim_addopen(void *actions, int fd, const char *path, int flags, unsigned mode)
{
    ensure_started();
    return guard_spawn_addopen(actions, fd, path, flags, mode);
}

int shim_addclosefrom(void *actions, int first) EXPORT("posix_spawn_file_actions_addclosefrom_np");
int shim_addclosefrom(void *actions, int first)
{
    ensure_started();
    return guard_spawn_addclosefrom(actions, first);
}
