// SPDX-License-Identifier: MIT
#include "guard.h"

#include "channel.h"
#include "next.h"
#include "sys.h"

static int closed(void)
{
    errno = EBADF;
    return -1;
}

int guard_close(int fd)
{
    return channel_is(fd) ? closed() : next.close(fd);
}

int guard_dup(int fd)
{
    return channel_is(fd) ? closed() : next.dup(fd);
}

int guard_close_range(unsigned first, unsigned last, int flags)
{
    int channel = channel_within(first, last);
    if (channel < 0)
        return next.close_range(first, last, flags);
    // First with an empty range: this unshares the whole table before parts of the range are closed
    // (with later calls that has no effect any more), and it reports flags that the kernel does not
    // know even if the range has nothing but the channel. unshare(2) may be forbidden where
    // close_range is not.
    if (next.close_range(~0U, ~0U, flags) < 0)
        return -1;
    for (; channel >= 0; channel = channel_within(first, last)) {
        if ((unsigned)channel > first && next.close_range(first, (unsigned)channel - 1, flags) < 0)
            return -1;
        if ((unsigned)channel == last)
            return 0;
        first = (unsigned)channel + 1;
    }
    return next.close_range(first, last, flags);
}

void guard_closefrom(int first)
{
    unsigned start = first < 0 ? 0 : (unsigned)first;
    for (;;) {
        int channel = channel_within(start, ~0U);
        if (channel < 0)
            break;
        // closefrom cannot fail: one by one where a sandbox forbids close_range.
        if ((unsigned)channel > start && sys_close_range(start, (unsigned)channel - 1, 0) < 0)
            for (int i = (int)start; i < channel; ++i)
                sys_close(i);
        start = (unsigned)channel + 1;
    }
    next.closefrom((int)start);
}

// Moves the channel away before this process puts something else at `to`, unless that call will
// fail anyway. Where there is no other place, the channel is lost: the program's own call must
// succeed as it would without us.
static void make_way(int from, int to)
{
    struct sys_limit limit;
    if (channel_is(to) && sys_fcntl(from, F_GETFD, 0) >= 0 &&
        sys_prlimit(RLIMIT_NOFILE, NULL, &limit) == 0 && (uint64_t)to < limit.soft)
        channel_copy(to);
}

int guard_dup2(int from, int to)
{
    if (channel_is(from))
        return closed();
    make_way(from, to);
    return next.dup2(from, to);
}

int guard_dup3(int from, int to, int flags)
{
    // Equal numbers and unknown flags are EINVAL to the kernel whatever is open; musl lets the
    // flags pass.
    if (channel_is(from)) {
        errno = from == to || (flags & ~O_CLOEXEC) != 0 ? EINVAL : EBADF;
        return -1;
    }
    make_way(from, to);
    return next.dup3(from, to, flags);
}

int guard_spawn_addclose(void *actions, int fd)
{
    // Closing what is not open is no error in a spawned child either.
    return channel_is(fd) ? 0 : next.spawn_addclose(actions, fd);
}

int guard_spawn_adddup2(void *actions, int from, int to)
{
    if (channel_is(to))
        channel_spare(to);
    return next.spawn_adddup2(actions, from, to);
}

int guard_spawn_addopen(void *actions, int fd, const char *path, int flags, unsigned mode)
{
    if (channel_is(fd))
        channel_spare(fd);
    return next.spawn_addopen(actions, fd, path, flags, mode);
}

int guard_spawn_addclosefrom(void *actions, int first)
{
    int channel = channel_for_child();
    struct sys_limit limit;
    // The C library refuses actions on numbers above the limit.
    if (channel >= first && sys_prlimit(RLIMIT_NOFILE, NULL, &limit) == 0 &&
        (uint64_t)channel >= limit.soft)
        channel = channel_spare(channel);
    if (channel < first || first < 0)
        return next.spawn_addclosefrom(actions, first);
    if (channel == first) {
        int error = next.spawn_addclosefrom(actions, first + 1);
        return error == EBADF ? 0 : error; // the channel has the last number that there is
    }
    // No action closes all numbers below one: so the channel is put at the lowest number meanwhile.
    int error = next.spawn_adddup2(actions, channel, first);
    if (error == 0)
        error = next.spawn_addclosefrom(actions, first + 1);
    if (error == 0)
        error = next.spawn_adddup2(actions, first, channel);
    if (error == 0)
        error = next.spawn_addclose(actions, first);
    return error;
}
