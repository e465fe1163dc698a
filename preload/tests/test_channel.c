// SPDX-License-Identifier: MIT
// Where the channel is: what names it, how it is recognised, found again and copied.
#include "test.h"

static void start_with(const char *value)
{
    char entry[256];
    snprintf(entry, sizeof entry, "PRIVBIND_CHANNEL=%s", value);
    char *environment[] = {entry, NULL};
    channel_start(environment);
}

static bool accepted(const char *value)
{
    pid_t child = fork();
    if (child == 0) {
        start_with(value);
        _exit(channel_known());
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
    return WEXITSTATUS(status) == 1;
}

static void only_the_exact_form_is_accepted(void)
{
    static const char *const good[] = {"1023:1",
                                       "0:1",
                                       "65535:ffffffffffffffff",
                                       "15:1a2b",
                                       "7:1000000",
                                       "999:f",
                                       "1023:abcdef0123456789",
                                       "7:f:80-80",
                                       "7:f:1-65535",
                                       "7:f:80-80,8080-8090,80-81"};
    static const char *const bad[] = {"",
                                      ":",
                                      "1023",
                                      "1023:",
                                      ":1",
                                      "-1:1",
                                      "+1:1",
                                      " 1:1",
                                      "1 :1",
                                      "1: 1",
                                      "1:1 ",
                                      "1:1\n",
                                      "01:1",
                                      "1:01",
                                      "1:0",
                                      "0:0",
                                      "1:A",
                                      "1:0x1",
                                      "65536:1",
                                      "a:1",
                                      "1:g",
                                      "1:1:1",
                                      "1:1:",
                                      "1:1:80",
                                      "1:1:80-",
                                      "1:1:80-80,",
                                      "1:1:,80-80",
                                      "1:1:80-80:1-1",
                                      "1:1:80-80 ",
                                      "1:1:0-80",
                                      "1:1:0-0",
                                      "1:1:81-80",
                                      "1:1:80-65536",
                                      "1:1:080-81",
                                      "1:1:-80-81",
                                      "1:1:50-5f",
                                      "1::80-80",
                                      "1,1",
                                      "1023;1",
                                      "1:-1",
                                      "1f:1",
                                      "1.0:1",
                                      "4294967297:1",
                                      "1:10000000000000000",
                                      "18446744073709551617:1",
                                      "99999999999999999999999:1"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; ++i)
        if (!accepted(good[i]))
            errno = 0, fprintf(stderr, "refused: %s\n", good[i]), exit(1);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; ++i)
        if (accepted(bad[i]))
            errno = 0, fprintf(stderr, "accepted: %s\n", bad[i]), exit(1);
}

static void the_ports_are_those_named(void)
{
    start_with("7:f:80-80,8000-8063,65535-65535,1-1");
    CHECK(channel_known() && channel_shares_any());
    for (unsigned port = 0; port <= 65535; ++port) {
        bool wanted = port == 80 || (port >= 8000 && port <= 8063) || port == 65535 || port == 1;
        CHECK(channel_shares((uint16_t)port) == wanted);
    }
}

static void without_ports_none_is_shared(void)
{
    CHECK(!channel_shares_any() && !channel_shares(80));
    start_with("7:f:80-80,"); // refused as a whole
    CHECK(!channel_known() && !channel_shares_any() && !channel_shares(80));
    start_with("7:f");
    CHECK(channel_known() && !channel_shares_any() && !channel_shares(80));
}

// What is accepted is what printing the parsed numbers gives again.
static void random_texts_are_judged_like_a_round_trip(void)
{
    static const char letters[] = "0123456789abcdefg:-+ x";
    srandom(1);
    for (int round = 0; round < 2000; ++round) {
        char text[16], again[64];
        int size = (int)(random() % (long)sizeof text);
        for (int i = 0; i < size; ++i)
            text[i] = letters[random() % (long)(sizeof letters - 1)];
        text[size < 15 ? size : 15] = '\0';
        if (random() % 2)
            snprintf(text, sizeof text, "%ld:%lx", random() % 70000, random() % 100000);
        unsigned long number, cookie;
        bool good = sscanf(text, "%lu:%lx", &number, &cookie) == 2 && number < CHANNEL_NUMBERS &&
                    cookie != 0;
        snprintf(again, sizeof again, "%lu:%lx", good ? number : 0, good ? cookie : 0);
        CHECK(accepted(text) == (good && strcmp(text, again) == 0));
    }
}

static void no_entry_is_no_grant(void)
{
    char *others[] = {"PRIVBIND_CHANNEL", "PRIVBIND_CHANNELS=1:1", "XPRIVBIND_CHANNEL=1:1", "",
                      NULL};
    channel_start(others);
    CHECK(!channel_known());
    channel_start(NULL);
    CHECK(!channel_known() && !channel_is(0) && channel_find() == -1);
    CHECK(channel_within(0, ~0U) == -1 && channel_for_child() == -1);
}

static void the_cookie_is_the_identity(void)
{
    int channel, helper = open_channel(500, &channel);
    CHECK(channel == 500 && channel_matches(500) && !channel_is(helper) &&
          !channel_matches(helper));
    // Bits are not set for numbers that were never asked about, whatever is there.
    CHECK(dup2(500, 600) == 600 && channel_matches(600) && !channel_is(600));
    CHECK(dup2(helper, 500) == 500);
    CHECK(!channel_is(500));
    CHECK(channel_find() == 600 && channel_is(600));
}

