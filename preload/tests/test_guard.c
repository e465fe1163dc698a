// SPDX-License-Identifier: MIT
// What is done to descriptors: the channel survives it, its number looks closed, and everything
// else is as natively.
#include "../guard.h"
#include "../next.h"
#include "helper.h"

#include <pthread.h>
#include <spawn.h>
#include <stdatomic.h>

enum { UNSHARE = 2, CLOEXEC = 4 };

#define CHECK_CLOSED(call)                                                                         \
    do {                                                                                           \
        errno = 0;                                                                                 \
        CHECK((call) == -1 && errno == EBADF);                                                     \
    } while (0)

static void the_number_looks_closed(void)
{
    int channel, helper = open_channel(100, &channel);
    CHECK_CLOSED(guard_close(100));
    CHECK_CLOSED(guard_dup(100));
    CHECK_CLOSED(guard_dup2(100, 5));
    CHECK_CLOSED(guard_dup2(100, 100));
    CHECK_CLOSED(guard_dup3(100, 5, 0));
    CHECK(guard_dup3(100, 100, 0) == -1 && errno == EINVAL);
    CHECK(guard_dup3(100, 5, 1) == -1 && errno == EINVAL);
    CHECK(sys_fcntl(5, F_GETFD, 0) == -EBADF);
    CHECK(channel_is(100) && guard_dup(helper) >= 0 && guard_close(helper) == 0);
    CHECK_CLOSED(guard_close(helper));
}

static void another_file_at_the_number_is_the_programs(void)
{
    int channel;
    open_channel(100, &channel);
    CHECK(dup2(0, 100) == 100);
    CHECK(guard_dup2(100, 5) == 5 && guard_dup(100) >= 0 && guard_close(100) == 0);
    CHECK_CLOSED(guard_close(100));
}

static void dup2_moves_it(void)
{
    int channel, helper = open_channel(100, &channel);
    set_limit(128, 128);
    CHECK(guard_dup2(helper, 100) == 100 && inode(100) == inode(helper));
    CHECK(channel_is(127) && channel_find() == 127);
    CHECK(guard_dup3(helper, 127, O_CLOEXEC) == 127 && inode(127) == inode(helper));
    CHECK(sys_fcntl(127, F_GETFD, 0) == FD_CLOEXEC && channel_find() == 126);
    CHECK(sys_fcntl(126, F_GETFD, 0) == 0);
}

static void dup2_that_fails_moves_nothing(void)
{
    int channel;
    open_channel(100, &channel);
    int before = count_descriptors();
    CHECK_CLOSED(guard_dup2(-1, 100));
    CHECK_CLOSED(guard_dup2(99, 100));
    CHECK_CLOSED(guard_dup3(99, 100, 0));
    set_limit(100, 200);
    CHECK_CLOSED(guard_dup2(1, 100)); // above the limit
    CHECK(channel_is(100) && count_descriptors() == before);
}

static void dup2_goes_on_when_there_is_no_room(void)
{
    int channel, helper = open_channel(31, &channel);
    set_limit(32, 32);
    while (dup(helper) >= 0)
        continue;
    CHECK(guard_dup2(helper, 31) == 31 && inode(31) == inode(helper));
    CHECK(channel_find() == -1);
}

static void close_range_leaves_it(void)
{
    int channel, helper = open_channel(100, &channel);
    CHECK(dup2(helper, 90) == 90 && dup2(helper, 99) == 99 && dup2(helper, 101) == 101);
    CHECK(guard_close_range(99, 101, CLOEXEC) == 0);
    CHECK(sys_fcntl(99, F_GETFD, 0) == FD_CLOEXEC && sys_fcntl(101, F_GETFD, 0) == FD_CLOEXEC);
    CHECK(sys_fcntl(100, F_GETFD, 0) == 0);
    CHECK(guard_close_range(95, 100, 0) == 0 && sys_fcntl(99, F_GETFD, 0) == -EBADF);
    CHECK(sys_fcntl(90, F_GETFD, 0) == 0 && sys_fcntl(101, F_GETFD, 0) == FD_CLOEXEC);
    CHECK(guard_close_range(100, 100, 0) == 0 && guard_close_range(100, ~0U, 0) == 0);
    CHECK(sys_fcntl(101, F_GETFD, 0) == -EBADF);
    CHECK(guard_close_range(9, 3, 0) == -1 && errno == EINVAL);
    CHECK(guard_close_range(3, ~0U, 64) == -1 && errno == EINVAL);
    CHECK(guard_close_range(100, 100, 64) == -1 && errno == EINVAL);
    CHECK(sys_fcntl(90, F_GETFD, 0) == 0 && sys_fcntl(helper, F_GETFD, 0) == 0);
    CHECK(guard_close_range(3, ~0U, 0) == 0 && channel_is(100) && count_descriptors() == 4);
}

static void close_range_leaves_every_copy(void)
{
    int channel, helper = open_channel(100, &channel);
    CHECK(channel_copy(100) > 100);
    CHECK(dup2(helper, 50) == 50 && dup2(helper, 101) == 101);
    CHECK(guard_close_range(3, ~0U, 0) == 0 && count_descriptors() == 5);
}

