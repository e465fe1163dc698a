// SPDX-License-Identifier: MIT
// The functions that this library stands in front of: those of the next library in the program's
// search order, so that other preloaded libraries keep working, or the bare system call where no
// library has one. Each keeps libc's convention: -1 and errno.
#pragma once

struct next {
    int (*bind)(int fd, const void *address, unsigned length);
    int (*close)(int fd);
    int (*close_range)(unsigned first, unsigned last, int flags);
    void (*closefrom)(int first);
    int (*dup)(int fd);
    int (*dup2)(int from, int to);
    int (*dup3)(int from, int to, int flags);
    int (*fcntl)(int fd, int command, ...);
    int (*fcntl64)(int fd, int command, ...);
    int (*ioctl)(int fd, unsigned long request, ...);
    int (*spawn_addclose)(void *actions, int fd);
    int (*spawn_adddup2)(void *actions, int from, int to);
    int (*spawn_addopen)(void *actions, int fd, const char *path, int flags, unsigned mode);
    int (*spawn_addclosefrom)(void *actions, int first);
};

extern struct next next;

// Fills `next` from what dlsym(RTLD_NEXT) knows; until then it holds the system calls.
void next_resolve(void);

// Sets errno for a negated errno of the kernel's, as libc does.
long next_result(long result);
