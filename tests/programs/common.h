// SPDX-License-Identifier: MIT
// What the test programs share: names of errnos, sockets, and a bind that is believed only after
// getsockname.
#pragma once

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

// "ok" for 0; a number in the same form for errnos that no test expects.
static inline const char *errno_name(int error)
{
    static _Thread_local char other[16];
    switch (error) {
#define NAME(name)                                                                                 \
    case name:                                                                                     \
        return #name
        NAME(EACCES);
        NAME(EADDRINUSE);
        NAME(EADDRNOTAVAIL);
        NAME(EAFNOSUPPORT);
        NAME(EAGAIN);
        NAME(EBADF);
        NAME(EFAULT);
        NAME(EINTR);
        NAME(EINVAL);
        NAME(EMFILE);
        NAME(ENODEV);
        NAME(ENOSYS);
        NAME(ENOTSOCK);
        NAME(EPERM);
        NAME(EPROTONOSUPPORT);
#undef NAME
    case 0:
        return "ok";
    }
    snprintf(other, sizeof other, "E%d", error);
    return other;
}

static inline _Noreturn void die(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, errno_name(errno));
    exit(99);
}

// tcp, udp, mptcp or udplite; 4, 6 (both stacks) or 6only. -1 and errno.
static inline int open_socket(const char *protocol, const char *family)
{
    int type = strncmp(protocol, "udp", 3) == 0 ? SOCK_DGRAM : SOCK_STREAM;
    int number = strcmp(protocol, "mptcp") == 0     ? IPPROTO_MPTCP
                 : strcmp(protocol, "udplite") == 0 ? IPPROTO_UDPLITE
                                                    : 0;
    int fd = socket(*family == '6' ? AF_INET6 : AF_INET, type, number);
    int only = strcmp(family, "6only") == 0;
    if (fd >= 0 && *family == '6')
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof only);
    return fd;
}

// ADDRESS or ADDRESS%INTERFACE, of the family that it is written in. The length, or 0 if it is
// none.
static inline socklen_t make_address(struct sockaddr_storage *address, const char *text, int port)
{
    char plain[64];
    struct sockaddr_in *v4 = (struct sockaddr_in *)address;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)address;
    memset(address, 0, sizeof *address);
    snprintf(plain, sizeof plain, "%s", text);
    char *interface = strchr(plain, '%');
    if (interface)
        *interface++ = '\0';
    if (inet_pton(AF_INET, plain, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((uint16_t)port);
        return sizeof *v4;
    }
    if (inet_pton(AF_INET6, plain, &v6->sin6_addr) != 1)
        return 0;
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons((uint16_t)port);
    v6->sin6_scope_id = interface ? if_nametoindex(interface) : 0;
    return sizeof *v6;
}

// What the kernel says the socket is bound to. False when it is bound to nothing.
static inline bool bound_to(int fd, char text[INET6_ADDRSTRLEN], int *port)
{
    struct sockaddr_storage bound;
    socklen_t length = sizeof bound;
    if (getsockname(fd, (struct sockaddr *)&bound, &length) < 0)
        return false;
    if (bound.ss_family == AF_INET6) {
        struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&bound;
        inet_ntop(AF_INET6, &v6->sin6_addr, text, INET6_ADDRSTRLEN);
        *port = ntohs(v6->sin6_port);
    } else {
        struct sockaddr_in *v4 = (struct sockaddr_in *)&bound;
        inet_ntop(AF_INET, &v4->sin_addr, text, INET6_ADDRSTRLEN);
        *port = ntohs(v4->sin_port);
    }
    return *port != 0;
}

// A TCP socket on 127.A.B.C:PORT, closed again: 0, an errno, or 998 when bind said yes and the
// socket is not bound there.
static inline int bind_once(unsigned host, int port)
{
    struct sockaddr_in wanted = {.sin_family = AF_INET,
                                 .sin_port = htons((uint16_t)port),
                                 .sin_addr.s_addr = htonl(0x7f000000 | (host & 0xffffff))};
    struct sockaddr_in bound = {0};
    socklen_t length = sizeof bound;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return errno;
    // A closed one keeps its port while a child that was just forked, or a reader of /proc, has it.
    int reuse = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof reuse);
    int error = bind(fd, (struct sockaddr *)&wanted, sizeof wanted) < 0 ? errno : 0;
    if (error == 0 &&
        (getsockname(fd, (struct sockaddr *)&bound, &length) < 0 ||
         bound.sin_port != wanted.sin_port || bound.sin_addr.s_addr != wanted.sin_addr.s_addr))
        error = 998;
    close(fd);
    return error;
}

// The number that the environment gives for preload's channel, or -1.
static inline int channel_number(void)
{
    const char *entry = getenv("PRIVBIND_CHANNEL");
    return entry ? atoi(entry) : -1;
}
