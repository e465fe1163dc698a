// SPDX-License-Identifier: MIT
// grant SHIM|- PROGRAM [ARG]...: runs PROGRAM with the shim (`-`: without, the negative control)
// and a helper that binds whatever it is asked, in a network namespace of its own. PROGRAM cannot
// bind reserved ports itself. Needs root or user namespaces. This is for the shim's own tests: it
// has no policy.
#define _GNU_SOURCE
#include "../client.h"
#include "../sys.h"

#include <err.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <unistd.h>

static void write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, text, strlen(text)) < 0)
        err(1, "%s", path);
    close(fd);
}

static void enter_namespaces(void)
{
    char map[64];
    snprintf(map, sizeof map, "0 %u 1\n", geteuid());
    if (geteuid() != 0) {
        if (unshare(CLONE_NEWUSER) < 0)
            err(1, "unshare(CLONE_NEWUSER)");
        write_file("/proc/self/uid_map", map);
    }
    if (unshare(CLONE_NEWNET) < 0)
        err(1, "unshare(CLONE_NEWNET)");
    struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request) < 0)
        err(1, "cannot bring lo up");
    close(fd);
}

static void drop_capabilities(void)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct none[2] = {{0, 0, 0}, {0, 0, 0}};
    // Root without capabilities, also after exec.
    if (prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NOROOT_LOCKED) < 0 ||
        syscall(SYS_capset, &header, none) < 0)
        err(1, "cannot drop capabilities");
}

static void answer_one(const struct client_request *request, ssize_t size, const int *fds,
                       int count)
{
    struct client_reply reply = {CLIENT_MAGIC, EACCES};
    if (size < 8 || request->magic != CLIENT_MAGIC || count != 2 ||
        request->length > CLIENT_ADDRESS_MAX || size != 8 + (ssize_t)request->length)
        return;
    struct sockaddr_storage address;
    memcpy(&address, request->address, request->length);
    reply.error = bind(fds[0], (struct sockaddr *)&address, request->length) < 0 ? errno : 0;
    send(fds[1], &reply, sizeof reply, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static _Noreturn void help(int channel)
{
    for (;;) {
        struct client_request request;
        union {
            struct cmsghdr align;
            char bytes[CMSG_SPACE(253 * sizeof(int))];
        } control;
        struct iovec part = {&request, sizeof request};
        struct msghdr message = {.msg_iov = &part,
                                 .msg_iovlen = 1,
                                 .msg_control = &control,
                                 .msg_controllen = sizeof control};
        ssize_t size = recvmsg(channel, &message, MSG_CMSG_CLOEXEC);
        // An empty datagram looks like the end, but only at the end has everybody hung up.
        struct pollfd state = {channel, 0, 0};
        if (size <= 0 && poll(&state, 1, 0) > 0)
            _exit(0);
        struct cmsghdr *first = CMSG_FIRSTHDR(&message);
        int fds[253], count = 0;
        if (size >= 0 && first && first->cmsg_type == SCM_RIGHTS) {
            count = (int)((first->cmsg_len - CMSG_LEN(0)) / sizeof(int));
            memcpy(fds, CMSG_DATA(first), (size_t)count * sizeof(int));
        }
        if (!(message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)))
            answer_one(&request, size, fds, count);
        for (int i = 0; i < count; ++i)
            close(fds[i]);
    }
}

static int move_up(int fd)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    int number = limit.rlim_cur < 1024 ? (int)limit.rlim_cur : 1024;
    while (--number > fd)
        if (fcntl(number, F_GETFD) < 0 && fcntl(fd, F_DUPFD, number) == number) {
            close(fd);
            return number;
        }
    errx(1, "no free descriptor");
}

int main(int argc, char **argv)
{
    if (argc < 3)
        errx(1, "usage: grant SHIM|- PROGRAM [ARG]...");
    enter_namespaces();
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) < 0)
        err(1, "socketpair");
    pid_t helper = fork();
    if (helper < 0)
        err(1, "fork");
    if (helper == 0) {
        close(pair[0]);
        // Not a child of the command: its wait() must not see us.
        if (fork() != 0)
            _exit(0);
        for (int i = 0; i < 3; ++i)
            close(i);
        help(pair[1]);
    }
    while (syscall(SYS_wait4, helper, NULL, 0, NULL) < 0 && errno == EINTR)
        continue;
    close(pair[1]);
    int channel = move_up(pair[0]);
    if (strcmp(argv[1], "-") != 0) {
        uint64_t cookie;
        if (sys_cookie(channel, &cookie) < 0)
            errx(1, "the channel has no cookie");
        char value[64];
        snprintf(value, sizeof value, "%d:%llx", channel, (unsigned long long)cookie);
        setenv("PRIVBIND_CHANNEL", value, 1);
        setenv("LD_PRELOAD", argv[1], 1);
    }
    drop_capabilities();
    execvp(argv[2], argv + 2);
    err(127, "%s", argv[2]);
}
