// SPDX-License-Identifier: MIT
// hostile [PORT]: sends preload's helper what no shim would send, and binds properly after each.
// Prints `CASE RESULT` of that bind, preceded by what came back: `CASE answered ERRNO` or `CASE
// silent`.
#include "common.h"

#include <fcntl.h>
#include <poll.h>

enum { MAGIC = 0x31766270, MAX_FDS = 250 };

struct request {
    unsigned magic;
    unsigned length;
    unsigned char address[4096];
};

struct reply {
    unsigned magic;
    int error;
};

static int port = 80, channel;

static ssize_t send_to_helper(const void *data, size_t size, const int *fds, size_t count,
                              int flags)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(MAX_FDS * sizeof(int))];
    } control;
    struct iovec part = {(void *)data, size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (count) {
        memset(&control, 0, sizeof control);
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(count * sizeof(int));
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(header), fds, count * sizeof(int));
    }
    return sendmsg(channel, &message, MSG_NOSIGNAL | flags);
}

// What comes back on `reply` within a moment, if anything can, and whether the helper still serves.
static void report(const char *name, int reply)
{
    struct pollfd ready = {reply, POLLIN, 0};
    struct reply answer = {0, 0};
    if (reply >= 0 && poll(&ready, 1, 2000) > 0 &&
        recv(reply, &answer, sizeof answer, MSG_DONTWAIT) == sizeof answer)
        printf("%s answered %s\n", name, errno_name(answer.error));
    else if (reply >= 0)
        printf("%s silent\n", name);
    printf("%s %s\n", name, errno_name(bind_once(1, port)));
    fflush(stdout);
}

static struct request good_request(void)
{
    struct request request = {.magic = MAGIC, .length = sizeof(struct sockaddr_in)};
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)port),
                                  .sin_addr.s_addr = htonl(0x7f000002)};
    memcpy(request.address, &address, sizeof address);
    return request;
}

// One request in every way askew, with a fresh reply socket.
static void attempt(const char *name, struct request request, size_t size, int target, size_t count)
{
    int pair[2], fds[MAX_FDS];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) < 0)
        die("socketpair");
    for (size_t i = 0; i < count; ++i)
        fds[i] = i == 0 ? target : pair[1];
    if (send_to_helper(&request, size, fds, count, 0) < 0)
        printf("%s unsent %s\n", name, errno_name(errno));
    close(pair[1]);
    report(name, pair[0]);
    close(pair[0]);
}

static void attempt_reply(const char *name, int reply)
{
    struct request request = good_request();
    int target = socket(AF_INET, SOCK_STREAM, 0);
    int fds[2] = {target, reply};
    if (send_to_helper(&request, 8 + sizeof(struct sockaddr_in), fds, 2, 0) < 0)
        printf("%s unsent %s\n", name, errno_name(errno));
    close(target);
    report(name, -1);
}

static void askew_messages(size_t size)
{
    struct request request = good_request();
    int tcp = socket(AF_INET, SOCK_STREAM, 0);
    attempt("proper", request, size, tcp, 2);
    close(tcp);
    tcp = socket(AF_INET, SOCK_STREAM, 0);
    attempt("empty", request, 0, tcp, 2);
    attempt("empty-bare", request, 0, tcp, 0);
    attempt("short", request, 7, tcp, 2);
    attempt("header-only", request, 8, tcp, 2);
    attempt("one-less", request, size - 1, tcp, 2);
    attempt("one-more", request, size + 1, tcp, 2);
    attempt("oversized", request, sizeof request, tcp, 2);
    attempt("no-fds", request, size, tcp, 0);
    attempt("one-fd", request, size, tcp, 1);
    attempt("three-fds", request, size, tcp, 3);
    attempt("many-fds", request, size, tcp, MAX_FDS);
    request.magic ^= 1;
    attempt("wrong-magic", request, size, tcp, 2);
    static const unsigned lengths[] = {0, 1, 2, 4, 15, 17, 128, 129, 4096, 0x7fffffff, 0xffffffff};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; ++i) {
        char name[32];
        request = good_request();
        request.length = lengths[i];
        snprintf(name, sizeof name, "length-%u", lengths[i]);
        attempt(name, request, 8 + (lengths[i] <= 4096 ? lengths[i] : 16), tcp, 2);
    }
    static const unsigned char families[] = {AF_UNIX, AF_PACKET, AF_NETLINK, 255};
    for (size_t i = 0; i < sizeof families; ++i) {
        char name[32];
        request = good_request();
        request.address[0] = families[i];
        snprintf(name, sizeof name, "family-%u", families[i]);
        attempt(name, request, size, tcp, 2);
    }
    close(tcp);
}

static void askew_targets(size_t size)
{
    struct request request = good_request();
    int pipes[2], pair[2];
    if (pipe(pipes) < 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
        die("pipe");
    attempt("pipe", request, size, pipes[0], 2);
    attempt("unix", request, size, pair[0], 2);
    attempt("channel-itself", request, size, channel, 2);
    struct request path = {.magic = MAGIC, .length = 110};
    path.address[0] = AF_UNIX;
    memcpy(path.address + 2, "/tmp/privbind-hostile", 21);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    attempt("unix-path", path, 118, fd, 2);
    close(fd);
    unlink("/tmp/privbind-hostile");
    fd = open("/dev/null", O_RDONLY);
    attempt("file", request, size, fd, 2);
    close(fd);
    fd = socket(AF_INET6, SOCK_STREAM, 0);
    attempt("other-family", request, size, fd, 2);
    close(fd);
}

static void askew_replies(void)
{
    int pair[2], pipes[2];
    char filler[1024] = {0};
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    listen(listener, 1);
    attempt_reply("reply-listener", listener);
    close(listener);
    if (pipe(pipes) < 0)
        die("pipe");
    attempt_reply("reply-pipe", pipes[1]);
    int fd = open("/dev/null", O_WRONLY);
    attempt_reply("reply-file", fd);
    attempt_reply("reply-channel", channel);
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
        die("socketpair");
    attempt_reply("reply-stream", pair[0]);
    close(pair[1]);
    attempt_reply("reply-hung-up", pair[0]);
    // Full, and blocking: a helper that waits here would serve nobody else.
    if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) < 0)
        die("socketpair");
    while (send(pair[0], filler, sizeof filler, MSG_DONTWAIT) > 0)
        continue;
    attempt_reply("reply-full", pair[0]);
}

static void flood(size_t size)
{
    struct request request = good_request();
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) < 0)
        die("socketpair");
    for (int i = 0; i < 20000; ++i)
        send_to_helper(&request, i % 2 ? size : (size_t)(i % 64), pair, i % 3 ? 0 : 2,
                       MSG_DONTWAIT);
    report("flood", -1);
}

int main(int argc, char **argv)
{
    size_t size = 8 + sizeof(struct sockaddr_in);
    if (argc > 1)
        port = atoi(argv[1]);
    channel = channel_number();
    if (channel < 0) {
        puts("no channel");
        return 1;
    }
    askew_messages(size);
    askew_targets(size);
    askew_replies();
    flood(size);
    return 0;
}
