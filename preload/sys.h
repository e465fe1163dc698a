// SPDX-License-Identifier: MIT
// Raw system calls for x86-64 and aarch64: what the shim and the launcher use in place of a libc,
// so that one shim serves glibc and musl programs and never touches the program's errno. Each
// returns what the kernel returns: a value, or an errno negated.
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>

// Newer than the headers of the oldest build images.
#ifndef SO_COOKIE
#define SO_COOKIE 57 // asm-generic/socket.h, 4.12
#endif
#ifndef SYS_close_range
#define SYS_close_range 436 // asm-generic/unistd.h, 5.9
#endif
#ifndef CLOSE_RANGE_UNSHARE
#define CLOSE_RANGE_UNSHARE (1U << 1) // linux/close_range.h, 5.9
#endif

#if defined(__x86_64__) && defined(__LP64__)

#ifndef SYS_memfd_create
#define SYS_memfd_create 319 // asm/unistd_64.h, 3.17
#endif

static inline long sys_call(long number, long a, long b, long c, long d, long e)
{
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
                     : "rcx", "r11", "memory");
    return result;
}

#elif defined(__aarch64__) && defined(__LP64__)

#ifndef SYS_memfd_create
#define SYS_memfd_create 279 // asm-generic/unistd.h, 3.17
#endif

static inline long sys_call(long number, long a, long b, long c, long d, long e)
{
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
    return x0;
}

#else
#error "privbind's C parts know the system calls of x86-64 and aarch64 only"
#endif

// The kernel's struct rlimit64 and control message; libc's own differ between C libraries.
struct sys_limit {
    uint64_t soft;
    uint64_t hard;
};

struct sys_rights {
    uint64_t length;
    int32_t level;
    int32_t type;
    int32_t fds[2];
};

static inline int sys_close(int fd)
{
    return (int)sys_call(SYS_close, fd, 0, 0, 0, 0);
}

static inline int sys_close_range(unsigned first, unsigned last, unsigned flags)
{
    return (int)sys_call(SYS_close_range, (long)first, (long)last, (long)flags, 0, 0);
}

static inline int sys_dup(int fd)
{
    return (int)sys_call(SYS_dup, fd, 0, 0, 0, 0);
}

static inline int sys_dup3(int from, int to, int flags)
{
    return (int)sys_call(SYS_dup3, from, to, flags, 0, 0);
}

static inline int sys_fcntl(int fd, int command, long argument)
{
    return (int)sys_call(SYS_fcntl, fd, command, argument, 0, 0);
}

static inline int sys_ioctl(int fd, unsigned long request, long argument)
{
    return (int)sys_call(SYS_ioctl, fd, (long)request, argument, 0, 0);
}

static inline int sys_socket(int family, int type, int protocol)
{
    return (int)sys_call(SYS_socket, family, type, protocol, 0, 0);
}

static inline int sys_socketpair(int family, int type, int protocol, int pair[2])
{
    return (int)sys_call(SYS_socketpair, family, type, protocol, (long)pair, 0);
}

static inline int sys_bind(int fd, const void *address, unsigned length)
{
    return (int)sys_call(SYS_bind, fd, (long)address, (long)length, 0, 0);
}

static inline int sys_getsockopt(int fd, int level, int option, void *value, unsigned *length)
{
    return (int)sys_call(SYS_getsockopt, fd, level, option, (long)value, (long)length);
}

static inline int sys_setsockopt(int fd, int level, int option, const void *value, unsigned length)
{
    return (int)sys_call(SYS_setsockopt, fd, level, option, (long)value, (long)length);
}

// Whether 8 bytes can be read there: the kernel reads a signal mask before it sees that there is
// nothing to be done with it.
static inline bool sys_readable_8(const void *address)
{
    enum { NOTHING = ~0 };
    return address && sys_call(SYS_rt_sigprocmask, NOTHING, (long)address, 0, 8, 0) == -EINVAL;
}

// The socket's cookie: no two sockets ever have the same.
static inline int sys_cookie(int fd, uint64_t *cookie)
{
#ifdef PRIVBIND_COOKIE_BY_INODE
    // For tests under qemu's user emulation, which refuses SO_COOKIE. st_ino is the second word on
    // both CPUs.
    uint64_t status[32];
    int result = (int)sys_call(SYS_fstat, fd, (long)status, 0, 0, 0);
    *cookie = status[1];
    return result;
#else
    unsigned length = sizeof *cookie;
    return sys_getsockopt(fd, SOL_SOCKET, SO_COOKIE, cookie, &length);
#endif
}

static inline long sys_sendmsg(int fd, const struct msghdr *message, int flags)
{
    return sys_call(SYS_sendmsg, fd, (long)message, flags, 0, 0);
}

static inline long sys_read(int fd, void *buffer, size_t size)
{
    return sys_call(SYS_read, fd, (long)buffer, (long)size, 0, 0);
}

static inline long sys_write(int fd, const void *buffer, size_t size)
{
    return sys_call(SYS_write, fd, (long)buffer, (long)size, 0, 0);
}

static inline void sys_sched_yield(void)
{
    sys_call(SYS_sched_yield, 0, 0, 0, 0, 0);
}

static inline int sys_poll(struct pollfd *fds, unsigned count, const struct timespec *timeout)
{
    // ppoll writes the time left back, which a retry must not see.
    struct timespec left = timeout ? *timeout : (struct timespec){0, 0};
    return (int)sys_call(SYS_ppoll, (long)fds, (long)count, timeout ? (long)&left : 0, 0, 0);
}

static inline int sys_prlimit(int resource, const struct sys_limit *set, struct sys_limit *old)
{
    return (int)sys_call(SYS_prlimit64, 0, resource, (long)set, (long)old, 0);
}

static inline int sys_getpid(void)
{
    return (int)sys_call(SYS_getpid, 0, 0, 0, 0, 0);
}
