// SPDX-License-Identifier: MIT
// bindloop ROUNDS PORT: binds a new TCP socket to 127.0.0.1:PORT ROUNDS times and prints the
// nanoseconds that each bind(2) took, one a line. Only bind is timed, not socket or close.
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static long long now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((unsigned short)atoi(argv[2]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (int round = atoi(argv[1]); round > 0; --round) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        long long start = now_ns();
        int result = bind(fd, (struct sockaddr *)&address, sizeof address);
        long long end = now_ns();
        if (result < 0) {
            fprintf(stderr, "bindloop: bind: %s\n", strerror(errno));
            return 1;
        }
        close(fd);
        printf("%lld\n", end - start);
    }
    return 0;
}
