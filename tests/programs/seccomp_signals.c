// SPDX-License-Identifier: MIT
// seccomp_signals BINDS PERIOD_US: binds under a timer whose handler has SA_RESTART. Prints the
// count of each result, and the ticks.
#include "tally.h"

#include <signal.h>
#include <sys/time.h>

static volatile sig_atomic_t ticks;

static void on_alarm(int number)
{
    (void)number;
    ++ticks;
}

int main(int argc, char **argv)
{
    if (argc < 3)
        die("usage: seccomp_signals BINDS PERIOD_US");
    int binds = atoi(argv[1]), period = atoi(argv[2]);
    struct tally *tally = tally_new();
    struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
    struct itimerval often = {{0, period}, {0, period}}, never = {{0, 0}, {0, 0}};
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &often, NULL);
    for (int i = 0; i < binds; ++i)
        tally_add(tally, bind_once(0x10000 | ((unsigned)i % 4095 + 1), 80));
    setitimer(ITIMER_REAL, &never, NULL);
    int status = tally_print(tally, "");
    printf("ticks %d\n", (int)ticks);
    return status;
}
