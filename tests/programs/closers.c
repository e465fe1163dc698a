// SPDX-License-Identifier: MIT
// closers [PORT]: does what programs do to their descriptors, then binds: in the same process, and
// in a program that it execs. Prints `CASE RESULT` and `CASE-exec RESULT` for each; `missing` where
// the C library has no such function.
#include "common.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

int close_range(unsigned first, unsigned last, int flags) __attribute__((weak));
void closefrom(int first) __attribute__((weak));
int posix_spawn_file_actions_addclosefrom_np(posix_spawn_file_actions_t *, int)
    __attribute__((weak));

enum { UNSHARE = 2, CLOEXEC = 4 };

// Exit statuses beside errnos.
enum { MISSING = 250, WRITTEN, LOOKS_OPEN, FAILED };

static int port = 80, limit;
static char **arguments;

static int result_of(pid_t child)
{
    int status;
    if (waitpid(child, &status, 0) != child)
        die("waitpid");
    return WIFEXITED(status) ? WEXITSTATUS(status) : FAILED;
}

static int close_loop(void)
{
    for (int i = 3; i < limit; ++i)
        close(i);
    return 0;
}

static int close_range_all(void)
{
    if (!close_range)
        return MISSING;
    return close_range(3, ~0U, 0) < 0 ? FAILED : 0;
}

static int close_range_cloexec(void)
{
    if (!close_range)
        return MISSING;
    return close_range(3, ~0U, CLOEXEC) < 0 ? FAILED : 0;
}

static int close_range_unshare(void)
{
    if (!close_range)
        return MISSING;
    return close_range(3, ~0U, UNSHARE) < 0 ? FAILED : 0;
}

static int close_range_one(void)
{
    if (!close_range)
        return MISSING;
    unsigned channel = (unsigned)channel_number();
    return close_range(channel, channel, 0) < 0 ? FAILED : 0;
}

static int close_from(void)
{
    if (!closefrom)
        return MISSING;
    closefrom(3);
    return 0;
}

// Something else at every number, or at every number for a moment.
static int dup2_over(bool keep, bool three)
{
    int null = open("/dev/null", O_RDONLY);
    for (int i = 3; i < limit; ++i) {
        if (i == null)
            continue;
        if ((three ? dup3(null, i, O_CLOEXEC) : dup2(null, i)) != i)
            return FAILED;
        if (!keep && close(i) < 0)
            return FAILED;
    }
    // A bind needs two numbers, and its socket one.
    for (int i = 4; i < 9; ++i)
        close(i);
    return 0;
}

static int dup2_all(void)
{
    return dup2_over(true, false);
}

static int dup2_each(void)
{
    return dup2_over(false, false);
}

static int dup3_each(void)
{
    return dup2_over(false, true);
}

static int dup2_down(void)
{
    int null = open("/dev/null", O_RDONLY);
    for (int i = limit - 1; i > 9; --i)
        if (dup2(null, i) != i)
            return FAILED;
    return 0;
}

static int dup2_bad(void)
{
    // Fails, so that nothing moves.
    return dup2(-1, channel_number()) < 0 && errno == EBADF ? 0 : FAILED;
}

static int fcntl_cloexec(void)
{
    for (int i = 3; i < limit; ++i)
        fcntl(i, F_SETFD, FD_CLOEXEC);
    return 0;
}

static int ioctl_cloexec(void)
{
    for (int i = 3; i < limit; ++i)
        ioctl(i, FIOCLEX);
    return 0;
}

static int looks_closed(void)
{
    int channel = channel_number();
    if (channel < 0)
        return 0;
#define IS_CLOSED(call)                                                                            \
    if ((call) >= 0 || errno != EBADF)                                                             \
    return LOOKS_OPEN
    IS_CLOSED(close(channel));
    IS_CLOSED(dup(channel));
    IS_CLOSED(dup2(channel, 9));
    IS_CLOSED(dup2(channel, channel));
    IS_CLOSED(dup3(channel, 9, 0));
    IS_CLOSED(fcntl(channel, F_GETFD));
    IS_CLOSED(fcntl(channel, F_SETFD, 0));
    IS_CLOSED(fcntl(channel, F_GETFL));
    IS_CLOSED(fcntl(channel, F_DUPFD, 3));
    IS_CLOSED(ioctl(channel, FIOCLEX));
    if (dup3(channel, channel, 0) >= 0 || errno != EINVAL || dup3(channel, 9, 12345) >= 0 ||
        errno != EINVAL)
        return LOOKS_OPEN;
    return 0;
}

static int raw_close(void)
{
    syscall(SYS_close, channel_number());
    return 0;
}

static int raw_close_range(void)
{
    return syscall(SYS_close_range, 3, ~0U, 0) < 0 ? FAILED : 0;
}

static int raw_dup3(void)
{
    int null = open("/dev/null", O_RDONLY);
    syscall(SYS_dup3, null, channel_number(), 0);
    return 0;
}

