// SPDX-License-Identifier: MIT
#include "client.h"

#include "channel.h"
#include "sys.h"

#include <netinet/in.h>

enum {
    REQUEST_HEADER = 8,
    MAX_ERRNO = 4095,    // linux/err.h: no system call gives more
    MOVES = 100,         // how often other threads may move the channel during one bind
    FULL_RETRIES = 2000, // with FULL_WAIT_NS: two seconds
    FULL_WAIT_NS = 1000000,
    LOOKS = 100 // at the reply before sleeping: about as long as the helper takes on another CPU
};

// Copies the address once, so that what is judged here is what is sent. False for a bind that is
// nothing for the helper.
static bool fill_request(struct client_request *request, const void *address, unsigned length)
{
    // Family and port: the shortest that any of the families below can be.
    if (length < 4 || length > CLIENT_ADDRESS_MAX)
        return false;
    request->magic = CLIENT_MAGIC;
    request->length = length;
    for (unsigned i = 0; i < length; ++i)
        request->address[i] = ((const unsigned char *)address)[i];
    // No second look at the program's memory, which its threads may write.
    __asm__ volatile("" ::: "memory");
    union {
        unsigned char bytes[2];
        uint16_t value;
    } family = {{request->address[0], request->address[1]}};
    // The kernel takes AF_UNSPEC with the wildcard address for AF_INET.
    return (family.value == AF_INET || family.value == AF_INET6 || family.value == AF_UNSPEC) &&
           (request->address[2] != 0 || request->address[3] != 0);
}

void client_share(int fd, const void *address, unsigned length)
{
    static const int on = 1;
    union {
        unsigned char bytes[4];
        struct {
            uint16_t family, port;
        } head;
    } start;
    // Shorter ones bind nothing, and those that cannot be read are for the kernel to refuse.
    if (!channel_shares_any() || length < sizeof(struct sockaddr_in) || !sys_readable_8(address))
        return;
    for (unsigned i = 0; i < sizeof start; ++i)
        start.bytes[i] = ((const unsigned char *)address)[i];
    uint16_t family = start.head.family;
    if ((family == AF_INET || family == AF_INET6 || family == AF_UNSPEC) &&
        channel_shares(__builtin_bswap16(start.head.port)))
        sys_setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
}

// A descriptor to send on. A private copy cannot be replaced by a dup2 of another thread between
// the look at the cookie and the sending. With no number left for one, the channel's own has to do.
static int borrow_channel(bool *owned)
{
    for (int tries = 0; tries < MOVES; ++tries) {
        int channel = channel_find();
        *owned = false;
        if (channel < 0)
            return -1;
        int copy = sys_fcntl(channel, F_DUPFD_CLOEXEC, 0);
        if (copy == -EMFILE)
            return channel;
        if (copy < 0)
            continue;
        *owned = true;
        if (channel_matches(copy))
            return copy;
        sys_close(copy);
    }
    return -1;
}

// Sends the request with the socket and the far end of the reply pair.
static bool send_request(int channel, const struct client_request *request, int fd, int reply_end)
{
    struct iovec part = {(void *)(uintptr_t)request, REQUEST_HEADER + request->length};
    struct sys_rights rights = {sizeof rights, SOL_SOCKET, SCM_RIGHTS, {fd, reply_end}};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &rights, .msg_controllen = sizeof rights};
    static const struct timespec moment = {0, FULL_WAIT_NS};
    for (int tries = 0; tries < FULL_RETRIES;) {
        long sent = sys_sendmsg(channel, &message, MSG_NOSIGNAL);
        struct pollfd ready = {channel, 0, 0};
        switch (sent) {
        case -EINTR: // bind(2) never gives it
            break;
        case -EAGAIN: // a relative set O_NONBLOCK on the socket that all share
            ready.events = POLLOUT;
            if (sys_poll(&ready, 1, NULL) < 0 && ready.revents & POLLNVAL)
                return false;
            break;
        case -ETOOMANYREFS: // more of the user's descriptors are in flight than RLIMIT_NOFILE: wait
                            // until the helper takes some
            sys_poll(&ready, 1, &moment);
            ++tries;
            break;
        default:
            return sent == (long)part.iov_len;
        }
    }
    return false;
}

// Waits for the helper's answer. The channel is watched as well: without that, a forked relative
// that holds a copy of the reply pair's far end would keep this waiting for ever when the helper
// has died.
static int receive_reply(int reply, int channel)
{
    // Being woken on an idle CPU costs as much as all the rest, so look some times before sleeping,
    // and yield in between: on a machine with one CPU, the helper needs it.
    static const struct timespec none = {0, 0};
    struct pollfd answered = {reply, POLLIN, 0};
    for (int looks = 0; looks < LOOKS && sys_poll(&answered, 1, &none) == 0; ++looks)
        sys_sched_yield();
    for (;;) {
        struct pollfd ready[2] = {{reply, POLLIN, 0}, {channel, 0, 0}};
        long polled = sys_poll(ready, 2, NULL);
        if (polled < 0 && polled != -EINTR)
            return EACCES;
        // Read after the poll: an answer that the helper sent before it ended has arrived by now.
        struct client_reply answer[2] = {{0, 0}, {0, 0}};
        long size = sys_read(reply, answer, sizeof answer);
        if (size == sizeof answer[0] && answer[0].magic == CLIENT_MAGIC && answer[0].error >= 0 &&
            answer[0].error <= MAX_ERRNO)
            return answer[0].error;
        if (size != -EAGAIN && size != -EINTR)
            return EACCES;
        if (polled > 0 && ready[1].revents != 0)
            return EACCES;
    }
}

int client_bind(int fd, const void *address, unsigned length)
{
    struct client_request request;
    if (!channel_known() || !fill_request(&request, address, length))
        return EACCES;
    int pair[2];
    if (sys_socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
        return EACCES;
    bool owned;
    int channel = borrow_channel(&owned);
    bool sent = channel >= 0 && send_request(channel, &request, fd, pair[1]);
    sys_close(pair[1]);
    int error = sent ? receive_reply(pair[0], channel) : EACCES;
    sys_close(pair[0]);
    if (owned)
        sys_close(channel);
    return error;
}