static void *unshare_and_close(void *argument)
{
    (void)argument;
    CHECK(guard_close_range(3, ~0U, UNSHARE) == 0);
    CHECK(count_descriptors() == 4 && channel_is(100));
    return NULL;
}

static void close_range_unshares_once(void)
{
    int channel;
    pthread_t thread;
    open_channel(100, &channel);
    int before = count_descriptors();
    CHECK(pthread_create(&thread, NULL, unshare_and_close, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(count_descriptors() == before); // only the thread's own table was touched
}

static void closefrom_leaves_it(void)
{
    int channel, helper = open_channel(100, &channel);
    CHECK(dup2(helper, 99) == 99 && dup2(helper, 101) == 101);
    guard_closefrom(101);
    CHECK(sys_fcntl(101, F_GETFD, 0) == -EBADF && sys_fcntl(99, F_GETFD, 0) == 0);
    guard_closefrom(4);
    CHECK(channel_is(100) && sys_fcntl(99, F_GETFD, 0) == -EBADF);
    dup2(2, 9);
    guard_closefrom(-5);
    int left = count_descriptors();
    dup2(100, 2);
    CHECK(left == 1 && channel_is(100));
}

// Descriptor numbers by what is open there: 0 nothing, otherwise an inode.
enum { NUMBERS = 48 };

static void compare(const uint64_t *model, uint64_t hidden)
{
    for (int i = 3; i < NUMBERS; ++i) {
        uint64_t there = inode(i);
        CHECK(model[i] == (there == hidden ? 0 : there));
    }
}

// Whatever a program does with numbers below its limit, it sees what it would see without a
// channel, and the channel is there as long as a number is left for it.
static void random_walks_never_lose_it(void)
{
    int channel, helper = open_channel(NUMBERS - 1, &channel);
    uint64_t model[NUMBERS] = {0}, hidden = inode(channel);
    int files[2] = {dup2(helper, NUMBERS), dup2(0, NUMBERS + 1)};
    close(helper);
    for (int i = 3; i < NUMBERS - 1; ++i)
        close(i);
    set_limit(NUMBERS, NUMBERS + 8);
    srandom(7);
    for (int round = 0; round < 30000; ++round) {
        int a = 3 + (int)(random() % (NUMBERS - 3)), b = 3 + (int)(random() % (NUMBERS - 3));
        int low = a < b ? a : b, high = a < b ? b : a, result;
        switch (random() % 8) {
        case 0:
            result = guard_close(a);
            CHECK(result == (model[a] ? 0 : -1));
            model[a] = 0;
            break;
        case 1:
            if (random() % 8)
                break;
            CHECK(guard_close_range((unsigned)low, (unsigned)high, 0) == 0);
            for (int i = low; i <= high; ++i)
                model[i] = 0;
            break;
        case 2:
            if (random() % 16)
                break;
            guard_closefrom(NUMBERS - 6);
            files[0] = files[1] = -1;
            for (int i = NUMBERS - 6; i < NUMBERS; ++i)
                model[i] = 0;
            break;
        case 3:
            result = guard_dup(a);
            CHECK(model[a] || result == -1);
            if (result >= 0)
                model[result] = model[a];
            break;
        case 4:
            result = guard_dup3(a, b, O_CLOEXEC);
            CHECK(result == (model[a] && a != b ? b : -1));
            if (result >= 0)
                model[b] = model[a];
            break;
        case 5:
            result = sys_fcntl(files[random() % 2], F_DUPFD, 3);
            if (result >= 0 && result < NUMBERS)
                model[result] = inode(result);
            break;
        default:
            result = guard_dup2(a, b);
            CHECK(result == (model[a] ? b : -1));
            if (result >= 0)
                model[b] = model[a];
        }
        compare(model, hidden);
        CHECK(channel_find() >= 0);
        if (files[0] < 0) { // closefrom took the reserve as well
            files[0] = sys_fcntl(1, F_DUPFD, 3);
            files[1] = files[0];
            if (files[0] >= 0)
                model[files[0]] = inode(files[0]);
        }
    }
}

static atomic_bool stop;

static void *bind_often(void *argument)
{
    long *good = argument;
    while (!stop) {
        CHECK(ask(77) == 77);
        ++*good;
    }
    return NULL;
}

// Another thread puts the program's own socket at the channel's number, over and over: nothing is
// ever written to that.
static void moves_during_binds_write_nowhere_else(void)
{
    int pair[2];
    long good = 0;
    char byte;
    pthread_t thread;
    start_helper(200, answer_the_port);
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0);
    CHECK(pthread_create(&thread, NULL, bind_often, &good) == 0);
    for (int i = 0; i < 20000 || good < 200; ++i) {
        int number = channel_find();
        CHECK(number >= 0 && guard_dup2(pair[0], number) == number && guard_close(number) == 0);
    }
    stop = true;
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(recv(pair[1], &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN);
}

static char *own_path;
int posix_spawn_file_actions_addclosefrom_np(posix_spawn_file_actions_t *, int)
    __attribute__((weak));

// Exit status 0 if a spawned program still has the channel.
static int spawned(const posix_spawn_file_actions_t *actions)
{
    pid_t child;
    int status;
    // Under qemu a program is started through it.
    char *runner = getenv("TEST_RUNNER");
    if (runner && !*runner)
        runner = NULL;
    char *arguments[] = {runner ? runner : own_path, runner ? own_path : "child",
                         runner ? "child" : NULL, NULL};
    extern char **environ;
    int error = posix_spawn(&child, arguments[0], actions, NULL, arguments, environ);
    if (error)
        return error;
    CHECK(waitpid(child, &status, 0) == child);
    return status;
}

static void open_named_channel(int number)
{
    int channel;
    char value[64];
    uint64_t cookie;
    int helper = open_channel(number, &channel);
    CHECK(sys_fcntl(helper, F_SETFD, FD_CLOEXEC) == 0 && sys_cookie(number, &cookie) == 0);
    snprintf(value, sizeof value, "%d:%" PRIx64, number, cookie);
    CHECK(setenv("PRIVBIND_CHANNEL", value, 1) == 0);
    // Not by next_resolve: a static test has no dlsym.
    next.spawn_addclose = (int (*)(void *, int))posix_spawn_file_actions_addclose;
    next.spawn_adddup2 = (int (*)(void *, int, int))posix_spawn_file_actions_adddup2;
    next.spawn_addopen =
        (int (*)(void *, int, const char *, int, unsigned))posix_spawn_file_actions_addopen;
    if (posix_spawn_file_actions_addclosefrom_np)
        next.spawn_addclosefrom = (int (*)(void *, int))posix_spawn_file_actions_addclosefrom_np;
}

static void spawned_programs_keep_it(void)
{
    posix_spawn_file_actions_t actions;
    open_named_channel(300);
    CHECK(posix_spawn_file_actions_init(&actions) == 0);
    CHECK(spawned(&actions) == 0);
    for (int i = 3; i < 400; ++i)
        CHECK(guard_spawn_addclose(&actions, i) == 0);
    CHECK(spawned(&actions) == 0);
    CHECK(posix_spawn_file_actions_addclose(&actions, 300) == 0);
    CHECK(spawned(&actions) != 0); // what it is kept from
}

static void spawned_programs_keep_it_over_closefrom(void)
{
    static const int starts[] = {3, 100, 299, 300, 301};
    open_named_channel(300);
    for (size_t i = 0; i < sizeof starts / sizeof starts[0]; ++i) {
        posix_spawn_file_actions_t actions;
        CHECK(posix_spawn_file_actions_init(&actions) == 0);
        int error = guard_spawn_addclosefrom(&actions, starts[i]);
        if (error == ENOSYS)
            return;
        CHECK(error == 0 && spawned(&actions) == 0);
        CHECK(next.spawn_addclosefrom(&actions, 3) == 0 && spawned(&actions) != 0);
    }
    posix_spawn_file_actions_t actions;
    CHECK(posix_spawn_file_actions_init(&actions) == 0);
    CHECK(guard_spawn_addclosefrom(&actions, -1) == EBADF);
}

static void spawned_programs_keep_it_when_its_number_is_taken(void)
{
    posix_spawn_file_actions_t actions;
    open_named_channel(300);
    CHECK(posix_spawn_file_actions_init(&actions) == 0);
    CHECK(guard_spawn_adddup2(&actions, 1, 300) == 0 && spawned(&actions) == 0);
    int error = guard_spawn_addclosefrom(&actions, 3);
    CHECK(error == ENOSYS || (error == 0 && spawned(&actions) == 0));
    CHECK(channel_is(300));
}

static void spawned_programs_keep_it_when_a_file_is_opened_there(void)
{
    posix_spawn_file_actions_t actions;
    open_named_channel(300);
    CHECK(posix_spawn_file_actions_init(&actions) == 0);
    CHECK(guard_spawn_addopen(&actions, 300, "/dev/null", O_RDONLY, 0) == 0);
    CHECK(spawned(&actions) == 0);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "child") == 0) {
        extern char **environ;
        channel_start(environ);
        return channel_find() < 0;
    }
    own_path = argv[0];
    static const struct test tests[] = {
        TEST(the_number_looks_closed),
        TEST(another_file_at_the_number_is_the_programs),
        TEST(dup2_moves_it),
        TEST(dup2_that_fails_moves_nothing),
        TEST(dup2_goes_on_when_there_is_no_room),
        TEST(close_range_leaves_it),
        TEST(close_range_leaves_every_copy),
        TEST(close_range_unshares_once),
        TEST(closefrom_leaves_it),
        TEST(random_walks_never_lose_it),
        TEST(moves_during_binds_write_nowhere_else),
        TEST(spawned_programs_keep_it),
        TEST(spawned_programs_keep_it_over_closefrom),
        TEST(spawned_programs_keep_it_when_its_number_is_taken),
        TEST(spawned_programs_keep_it_when_a_file_is_opened_there),
    };
    return run_tests(tests, sizeof tests / sizeof tests[0]);
}
