// SPDX-License-Identifier: MIT
// vforkexec [PORT]: binds in a vfork child, in what it execs, and in the parent afterwards, also
// after a child that put something else at every number. Prints `CASE RESULT` for each.
#include "common.h"

#include <fcntl.h>
#include <sys/wait.h>

static void report(const char *what, int error)
{
    printf("%s %s\n", what, errno_name(error));
    fflush(stdout);
}

static int wait_for(pid_t child)
{
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child)
        die("vfork");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 997;
}

int main(int argc, char **argv)
{
    int port = argc > 1 ? atoi(argv[1]) : 80;
    if (argc > 2)
        return bind_once(3, port);
    pid_t child = vfork();
    if (child == 0)
        _exit(bind_once(2, port));
    report("vfork", wait_for(child));
    report("parent", bind_once(1, port));

    char text[16];
    snprintf(text, sizeof text, "%d", port);
    child = vfork();
    if (child == 0) {
        execl("/proc/self/exe", argv[0], text, "child", (char *)NULL);
        _exit(996);
    }
    report("exec", wait_for(child));

    int null = open("/dev/null", O_RDONLY);
    long limit = sysconf(_SC_OPEN_MAX);
    child = vfork();
    if (child == 0) {
        for (int i = 3; i < limit && i < 1024; ++i)
            if (i != null && i != channel_number())
                close(i);
        dup2(null, channel_number());
        _exit(bind_once(4, port));
    }
    report("vfork-dup2", wait_for(child));
    report("parent-after", bind_once(1, port));
    return 0;
}
