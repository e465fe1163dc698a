// SPDX-License-Identifier: MIT
// The frame of the shim's own tests: each runs in a process of its own, because the shim's state is
// never reset. A test fails by a false CHECK, a signal (a sanitizer's too) or by taking too long.
#pragma once

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "../channel.h"
#include "../client.h"
#include "../sys.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: not so: %s (errno %d)\n", __FILE__, __LINE__, #condition,      \
                    errno);                                                                        \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

struct test {
    const char *name;
    void (*run)(void);
};

#define TEST(name)                                                                                 \
    {                                                                                              \
#name, name                                                                                \
    }

static inline int run_tests(const struct test *tests, size_t count)
{
    int failed = 0;
    for (size_t i = 0; i < count; ++i) {
        pid_t child = fork();
        if (child == 0) {
            alarm(60);
            tests[i].run();
            _exit(0); // a leak check at exit would need the descriptors that a test has used up
        }
        int status = -1;
        waitpid(child, &status, 0);
        printf("%s %s\n", status == 0 ? "ok    " : "FAILED", tests[i].name);
        fflush(stdout);
        failed += status != 0;
    }
    return failed != 0;
}

// A channel at `number` (any number for -1) that the shim knows. Returns the helper's end.
static inline int open_channel(int number, int *channel)
{
    int pair[2];
    uint64_t cookie;
    char entry[64];
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0);
    *channel = number < 0 ? pair[0] : number;
    if (*channel != pair[0]) {
        CHECK(dup2(pair[0], number) == number);
        close(pair[0]);
    }
    CHECK(sys_cookie(*channel, &cookie) == 0);
    snprintf(entry, sizeof entry, "PRIVBIND_CHANNEL=%d:%" PRIx64, *channel, cookie);
    char *environment[] = {"A=b", entry, "C=d", NULL};
    channel_start(environment);
    CHECK(channel_is(*channel));
    return pair[1];
}

static inline int count_descriptors(void)
{
    int count = 0;
    for (int i = 0; i < 4096; ++i)
        count += sys_fcntl(i, F_GETFD, 0) >= 0;
    return count;
}

static inline void set_limit(unsigned soft, unsigned hard)
{
    struct rlimit limit = {soft, hard};
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
}

static inline uint64_t inode(int fd)
{
    uint64_t status[32];
    return sys_call(SYS_fstat, fd, (long)status, 0, 0, 0) < 0 ? 0 : status[1];
}
