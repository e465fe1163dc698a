// SPDX-License-Identifier: MIT
// seccomp_race ATTEMPTS: binds while one thread rewrites the address and another puts other sockets
// at the descriptor's number. Granted is tcp:80. Prints how many sockets were bound to what:
// `tcp-80 N`, `unreserved N`, `wrong N` for a reserved port that nobody granted; and `attempts N`.
#include "common.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

enum { SLOT = 100, TCP = 101, UDP = 102, HELD_BACK = 103 };

static struct sockaddr_in address = {.sin_family = AF_INET};
static atomic_bool done;

static void *rewrite(void *unused)
{
    static const int ports[] = {80, 81, 8080, 443, 80, 8081};
    (void)unused;
    for (unsigned i = 0; !done; ++i) {
        __atomic_store_n(&address.sin_port, htons((uint16_t)ports[i % 6]), __ATOMIC_RELAXED);
        __atomic_store_n(&address.sin_family, i % 64 ? AF_INET : AF_INET6, __ATOMIC_RELAXED);
        sched_yield();
    }
    return NULL;
}

static void *swap(void *unused)
{
    (void)unused;
    for (unsigned i = 0; !done; ++i) {
        dup2(i % 2 ? TCP : UDP, SLOT);
        if (i % 128 == 0)
            dup2(HELD_BACK, SLOT);
        sched_yield();
    }
    return NULL;
}

static void renew(int number, int type)
{
    int fd = socket(AF_INET, type, 0);
    if (fd < 0 || dup2(fd, number) < 0)
        die("socket");
    close(fd);
}

// The port that the socket at this number is bound to, 0 for none; then another socket is there.
static int harvest(int number, int type)
{
    char text[INET6_ADDRSTRLEN];
    int port = 0;
    if (!bound_to(number, text, &port))
        return 0;
    renew(number, type);
    return port;
}

int main(int argc, char **argv)
{
    pthread_t threads[2];
    long attempts = argc > 1 ? atol(argv[1]) : 0, tcp_80 = 0, unreserved = 0, wrong = 0;
    address.sin_addr.s_addr = htonl(0x7f000001);
    renew(TCP, SOCK_STREAM);
    renew(UDP, SOCK_DGRAM);
    if (dup2(0, HELD_BACK) < 0)
        die("dup2");
    pthread_create(&threads[0], NULL, rewrite, NULL);
    pthread_create(&threads[1], NULL, swap, NULL);
    for (long i = 0; i < attempts; ++i) {
        bind(SLOT, (struct sockaddr *)&address, sizeof address);
        int tcp = harvest(TCP, SOCK_STREAM), udp = harvest(UDP, SOCK_DGRAM);
        tcp_80 += tcp == 80;
        unreserved += tcp >= 1024 || udp >= 1024;
        wrong += (tcp && tcp < 1024 && tcp != 80) || (udp && udp < 1024);
    }
    done = true;
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    printf("tcp-80 %ld\nunreserved %ld\nwrong %ld\nattempts %ld\n", tcp_80, unreserved, wrong,
           attempts);
    return 0;
}
