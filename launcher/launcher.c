// SPDX-License-Identifier: MIT
// The program that is installed as `privbind`: starts Python isolated from everything of the
// caller's, and hands it what Python's own start would lose. It has no libc, so that nothing reads
// the environment before it is put aside: what it hands over is described in docs/architecture.md,
// "What the launcher hands to Python".
//
// PRIVBIND_SOURCE is the package's folder, for an editable install; without it, the package is
// found from this program's place. PRIVBIND_PYTHON is an interpreter that is tried first.
#include "boot.h"
#include "start.h"

#include "../preload/sys.h"

#include <elf.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8U // linux/memfd.h, 6.3
#endif

enum {
    STATUS_FAILED = 125,
    SIGNALS = 64,
    SIGNAL_FILE_SIZE = 25,  // SIGXFSZ
    PATH_ROOM = 4096,       // linux/limits.h: PATH_MAX, which freestanding headers do not give
    NUMBERS_FOR_PYTHON = 2, // so many are open at once while it starts
    FIRST_NUMBER = 3,       // Python and the command have their own use for 0, 1 and 2
    ARGUMENTS_BEFORE = 11
};

// The kernel's struct sigaction; libc's has another layout.
struct kernel_sigaction {
    void *handler;
    unsigned long flags;
    void *restorer;
    uint64_t mask;
};

#define IGNORED ((void *)1) // SIG_IGN

struct start {
    char **arguments; // those after the program's name
    size_t count;
    char **environment;
    const char *executed; // the path that execve(2) was given
};

static size_t length(const char *text)
{
    size_t count = 0;
    while (text[count])
        ++count;
    return count;
}

static _Noreturn void leave(int status)
{
    for (;;)
        sys_call(SYS_exit_group, status, 0, 0, 0, 0);
}

static _Noreturn void fail_because(const char *what, const char *object, const char *reason)
{
    // One write, so that the line stays whole among those of other processes.
    char line[PATH_ROOM + 256];
    size_t used = 0;
    const char *parts[] = {PROGRAM ": ", what, object, ": ", reason, "\n"};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; ++i)
        for (const char *c = parts[i]; *c && used < sizeof line; ++c)
            line[used++] = *c;
    sys_write(2, line, used);
    leave(STATUS_FAILED);
}

static _Noreturn void fail(const char *what, const char *object, int error)
{
    const char *reason = error == ENOENT   ? "No such file or directory"
                         : error == EACCES ? "Permission denied"
                         : error == ENOMEM ? "Cannot allocate memory"
                         : error == EMFILE ? "Too many open files (raise the limit: ulimit -n)"
                         : error == E2BIG  ? "Argument list too long"
                         : error == EFBIG  ? "File too large (raise the limit: ulimit -f)"
                                           : NULL;
    char number[] = "error 0000";
    if (!reason) {
        for (size_t i = sizeof number - 2; error > 0 && number[i] == '0'; --i, error /= 10)
            number[i] = (char)('0' + error % 10);
        reason = number;
    }
    fail_because(what, object, reason);
}

// With less memory, Python ends in many lines or by a signal while it starts, or never.
static void check_limit(int resource, uint64_t least, const char *reason)
{
    struct sys_limit limit;
    if (sys_prlimit(resource, NULL, &limit) == 0 && limit.soft < least)
        fail_because("cannot start Python ", "with so little memory", reason);
}

static struct start read_stack(long *stack)
{
    struct start start = {0};
    size_t argc = (size_t)stack[0];
    start.arguments = (char **)(stack + 1) + (argc > 0);
    start.count = argc > 0 ? argc - 1 : 0;
    start.environment = (char **)(stack + 1) + argc + 1;
    char **end = start.environment;
    while (*end)
        ++end;
    start.executed = "";
    for (const unsigned long *entry = (const unsigned long *)(end + 1); entry[0] != AT_NULL;
         entry += 2)
        if (entry[0] == AT_EXECFN)
            start.executed = (const char *)entry[1];
    return start;
}

// The folder of this program's file, without the slash; links are resolved where /proc tells.
static void find_place(char place[PATH_ROOM], const char *executed)
{
    long size =
        sys_call(SYS_readlinkat, AT_FDCWD, (long)"/proc/self/exe", (long)place, PATH_ROOM - 1, 0);
    if (size < 0)
        for (size = 0; size < PATH_ROOM - 1 && executed[size]; ++size)
            place[size] = executed[size];
    while (size > 0 && place[size - 1] != '/')
        --size;
    if (size == 0)
        place[size++] = '.';
    else if (size > 1)
        --size;
    place[size] = '\0';
}

static int signal_action(int signal, const struct kernel_sigaction *set,
                         struct kernel_sigaction *old)
{
    return (int)sys_call(SYS_rt_sigaction, signal, (long)set, (long)old, sizeof set->mask, 0);
}

// Bit 0 is signal 1.
static uint64_t ignored_signals(void)
{
    uint64_t ignored = 0;
    for (int signal = 1; signal <= SIGNALS; ++signal) {
        struct kernel_sigaction action;
        if (signal_action(signal, NULL, &action) == 0 && action.handler == IGNORED)
            ignored |= UINT64_C(1) << (signal - 1);
    }
    return ignored;
}