static void numbers_out_of_range_are_nothing(void)
{
    int channel;
    open_channel(-1, &channel);
    CHECK(!channel_is(-1) && !channel_is(CHANNEL_NUMBERS) && !channel_is(CHANNEL_NUMBERS - 1));
    CHECK(!channel_is(0x7fffffff) && !channel_is(-0x7fffffff - 1));
    CHECK(channel_within((unsigned)channel, ~0U) == channel);
    CHECK(channel_within(0, (unsigned)channel) == channel);
    CHECK(channel_within((unsigned)channel, (unsigned)channel) == channel);
    CHECK(channel_within((unsigned)channel + 1, ~0U) == -1);
    CHECK(channel_within(~0U, ~0U) == -1 && channel_within(9, 3) == -1);
}

static void a_stale_number_is_searched_at_the_start(void)
{
    int pair[2];
    uint64_t cookie;
    char value[64];
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0);
    CHECK(dup2(pair[0], 777) == 777 && close(pair[0]) == 0);
    CHECK(sys_cookie(777, &cookie) == 0);
    snprintf(value, sizeof value, "1023:%" PRIx64, cookie);
    start_with(value);
    CHECK(channel_is(777) && channel_find() == 777);
}

static void a_number_above_the_limit_is_found_too(void)
{
    int pair[2];
    uint64_t cookie;
    char value[64];
    set_limit(1100, 4096);
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0);
    CHECK(dup2(pair[0], 1030) == 1030 && close(pair[0]) == 0);
    set_limit(1024, 4096);
    CHECK(sys_cookie(1030, &cookie) == 0);
    snprintf(value, sizeof value, "1023:%" PRIx64, cookie);
    start_with(value);
    CHECK(channel_find() == 1030);
}

static void a_lost_channel_is_searched_for_once(void)
{
    int channel;
    open_channel(-1, &channel);
    int aside = dup(channel);
    CHECK(dup2(aside, 900) == 900 && close(aside) == 0 && close(channel) == 0);
    CHECK(channel_find() == 900);
    CHECK(dup2(900, 901) == 901 && close(900) == 0 && channel_find() == 901);
    CHECK(close(901) == 0);
    CHECK(channel_find() == -1 && channel_find() == -1);
}

static void copies_go_to_the_highest_free_number(void)
{
    int channel, helper = open_channel(40, &channel);
    set_limit(64, 64);
    CHECK(channel_copy(40) == 63 && channel_is(63) && channel_is(40));
    CHECK(dup2(helper, 62) == 62);
    CHECK(channel_copy(63) == 61);
    CHECK(sys_fcntl(63, F_GETFD, 0) == 0); // kept over exec
}

static void copies_go_up_when_all_usual_numbers_are_taken(void)
{
    int channel, helper = open_channel(1023, &channel);
    set_limit(1030, 1030);
    while (dup(helper) >= 0)
        continue;
    CHECK(errno == EMFILE && channel_copy(1023) == -1);
    close(1028);
    CHECK(channel_copy(1023) == 1028 && channel_is(1028));
}

static void copies_go_above_the_soft_limit_at_last(void)
{
    int channel, helper = open_channel(15, &channel);
    struct rlimit limit;
    set_limit(16, 32);
    while (dup(helper) >= 0)
        continue;
    CHECK(channel_copy(15) == 16 && channel_is(16));
    CHECK(channel_copy(15) == 17);
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur == 16 && limit.rlim_max == 32);
}

static void standard_numbers_are_never_taken(void)
{
    int channel;
    open_channel(15, &channel);
    set_limit(16, 16);
    while (dup(channel) >= 0)
        continue;
    int kept = dup2(2, 14);
    close(2);
    int copy = channel_copy(15);
    CHECK(dup2(kept, 2) == 2);
    CHECK(copy == -1);
}

static void the_spare_is_not_what_will_be_overwritten(void)
{
    int channel;
    open_channel(50, &channel);
    CHECK(channel_for_child() == 50);
    int first = channel_spare(50);
    CHECK(first >= 0 && first != 50 && channel_is(first) && channel_for_child() == first);
    CHECK(channel_spare(50) == first);
    int second = channel_spare(first);
    CHECK(second >= 0 && second != first && second != 50 && channel_for_child() == second);
    CHECK(close(second) == 0);
    CHECK(channel_for_child() == (first > 50 ? first : 50));
}

int main(void)
{
    static const struct test tests[] = {
        TEST(only_the_exact_form_is_accepted),
        TEST(the_ports_are_those_named),
        TEST(without_ports_none_is_shared),
        TEST(random_texts_are_judged_like_a_round_trip),
        TEST(no_entry_is_no_grant),
        TEST(the_cookie_is_the_identity),
        TEST(numbers_out_of_range_are_nothing),
        TEST(a_stale_number_is_searched_at_the_start),
        TEST(a_number_above_the_limit_is_found_too),
        TEST(a_lost_channel_is_searched_for_once),
        TEST(copies_go_to_the_highest_free_number),
        TEST(copies_go_up_when_all_usual_numbers_are_taken),
        TEST(copies_go_above_the_soft_limit_at_last),
        TEST(standard_numbers_are_never_taken),
        TEST(the_spare_is_not_what_will_be_overwritten),
    };
    return run_tests(tests, sizeof tests / sizeof tests[0]);
}
