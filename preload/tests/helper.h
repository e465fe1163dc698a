// SPDX-License-Identifier: MIT
// The helper's end of the channel, for tests: it binds nothing and answers what a test wants.
#pragma once

#include "test.h"

#include <netinet/in.h>

struct asked {
    struct client_request request;
    ssize_t size;
    int fds[2];
};

// The helper's side of a request, or size 0 when the channel is closed.
static inline struct asked receive(int helper)
{
    struct asked asked = {.fds = {-1, -1}};
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(2 * sizeof(int))];
    } control;
    struct iovec part = {&asked.request, sizeof asked.request};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control};
    asked.size = recvmsg(helper, &message, MSG_CMSG_CLOEXEC);
    if (asked.size <= 0)
        return asked;
    CHECK(!(message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)));
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    CHECK(header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS);
    CHECK(header->cmsg_len == CMSG_LEN(2 * sizeof(int)));
    memcpy(asked.fds, CMSG_DATA(header), 2 * sizeof(int));
    return asked;
}

static inline void answer(const struct asked *asked, const void *bytes, size_t size)
{
    CHECK(send(asked->fds[1], bytes, size, MSG_NOSIGNAL) == (ssize_t)size);
}

static inline void finish(const struct asked *asked)
{
    close(asked->fds[0]);
    close(asked->fds[1]);
}

// A helper in a process of its own that treats each request as `serve` says, until the channel
// closes.
static inline void start_helper(int number, void (*serve)(const struct asked *))
{
    int channel, helper = open_channel(number, &channel);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child != 0) {
        close(helper);
        return;
    }
    close(channel);
    for (;;) {
        struct asked asked = receive(helper);
        if (asked.size <= 0)
            _exit(0);
        serve(&asked);
        finish(&asked);
    }
}

static inline struct sockaddr_in address_of(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    return address;
}

// A bind of this port, forwarded.
static inline int ask(int port)
{
    struct sockaddr_in address = address_of(port);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(fd >= 0);
    int error = client_bind(fd, &address, sizeof address);
    close(fd);
    return error;
}

// The errno that the address has as its port: each request has an answer of its own.
static inline void answer_the_port(const struct asked *asked)
{
    struct sockaddr_in address;
    memcpy(&address, asked->request.address, sizeof address);
    struct client_reply reply = {CLIENT_MAGIC, ntohs(address.sin_port)};
    answer(asked, &reply, sizeof reply);
}
