// SPDX-License-Identifier: MIT
// daemon [PORT]: becomes a daemon the old way (fork, setsid, fork, close every descriptor), then
// binds. Prints the result.
#include "common.h"

#include <fcntl.h>
#include <semaphore.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

struct shared {
    sem_t done;
    int result;
};

int main(int argc, char **argv)
{
    int port = argc > 1 ? atoi(argv[1]) : 80;
    struct shared *shared =
        mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED || sem_init(&shared->done, 1, 0) < 0)
        die("mmap");
    pid_t child = fork();
    if (child < 0)
        die("fork");
    if (child == 0) {
        setsid();
        if (fork() != 0)
            _exit(0);
        umask(0);
        if (chdir("/") < 0)
            _exit(1);
        for (long i = sysconf(_SC_OPEN_MAX) - 1; i >= 0; --i)
            close((int)i);
        open("/dev/null", O_RDWR);
        if (dup(0) != 1 || dup(0) != 2)
            _exit(1);
        shared->result = bind_once(1, port);
        sem_post(&shared->done);
        _exit(0);
    }
    waitpid(child, NULL, 0);
    struct timespec limit;
    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += 20;
    while (sem_timedwait(&shared->done, &limit) < 0)
        if (errno != EINTR)
            die("the daemon never answered");
    puts(errno_name(shared->result));
    return shared->result != 0;
}
