// SPDX-License-Identifier: MIT
// net_race ROUNDS: threads that all bind the same socket at once, some to a reserved port and some
// to an unreserved one, to come between the two questions that the kernel asks about one bind.
// Prints how many sockets were ever bound to a reserved port: `reserved=N`. They stay bound.
#include "common.h"

#include <pthread.h>
#include <stdint.h>

enum { THREADS = 6 };

static int fd;
static pthread_barrier_t start, end;
static int rounds;

static void *bind_again_and_again(void *argument)
{
    int number = (int)(intptr_t)argument;
    for (int round = 0; round < rounds; ++round) {
        pthread_barrier_wait(&start);
        struct sockaddr_in address = {
            .sin_family = AF_INET,
            .sin_addr.s_addr = htonl(0x7f000001 + (unsigned)round),
            .sin_port = htons(number % 2 ? 80 : (uint16_t)(8080 + number)),
        };
        for (int i = 0; i < 3; ++i)
            bind(fd, (struct sockaddr *)&address, sizeof address);
        pthread_barrier_wait(&end);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[THREADS];
    int reserved = 0;
    rounds = argc > 1 ? atoi(argv[1]) : 100;
    pthread_barrier_init(&start, NULL, THREADS + 1);
    pthread_barrier_init(&end, NULL, THREADS + 1);
    for (int i = 0; i < THREADS; ++i)
        pthread_create(&threads[i], NULL, bind_again_and_again, (void *)(intptr_t)i);
    for (int round = 0; round < rounds; ++round) {
        fd = socket(AF_INET, SOCK_STREAM, 0);
        if (fd < 0)
            die("socket");
        pthread_barrier_wait(&start);
        pthread_barrier_wait(&end);
        char text[INET6_ADDRSTRLEN];
        int port;
        if (bound_to(fd, text, &port) && port < 1024)
            ++reserved; // left open
        else
            close(fd);
    }
    printf("reserved=%d\n", reserved);
    return 0;
}
