// SPDX-License-Identifier: MIT
#include "resvport.h"

#include "client.h"
#include "next.h"
#include "sys.h"

#include <netinet/in.h>
#include <stdatomic.h>

// As glibc has them: rresvport goes down through LOWEST..HIGHEST, bindresvport up from USUAL, and
// then from LOWEST.
enum { LOWEST = 512, USUAL = 600, HIGHEST = 1023 };

static int bind_reserved(int fd, const void *address, unsigned length)
{
    client_share(fd, address, length);
    int error = -sys_bind(fd, address, length);
    return error == EACCES ? client_bind(fd, address, length) : error;
}

static uint16_t wire_port(int port)
{
    return __builtin_bswap16((uint16_t)port);
}

int resvport_socket(int *port, int family)
{
    if (family != AF_INET && family != AF_INET6) {
        errno = EAFNOSUPPORT;
        return -1;
    }
    int fd = (int)next_result(sys_socket(family, SOCK_STREAM, 0));
    if (fd < 0)
        return -1;
    struct sockaddr_in6 address = {.sin6_family = (sa_family_t)family};
    unsigned length = family == AF_INET ? sizeof(struct sockaddr_in) : sizeof address;
    if (*port < LOWEST)
        *port = LOWEST;
    if (*port > HIGHEST)
        *port = HIGHEST;
    int error = EADDRINUSE;
    for (int tries = HIGHEST - LOWEST + 1; tries > 0; --tries) {
        address.sin6_port = wire_port(*port); // sin_port is at the same place
        error = bind_reserved(fd, &address, length);
        if (error == 0)
            return fd;
        if (error != EADDRINUSE)
            break;
        *port = *port == LOWEST ? HIGHEST : *port - 1;
    }
    sys_close(fd);
    errno = error == EADDRINUSE ? EAGAIN : error;
    return -1;
}

int resvport_bind(int fd, void *wanted)
{
    static atomic_uint calls;
    struct sockaddr_in own = {.sin_family = AF_INET};
    struct sockaddr_in *address = wanted ? wanted : &own;
    if (address->sin_family != AF_INET) {
        errno = EAFNOSUPPORT;
        return -1;
    }
    enum { USUAL_COUNT = HIGHEST - USUAL + 1, COUNT = HIGHEST - LOWEST + 1 };
    unsigned start = (unsigned)sys_getpid() + atomic_fetch_add(&calls, 1);
    int error = EADDRINUSE;
    for (unsigned i = 0; i < COUNT && error == EADDRINUSE; ++i) {
        unsigned port =
            i < USUAL_COUNT ? USUAL + (start + i) % USUAL_COUNT : LOWEST + i - USUAL_COUNT;
        address->sin_port = wire_port((int)port);
        error = bind_reserved(fd, address, sizeof *address);
    }
    if (error == 0)
        return 0;
    errno = error;
    return -1;
}
