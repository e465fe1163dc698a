// SPDX-License-Identifier: MIT
// One bind's conversation with the helper: what is sent, what is believed, and what every failure
// becomes.
#include "helper.h"

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/time.h>

static void without_a_channel_nothing_is_asked(void)
{
    CHECK(ask(80) == EACCES);
}

static bool shared_by(const void *address, unsigned length, int family, int type)
{
    int fd = socket(family, type | SOCK_CLOEXEC, 0), on = 0;
    socklen_t size = sizeof on;
    CHECK(fd >= 0);
    errno = 4711;
    client_share(fd, address, length);
    CHECK(errno == 4711);
    CHECK(getsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, &size) == 0);
    close(fd);
    return on != 0;
}

static void only_the_ports_named_are_shared(void)
{
    char *environment[] = {"PRIVBIND_CHANNEL=7:f:80-80,8080-8090", NULL};
    struct sockaddr_in6 address = {0};
    static const int ports[] = {0, 79, 80, 81, 8079, 8080, 8090, 8091};
    for (int named = 0; named < 2; ++named) {
        for (size_t i = 0; i < sizeof ports / sizeof ports[0]; ++i) {
            bool wanted = named && (ports[i] == 80 || (ports[i] >= 8080 && ports[i] <= 8090));
            address.sin6_port = htons((uint16_t)ports[i]);
            address.sin6_family = AF_INET;
            CHECK(shared_by(&address, 16, AF_INET, SOCK_STREAM) == wanted);
            CHECK(shared_by(&address, 128, AF_INET, SOCK_DGRAM) == wanted);
            address.sin6_family = AF_UNSPEC;
            CHECK(shared_by(&address, 16, AF_INET, SOCK_STREAM) == wanted);
            address.sin6_family = AF_INET6;
            CHECK(shared_by(&address, sizeof address, AF_INET6, SOCK_STREAM) == wanted);
            CHECK(shared_by(&address, sizeof address, AF_INET6, SOCK_DGRAM) == wanted);
            address.sin6_family = AF_UNIX;
            CHECK(!shared_by(&address, sizeof address, AF_INET6, SOCK_STREAM));
        }
        channel_start(environment);
    }
}

// The kernel's answer to such an address is EFAULT, and it must be the kernel that looks.
static void an_address_that_cannot_be_read_is_left_to_the_kernel(void)
{
    char *environment[] = {"PRIVBIND_CHANNEL=7:f:1-65535", NULL};
    long size = sysconf(_SC_PAGESIZE);
    char *page =
        mmap(NULL, 2 * (size_t)size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED && munmap(page + size, (size_t)size) == 0);
    struct sockaddr_in good = address_of(80);
    char *end = page + size;
    memcpy(end - sizeof good, &good, sizeof good);
    channel_start(environment);
    CHECK(shared_by(end - sizeof good, sizeof good, AF_INET, SOCK_STREAM));
    memcpy(end - 4, &good, 4);
    const void *const bad[] = {NULL, (void *)1, end, end - 4, (void *)(uintptr_t)-4096};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; ++i)
        CHECK(!shared_by(bad[i], sizeof good, AF_INET, SOCK_STREAM));
    for (unsigned length = 0; length < sizeof good; ++length)
        CHECK(!shared_by(&good, length, AF_INET, SOCK_STREAM));
    // No socket at all.
    client_share(-1, &good, sizeof good);
    client_share(9999, &good, sizeof good);
}

