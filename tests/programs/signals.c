// SPDX-License-Identifier: MIT
// signals BINDS PERIOD_US: binds under a timer without SA_RESTART; each tick's handler binds too.
// Prints the counts of results, those of the handler with `handler-` before them. Where so many
// take less time than the first tick, more are made until it comes, though not for ever: `more-`.
#include "tally.h"

#include <signal.h>
#include <sys/time.h>

enum { TIMES_MORE = 1000 };

static struct tally *in_main, *in_more, *in_handler;
static volatile unsigned tick;

static void on_alarm(int number)
{
    int before = errno;
    (void)number;
    tally_add(in_handler, bind_once(0x20000 | (++tick % 4095 + 1), 80));
    errno = before;
}

int main(int argc, char **argv)
{
    if (argc < 3)
        die("usage: signals BINDS PERIOD_US");
    int binds = atoi(argv[1]), period = atoi(argv[2]);
    in_main = tally_new();
    in_more = tally_new();
    in_handler = tally_new();
    struct sigaction action = {.sa_handler = on_alarm};
    struct itimerval often = {{0, period}, {0, period}}, never = {0};
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &often, NULL);
    for (int i = 0; i < binds; ++i)
        tally_add(in_main, bind_once(0x10000 | ((unsigned)i % 4095 + 1), 80));
    for (int i = 0; tick == 0 && i < TIMES_MORE * binds; ++i)
        tally_add(in_more, bind_once(0x10000 | ((unsigned)i % 4095 + 1), 80));
    setitimer(ITIMER_REAL, &never, NULL);
    int status = tally_print(in_main, "") | tally_print(in_more, "more-");
    return tally_print(in_handler, "handler-") | status;
}
