// SPDX-License-Identifier: MIT
// seccomp_latency BINDS PORT: how long bind(2) takes, in nanoseconds: 10th percentile, median,
// 99th percentile.
#include "common.h"

#include <time.h>

static int ascending(const void *a, const void *b)
{
    long x = *(const long *)a, y = *(const long *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    int binds = argc > 2 ? atoi(argv[1]) : 0, port = argc > 2 ? atoi(argv[2]) : 0;
    long *took = calloc((size_t)binds + 1, sizeof *took);
    if (!binds || !took)
        die("usage: seccomp_latency BINDS PORT");
    for (int i = 0; i < binds; ++i) {
        struct sockaddr_in address = {.sin_family = AF_INET,
                                      .sin_port = htons((uint16_t)port),
                                      .sin_addr.s_addr = htonl(0x7f000001)};
        struct timespec before, after;
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        clock_gettime(CLOCK_MONOTONIC, &before);
        if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
            die("bind");
        clock_gettime(CLOCK_MONOTONIC, &after);
        close(fd);
        took[i] = (after.tv_sec - before.tv_sec) * 1000000000L + (after.tv_nsec - before.tv_nsec);
    }
    qsort(took, (size_t)binds, sizeof *took, ascending);
    printf("%ld %ld %ld\n", took[binds / 10], took[binds / 2], took[binds * 99 / 100]);
    return 0;
}
