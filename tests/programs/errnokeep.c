// SPDX-License-Identifier: MIT
// errnokeep [PORT]: prints whether calls that succeed leave errno as it was (`CASE kept`), and what
// a second bind of the same port gives.
#include "common.h"

#include <fcntl.h>

static void report(const char *what, int result)
{
    int now = errno;
    printf("%s %s\n", what, result < 0 ? errno_name(now) : now == E2BIG ? "kept" : "changed");
}

int main(int argc, char **argv)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)(argc > 1 ? atoi(argv[1]) : 80)),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int first = socket(AF_INET, SOCK_STREAM, 0), second = socket(AF_INET, SOCK_STREAM, 0);
    if (first < 0 || second < 0)
        die("socket");
    errno = E2BIG;
    report("bind", bind(first, (void *)&address, sizeof address));
    errno = E2BIG;
    report("again", bind(first, (void *)&address, sizeof address));
    errno = E2BIG;
    report("in-use", bind(second, (void *)&address, sizeof address));
    errno = E2BIG;
    report("dup2", dup2(first, second));
    errno = E2BIG;
    report("fcntl", fcntl(first, F_GETFD));
    errno = E2BIG;
    report("close", close(second));
    return 0;
}
