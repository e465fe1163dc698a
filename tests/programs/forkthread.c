// SPDX-License-Identifier: MIT
// forkthread FORKS [PORT]: forks while another thread binds; each child binds too. Prints the
// counts of results, those of children with `child-` before them.
#include "tally.h"

#include <pthread.h>
#include <sched.h>
#include <sys/wait.h>

static struct tally *in_thread, *in_child;
static atomic_bool begun, stop;
static int port = 80;

static void *work(void *argument)
{
    (void)argument;
    for (unsigned i = 0; !stop; ++i) {
        tally_add(in_thread, bind_once(0x10000 | (i % 4095 + 1), port));
        begun = true;
    }
    return NULL;
}

int main(int argc, char **argv)
{
    int forks = argc > 1 ? atoi(argv[1]) : 100;
    if (argc > 2)
        port = atoi(argv[2]);
    in_thread = tally_new();
    in_child = tally_new();
    pthread_t thread;
    if (pthread_create(&thread, NULL, work, NULL))
        die("pthread_create");
    // On a busy machine all forks may take less time than the thread waits for a processor.
    while (!begun)
        sched_yield();
    for (int i = 0; i < forks; ++i) {
        pid_t child = fork();
        if (child < 0)
            die("fork");
        if (child == 0) {
            alarm(20);
            tally_add(in_child, bind_once(0x20000 | ((unsigned)i % 4095 + 1), port));
            _exit(0);
        }
        int status;
        if (waitpid(child, &status, 0) != child || status != 0)
            tally_add(in_child, 997);
    }
    stop = true;
    pthread_join(thread, NULL);
    int status = tally_print(in_thread, "");
    return tally_print(in_child, "child-") | status;
}
