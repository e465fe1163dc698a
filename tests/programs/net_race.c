// SPDX-License-Identifier: MIT
// net_race ROUNDS: threads that all bind the same socket at once, some to a reserved port and some
// to an unreserved one, to come between the two questions that the kernel asks about one bind. On a
// busy machine it can be the same thread that is first in nearly all rounds, so each takes turns in
// what it asks for. At the end the reserved port is bound as often as that still succeeds, ROUNDS
// times at most, so that a limit is reached whoever was first.
// Prints how many sockets were ever bound to a reserved port: `reserved=N`. They stay bound.
#include "common.h"

#include <pthread.h>
#include <stdint.h>

enum { THREADS = 6 };

static int fd;
static pthread_barrier_t start, end;
static int rounds;

static struct sockaddr_in address_of(int round, uint16_t port)
{
    return (struct sockaddr_in){
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(0x7f000001 + (unsigned)round),
        .sin_port = htons(port),
    };
}

static void *bind_again_and_again(void *argument)
{
    int number = (int)(intptr_t)argument;
    for (int round = 0; round < rounds; ++round) {
        pthread_barrier_wait(&start);
        struct sockaddr_in address =
            address_of(round, (number + round) % 2 ? 80 : (uint16_t)(8080 + number));
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
    for (int i = 0; i < rounds; ++i) {
        struct sockaddr_in address = address_of(rounds + i, 80);
        fd = socket(AF_INET, SOCK_STREAM, 0);
        if (fd < 0)
            die("socket");
        if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
            break;
        ++reserved;
    }
    printf("reserved=%d\n", reserved);
    return 0;
}