static void only_what_the_helper_may_do_is_sent(void)
{
    int channel, helper = open_channel(-1, &channel);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    unsigned char bytes[256] = {AF_INET, 0, 0, 80};
    for (unsigned length = 0; length < 4; ++length)
        CHECK(client_bind(fd, bytes, length) == EACCES);
    CHECK(client_bind(fd, NULL, 0) == EACCES);
    CHECK(client_bind(fd, bytes, 129) == EACCES);
    CHECK(client_bind(fd, bytes, ~0U) == EACCES);
    bytes[3] = 0; // port 0 is never reserved
    CHECK(client_bind(fd, bytes, 16) == EACCES);
    bytes[3] = 80;
    static const int families[] = {AF_UNIX, AF_NETLINK, AF_PACKET, 255};
    for (size_t i = 0; i < sizeof families / sizeof families[0]; ++i) {
        bytes[0] = (unsigned char)families[i];
        CHECK(client_bind(fd, bytes, 16) == EACCES);
    }
    bytes[0] = AF_INET;
    bytes[1] = 1;
    CHECK(client_bind(fd, bytes, 16) == EACCES);
    CHECK(recv(helper, bytes, sizeof bytes, MSG_DONTWAIT) < 0 && errno == EAGAIN);
}

static void expect_request(int family, unsigned length)
{
    int channel, helper = open_channel(-1, &channel);
    unsigned char bytes[128];
    for (unsigned i = 0; i < sizeof bytes; ++i)
        bytes[i] = (unsigned char)(i * 7 + 1);
    memcpy(bytes, &(uint16_t){(uint16_t)family}, 2);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    pid_t child = fork();
    if (child == 0) {
        close(channel);
        struct asked asked = receive(helper);
        CHECK(asked.size == 8 + (ssize_t)length);
        CHECK(asked.request.magic == 0x31766270 && asked.request.length == length);
        CHECK(memcmp(asked.request.address, bytes, length) == 0);
        CHECK(inode(asked.fds[0]) == inode(fd));
        struct client_reply reply = {CLIENT_MAGIC, 0};
        answer(&asked, &reply, sizeof reply);
        _exit(0);
    }
    int status;
    CHECK(client_bind(fd, bytes, length) == 0);
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static void the_request_is_as_documented(void)
{
    expect_request(AF_INET, 16);
}

static void other_families_and_lengths_too(void)
{
    static const struct {
        int family;
        unsigned length;
    } cases[] = {{AF_INET, 4}, {AF_INET, 128}, {AF_INET6, 28}, {AF_INET6, 24}, {AF_UNSPEC, 16}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; ++i) {
        pid_t child = fork();
        if (child == 0) {
            expect_request(cases[i].family, cases[i].length);
            exit(0);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
    }
}

static void errnos_come_through(void)
{
    start_helper(-1, answer_the_port);
    int before = count_descriptors();
    for (int error = 1; error < 4096; error += error < 200 ? 1 : 97)
        CHECK(ask(error) == error);
    CHECK(ask(4095) == 4095 && ask(4096) == EACCES && ask(65535) == EACCES);
    CHECK(count_descriptors() == before);
}

// The address ends with the answer that the helper is to give, after its size.
static void answer_as_told(const struct asked *asked)
{
    answer(asked, asked->request.address + 5, asked->request.address[4]);
}

static int told(uint32_t magic, int32_t error, unsigned char size)
{
    unsigned char address[128] = {0};
    struct client_reply reply = {magic, error};
    memcpy(address, &(uint16_t){AF_INET}, 2);
    address[3] = 80;
    address[4] = size;
    memcpy(address + 5, &reply, sizeof reply);
    return client_bind(1, address, sizeof address);
}

static void only_a_whole_answer_counts(void)
{
    start_helper(-1, answer_as_told);
    CHECK(told(CLIENT_MAGIC, 0, 8) == 0 && told(CLIENT_MAGIC, EADDRINUSE, 8) == EADDRINUSE);
    for (unsigned char size = 0; size < 64; ++size)
        CHECK(size == 8 || told(CLIENT_MAGIC, 0, size) == EACCES);
    CHECK(told(CLIENT_MAGIC ^ 1, 0, 8) == EACCES && told(0, 0, 8) == EACCES);
    CHECK(told(CLIENT_MAGIC, -1, 8) == EACCES && told(CLIENT_MAGIC, 4096, 8) == EACCES);
    CHECK(told(CLIENT_MAGIC, INT32_MIN, 8) == EACCES && told(CLIENT_MAGIC, INT32_MAX, 8) == EACCES);
}

static void garbage_is_no_answer(void)
{
    start_helper(-1, answer_as_told);
    int before = count_descriptors();
    srandom(3);
    for (int round = 0; round < 3000; ++round) {
        uint32_t magic = random() % 2 ? CLIENT_MAGIC : (uint32_t)random();
        int32_t error = (int32_t)(random() % 2 ? random() : random() % 8192 - 4096);
        unsigned char size = (unsigned char)(random() % 2 ? 8 : random() % 120);
        bool good = magic == CLIENT_MAGIC && error >= 0 && error < 4096 && size == 8;
        CHECK(told(magic, error, size) == (good ? error : EACCES));
    }
    CHECK(count_descriptors() == before);
}

static void stay_silent(const struct asked *asked)
{
    (void)asked;
}

static void a_closed_reply_socket_is_no_answer(void)
{
    start_helper(-1, stay_silent);
    for (int i = 0; i < 100; ++i)
        CHECK(ask(80) == EACCES);
}

static void a_dead_helper_is_no_answer(void)
{
    int channel, helper = open_channel(-1, &channel);
    CHECK(signal(SIGPIPE, SIG_DFL) != SIG_ERR);
    close(helper);
    int before = count_descriptors();
    for (int i = 0; i < 100; ++i)
        CHECK(ask(80) == EACCES);
    CHECK(count_descriptors() == before);
}

static void die_with_reply_socket_kept(const struct asked *asked)
{
    (void)asked;
    // A relative of the command that was forked in the middle of its bind holds such a copy.
    if (fork() == 0) {
        // Whoever started the tests may ignore both.
        signal(SIGTERM, SIG_DFL);
        signal(SIGALRM, SIG_DFL);
        alarm(20);
        for (int i = 0; i < 64; ++i)
            if (i != asked->fds[1])
                close(i);
        pause();
    }
    _exit(0);
}

static void a_helper_that_dies_hangs_nobody(void)
{
    signal(SIGCHLD, SIG_IGN);
    setpgid(0, 0);
    start_helper(-1, die_with_reply_socket_kept);
    CHECK(ask(80) == EACCES);
    signal(SIGTERM, SIG_IGN);
    kill(0, SIGTERM); // ends the holder
}

static void answer_and_die(const struct asked *asked)
{
    answer_the_port(asked);
    _exit(0);
}

static void an_answer_before_death_counts(void)
{
    for (int i = 0; i < 100; ++i) {
        pid_t child = fork();
        if (child == 0) {
            start_helper(-1, answer_and_die);
            CHECK(ask(111) == 111);
            CHECK(ask(111) == EACCES);
            exit(0);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
    }
}

static void two_free_numbers_are_enough(void)
{
    start_helper(-1, answer_the_port);
    struct sockaddr_in address = address_of(0xfff);
    int fd = socket(AF_INET, SOCK_STREAM, 0), filled[64], count = 0;
    set_limit(32, 32);
    while ((filled[count] = dup(1)) >= 0)
        ++count;
    CHECK(client_bind(fd, &address, sizeof address) == EACCES);
    close(filled[--count]);
    CHECK(client_bind(fd, &address, sizeof address) == EACCES);
    close(filled[--count]);
    CHECK(client_bind(fd, &address, sizeof address) == 0xfff);
    close(filled[--count]);
    CHECK(client_bind(fd, &address, sizeof address) == 0xfff);
    CHECK(dup(1) >= 0 && dup(1) >= 0 && dup(1) >= 0 && dup(1) < 0);
}

static volatile sig_atomic_t ticks, in_handler;
static int kept_over_exec;

static int count_kept_over_exec(void)
{
    int count = 0;
    for (int i = 0; i < 64; ++i)
        count += sys_fcntl(i, F_GETFD, 0) == 0;
    return count;
}

static void on_tick(int number)
{
    (void)number;
    ++ticks;
    // What another thread execs now gets none of a bind's descriptors.
    CHECK(count_kept_over_exec() == kept_over_exec);
    // Inside a bind that waits for its own answer.
    if (ticks % 5 == 0 && ask(222) == 222)
        ++in_handler;
}

static void answer_late(const struct asked *asked)
{
    usleep(3000);
    answer_the_port(asked);
}

static void signals_do_not_show(void)
{
    start_helper(-1, answer_late);
    struct sigaction action = {.sa_handler = on_tick};
    struct itimerval often = {{0, 900}, {0, 900}}, never = {{0, 0}, {0, 0}};
    kept_over_exec = count_kept_over_exec();
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    setitimer(ITIMER_REAL, &often, NULL);
    for (int i = 0; i < 100; ++i)
        CHECK(ask(300 + i) == 300 + i);
    setitimer(ITIMER_REAL, &never, NULL);
    CHECK(ticks > 20 && in_handler == ticks / 5);
}

static void *ask_often(void *argument)
{
    int first = (int)(intptr_t)argument;
    for (int i = 0; i < 300; ++i)
        CHECK(ask(first + i) == first + i);
    return NULL;
}

static void threads_get_their_own_answers(void)
{
    start_helper(-1, answer_the_port);
    pthread_t threads[4];
    for (int i = 0; i < 4; ++i)
        CHECK(pthread_create(&threads[i], NULL, ask_often, (void *)(intptr_t)(100 + i * 1000)) ==
              0);
    for (int i = 0; i < 4; ++i)
        pthread_join(threads[i], NULL);
}

static void a_full_nonblocking_channel_is_waited_for(void)
{
    int channel, helper = open_channel(-1, &channel);
    char filler[512] = {0};
    CHECK(fcntl(channel, F_SETFL, O_NONBLOCK) == 0);
    while (send(channel, filler, sizeof filler, MSG_DONTWAIT) > 0)
        continue;
    pid_t child = fork();
    if (child == 0) {
        close(channel);
        usleep(50000);
        for (;;) {
            char byte;
            if (recv(helper, &byte, 1, MSG_PEEK) <= 0)
                _exit(0);
            if (byte == 0) {
                recv(helper, &byte, 1, 0);
                continue;
            }
            struct asked asked = receive(helper);
            answer_the_port(&asked);
            finish(&asked);
        }
    }
    close(helper);
    CHECK(ask(444) == 444);
    // And is not waited for when nobody will ever read it.
    while (send(channel, filler, sizeof filler, MSG_DONTWAIT) > 0 || errno == EINTR)
        continue;
    kill(child, SIGKILL);
    CHECK(ask(444) == EACCES);
}

static void another_socket_at_the_number_is_not_written_to(void)
{
    int channel, pair[2];
    char byte;
    open_channel(-1, &channel);
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0);
    CHECK(dup2(pair[0], channel) == channel);
    CHECK(ask(80) == EACCES);
    CHECK(recv(pair[1], &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN);
}

int main(void)
{
    static const struct test tests[] = {
        TEST(without_a_channel_nothing_is_asked),
        TEST(only_the_ports_named_are_shared),
        TEST(an_address_that_cannot_be_read_is_left_to_the_kernel),
        TEST(only_what_the_helper_may_do_is_sent),
        TEST(the_request_is_as_documented),
        TEST(other_families_and_lengths_too),
        TEST(errnos_come_through),
        TEST(only_a_whole_answer_counts),
        TEST(garbage_is_no_answer),
        TEST(a_closed_reply_socket_is_no_answer),
        TEST(a_dead_helper_is_no_answer),
        TEST(a_helper_that_dies_hangs_nobody),
        TEST(an_answer_before_death_counts),
        TEST(two_free_numbers_are_enough),
        TEST(signals_do_not_show),
        TEST(threads_get_their_own_answers),
        TEST(a_full_nonblocking_channel_is_waited_for),
        TEST(another_socket_at_the_number_is_not_written_to),
    };
    return run_tests(tests, sizeof tests / sizeof tests[0]);
}
