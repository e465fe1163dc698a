// SPDX-License-Identifier: MIT
// killed ROUNDS [PORT]: kills a process that binds in a loop, each time a little later, then binds
// itself. Prints the counts of its own results.
#include "tally.h"

#include <signal.h>
#include <sys/wait.h>
#include <time.h>

int main(int argc, char **argv)
{
    int rounds = argc > 1 ? atoi(argv[1]) : 100, port = argc > 2 ? atoi(argv[2]) : 80;
    struct tally *tally = tally_new();
    for (int i = 0; i < rounds; ++i) {
        int ready[2];
        char byte = 0;
        if (pipe(ready) < 0)
            die("pipe");
        pid_t child = fork();
        if (child < 0)
            die("fork");
        if (child == 0) {
            bind_once(2, port);
            if (write(ready[1], &byte, 1) != 1)
                _exit(1);
            for (;;)
                bind_once(2, port);
        }
        close(ready[1]);
        if (read(ready[0], &byte, 1) != 1)
            die("read");
        close(ready[0]);
        nanosleep(&(struct timespec){0, (i % 97) * 1237}, NULL);
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        // Another address each time: an answer meant for the dead process would show as a socket
        // bound elsewhere.
        tally_add(tally, bind_once(0x10000 | ((unsigned)i % 4095 + 1), port));
    }
    return tally_print(tally, "");
}
