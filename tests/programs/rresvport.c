// SPDX-License-Identifier: MIT
// rresvport: libc's own binders of reserved ports. Prints `CASE ok PORT`, `CASE ERRNO`, or `CASE
// missing` where the C library has no such function.
#include "common.h"

int rresvport(int *port) __attribute__((weak));
int rresvport_af(int *port, sa_family_t family) __attribute__((weak));
int bindresvport(int fd, struct sockaddr_in *address) __attribute__((weak));

static void report(const char *what, int result, int fd, bool there)
{
    char text[INET6_ADDRSTRLEN];
    int port = 0;
    if (!there)
        printf("%s missing\n", what);
    else if (result < 0)
        printf("%s %s\n", what, errno_name(errno));
    else if (bound_to(fd, text, &port))
        printf("%s ok %d\n", what, port);
    else
        printf("%s unbound\n", what);
}

static void resv(const char *what, int start, int family)
{
    int port = start;
    int fd = rresvport_af ? rresvport_af(&port, (sa_family_t)family) : -1;
    report(what, fd, fd, rresvport_af != NULL);
    if (rresvport_af && fd >= 0)
        printf("%s-port %d\n", what, port);
}

int main(void)
{
    int port = 1023;
    int fd = rresvport ? rresvport(&port) : -1;
    report("rresvport", fd, fd, rresvport != NULL);
    resv("taken", 1023, AF_INET);
    resv("low", 1, AF_INET);
    resv("high", 70000, AF_INET);
    resv("lowest", 512, AF_INET);
    resv("wrap", 512, AF_INET);
    resv("six", 1000, AF_INET6);
    resv("family", 1000, AF_UNIX);

    fd = socket(AF_INET, SOCK_STREAM, 0);
    report("bindresvport", bindresvport ? bindresvport(fd, NULL) : -1, fd, bindresvport != NULL);
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    fd = socket(AF_INET, SOCK_DGRAM, 0);
    int result = bindresvport ? bindresvport(fd, &address) : -1;
    report("address", result, fd, bindresvport != NULL);
    if (result == 0)
        printf("address-same %d\n",
               bound_to(fd, (char[INET6_ADDRSTRLEN]){0}, &port) && port == ntohs(address.sin_port));
    address.sin_family = AF_INET6;
    fd = socket(AF_INET, SOCK_STREAM, 0);
    report("wrong-family", bindresvport ? bindresvport(fd, &address) : -1, fd,
           bindresvport != NULL);
    fd = socket(AF_INET6, SOCK_STREAM, 0);
    report("wrong-socket", bindresvport ? bindresvport(fd, NULL) : -1, fd, bindresvport != NULL);
    report("no-socket", bindresvport ? bindresvport(0, NULL) : -1, 0, bindresvport != NULL);

    // Every port of the range: 512 of them, each with a socket that stays.
    int counted = 0;
    port = 1023;
    while (rresvport_af) {
        fd = rresvport_af(&port, AF_INET);
        if (fd < 0)
            break;
        ++counted;
    }
    if (rresvport_af)
        printf("exhausted %s %d\n", errno_name(errno), counted > 500);
    fd = socket(AF_INET, SOCK_STREAM, 0);
    report("bind-exhausted", bindresvport ? bindresvport(fd, NULL) : -1, fd, bindresvport != NULL);
    return 0;
}