static char *format(char buffer[24], uint64_t value, unsigned base)
{
    char *end = buffer + 23;
    *end = '\0';
    do
        *--end = "0123456789abcdef"[value % base];
    while (value /= base);
    return end;
}

static void write_all(int fd, const char *text, size_t size)
{
    while (size > 0) {
        long written = sys_write(fd, text, size);
        if (written == -EINTR)
            continue;
        if (written <= 0)
            fail("cannot keep the ", "environment", (int)-written);
        text += written;
        size -= (size_t)written;
    }
}

// A memory file with the environment, at a free number from 3 on.
static int keep_environment(char **environment)
{
    const char *name = "privbind-environment";
    long fd = sys_call(SYS_memfd_create, (long)name, MFD_NOEXEC_SEAL, 0, 0, 0);
    if (fd == -EINVAL)
        fd = sys_call(SYS_memfd_create, (long)name, 0, 0, 0, 0);
    if (fd >= 0 && fd < FIRST_NUMBER) {
        int moved = sys_fcntl((int)fd, F_DUPFD, FIRST_NUMBER);
        sys_close((int)fd);
        fd = moved;
    }
    if (fd < 0)
        fail("cannot keep the ", "environment", (int)-fd);
    // The caller's limit on file sizes counts for memory files too, so it is lifted meanwhile.
    // Where that is not possible, a write fails with EFBIG and a message, not by SIGXFSZ.
    struct sys_limit limit, none = {UINT64_MAX, UINT64_MAX};
    struct kernel_sigaction action, ignore = {.handler = IGNORED};
    sys_prlimit(RLIMIT_FSIZE, NULL, &limit);
    if (sys_prlimit(RLIMIT_FSIZE, &none, NULL) < 0)
        sys_prlimit(RLIMIT_FSIZE, &(struct sys_limit){limit.hard, limit.hard}, NULL);
    signal_action(SIGNAL_FILE_SIZE, &ignore, &action);
    for (; *environment; ++environment)
        write_all((int)fd, *environment, length(*environment) + 1);
    signal_action(SIGNAL_FILE_SIZE, &action, NULL);
    sys_prlimit(RLIMIT_FSIZE, &limit, NULL);
    sys_call(SYS_lseek, fd, 0, 0 /* SEEK_SET */, 0, 0);
    // Python's loader gives no useful message when no number is free.
    int room[NUMBERS_FOR_PYTHON];
    for (size_t i = 0; i < NUMBERS_FOR_PYTHON; ++i)
        if ((room[i] = sys_dup((int)fd)) < 0)
            fail("cannot start ", "Python", -room[i]);
    for (size_t i = 0; i < NUMBERS_FOR_PYTHON; ++i)
        sys_close(room[i]);
    return (int)fd;
}

// Returns only if there is no such interpreter.
static void try_python(const char *path, char **arguments)
{
    char *const nothing = NULL;
    arguments[0] = (char *)(uintptr_t)path;
    int error = -(int)sys_call(SYS_execve, (long)path, (long)arguments, (long)&nothing, 0, 0);
    if (error != ENOENT && error != EACCES && error != ENOTDIR)
        fail("cannot start Python: ", path, error);
}

void launch(long *stack)
{
    struct start start = read_stack(stack);
    check_limit(RLIMIT_DATA, 8 << 20, "raise the limit to 8 MiB at least (ulimit -d)");
    check_limit(RLIMIT_AS, 32 << 20, "raise the limit to 32 MiB at least (ulimit -v)");
    char place[PATH_ROOM], beside[PATH_ROOM + 16];
    find_place(place, start.executed);

    char ignored[24], descriptor[24];
    // The kernel bounds what it puts on the stack to a quarter of its limit, so a second array has
    // room.
    char **arguments = __builtin_alloca((ARGUMENTS_BEFORE + start.count + 1) * sizeof(char *));
    size_t used = 1; // the interpreter's own name comes first
#define ARGUMENT(text) arguments[used++] = (char *)(uintptr_t)(text)
    ARGUMENT("-I");
    ARGUMENT("-S");
    ARGUMENT("-B"); // no bytecode is written: with the caller's umask, others might change it
    ARGUMENT("-X");
    ARGUMENT("utf8");
    ARGUMENT("-c");
    ARGUMENT(BOOT);
#ifdef PRIVBIND_SOURCE
    ARGUMENT("src:" PRIVBIND_SOURCE);
#else
    ARGUMENT(place);
#endif
    ARGUMENT(format(ignored, ignored_signals(), 16));
    ARGUMENT(format(descriptor, (uint64_t)keep_environment(start.environment), 10));
    for (size_t i = 0; i < start.count; ++i)
        ARGUMENT(start.arguments[i]);
    ARGUMENT(NULL);

#ifdef PRIVBIND_PYTHON
    try_python(PRIVBIND_PYTHON, arguments);
#endif
    size_t end = length(place);
    for (size_t i = 0; i < end; ++i)
        beside[i] = place[i];
    const char *name = end == 1 && place[0] == '/' ? "python3" : "/python3";
    for (size_t i = 0; i <= length(name); ++i)
        beside[end + i] = name[i];
    try_python(beside, arguments);
    try_python("/usr/bin/python3", arguments);
    fail("cannot start Python, neither /usr/bin/python3 nor ", beside, ENOENT);
}