// The number gets a socket of the program's own, behind the shim's back: nothing may be written to
// it.
static int reused(void)
{
    int pair[2], channel = channel_number();
    char byte;
    if (channel < 0)
        return bind_once(1, port);
    if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) < 0)
        return FAILED;
    syscall(SYS_dup3, pair[0], channel, 0);
    int result = bind_once(1, port);
    return recv(pair[1], &byte, 1, MSG_DONTWAIT) >= 0 ? WRITTEN : result;
}

static int spawn(posix_spawn_file_actions_t *actions)
{
    char text[16];
    pid_t child;
    snprintf(text, sizeof text, "%d", port);
    char *const child_arguments[] = {arguments[0], text, "child", NULL};
    extern char **environ;
    errno = posix_spawn(&child, "/proc/self/exe", actions, NULL, child_arguments, environ);
    return errno ? FAILED : result_of(child);
}

static int add_closefrom(posix_spawn_file_actions_t *actions, int first)
{
    int error = posix_spawn_file_actions_addclosefrom_np
                    ? posix_spawn_file_actions_addclosefrom_np(actions, first)
                    : ENOSYS;
    return error == ENOSYS ? MISSING : error ? FAILED : 0;
}

static int spawn_closefrom(void)
{
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    int error = add_closefrom(&actions, 3);
    return error ? error : spawn(&actions);
}

static int spawn_closefrom_channel(void)
{
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    int error = add_closefrom(&actions, channel_number() < 0 ? limit - 1 : channel_number());
    return error ? error : spawn(&actions);
}

static int spawn_close(void)
{
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    for (int i = 3; i < limit && i < 1024; ++i)
        if (posix_spawn_file_actions_addclose(&actions, i) != 0)
            return FAILED;
    return spawn(&actions);
}

static int spawn_over(bool by_open, bool close_others)
{
    posix_spawn_file_actions_t actions;
    int channel = channel_number() < 0 ? limit - 1 : channel_number();
    posix_spawn_file_actions_init(&actions);
    if (by_open ? posix_spawn_file_actions_addopen(&actions, channel, "/dev/null", O_RDONLY, 0)
                : posix_spawn_file_actions_adddup2(&actions, 0, channel))
        return FAILED;
    int error = close_others ? add_closefrom(&actions, 3) : 0;
    return error ? error : spawn(&actions);
}

static int spawn_dup2(void)
{
    return spawn_over(false, false);
}

static int spawn_open(void)
{
    return spawn_over(true, false);
}

static int spawn_dup2_closefrom(void)
{
    return spawn_over(false, true);
}

static const struct {
    const char *name;
    int (*act)(void);
    bool binds; // by itself, in a child or here
} cases[] = {
    {"close", close_loop, false},
    {"close-range", close_range_all, false},
    {"close-range-cloexec", close_range_cloexec, false},
    {"close-range-unshare", close_range_unshare, false},
    {"close-range-one", close_range_one, false},
    {"closefrom", close_from, false},
    {"dup2-all", dup2_all, false},
    {"dup2-each", dup2_each, false},
    {"dup3-each", dup3_each, false},
    {"dup2-down", dup2_down, false},
    {"dup2-bad", dup2_bad, false},
    {"fcntl-cloexec", fcntl_cloexec, false},
    {"ioctl-cloexec", ioctl_cloexec, false},
    {"looks-closed", looks_closed, false},
    {"spawn-closefrom", spawn_closefrom, true},
    {"spawn-closefrom-channel", spawn_closefrom_channel, true},
    {"spawn-close", spawn_close, true},
    {"spawn-dup2", spawn_dup2, true},
    {"spawn-open", spawn_open, true},
    {"spawn-dup2-closefrom", spawn_dup2_closefrom, true},
    {"raw-close", raw_close, false},
    {"raw-close-range", raw_close_range, false},
    {"raw-dup3", raw_dup3, false},
    {"reused", reused, true},
};

static _Noreturn void run(int (*act)(void), bool binds, bool by_exec)
{
    int result = act();
    if (binds || result != 0)
        _exit(result);
    if (!by_exec)
        _exit(bind_once(1, port));
    char text[16];
    snprintf(text, sizeof text, "%d", port);
    execl("/proc/self/exe", arguments[0], text, "child", (char *)NULL);
    _exit(FAILED);
}

int main(int argc, char **argv)
{
    arguments = argv;
    port = argc > 1 ? atoi(argv[1]) : 80;
    if (argc > 2)
        return bind_once(1, port);
    long open_max = sysconf(_SC_OPEN_MAX);
    limit = open_max < 70000 ? (int)open_max : 70000;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; ++i)
        for (int by_exec = 0; by_exec < (cases[i].binds ? 1 : 2); ++by_exec) {
            fflush(stdout);
            pid_t child = fork();
            if (child < 0)
                die("fork");
            if (child == 0)
                run(cases[i].act, cases[i].binds, by_exec);
            int result = result_of(child);
            printf("%s%s %s\n", cases[i].name, by_exec ? "-exec" : "",
                   result == MISSING      ? "missing"
                   : result == WRITTEN    ? "WRITTEN"
                   : result == LOOKS_OPEN ? "LOOKS-OPEN"
                   : result == FAILED     ? "FAILED"
                                          : errno_name(result));
        }
    return 0;
}
