// SPDX-License-Identifier: MIT
// procs PROCESSES BINDS [PORT]: as threads, with processes. All wait until the last has started.
#include "tally.h"

#include <sys/wait.h>

int main(int argc, char **argv)
{
    if (argc < 3)
        die("usage: procs PROCESSES BINDS [PORT]");
    int processes = atoi(argv[1]), binds = atoi(argv[2]), port = argc > 3 ? atoi(argv[3]) : 80;
    struct tally *tally = tally_new();
    int gate[2];
    if (pipe(gate) < 0)
        die("pipe");
    for (int p = 0; p < processes; ++p) {
        pid_t child = fork();
        if (child < 0)
            die("fork");
        if (child == 0) {
            char byte;
            close(gate[1]);
            if (read(gate[0], &byte, 1) < 0)
                die("read");
            for (int i = 0; i < binds; ++i)
                tally_add(tally,
                          bind_once(((unsigned)p + 1) << 12 | ((unsigned)i % 4095 + 1), port));
            _exit(0);
        }
    }
    close(gate[1]);
    int status, lost = 0;
    while (wait(&status) > 0)
        lost += status != 0;
    if (lost)
        printf("lost %d\n", lost);
    return tally_print(tally, "") | (lost != 0);
}
