// SPDX-License-Identifier: MIT
// The libc functions by which programs close or replace descriptors, done so that the channel
// survives and its number looks closed. Each has the convention of the libc function it stands for.
#pragma once

int guard_close(int fd);
int guard_close_range(unsigned first, unsigned last, int flags);
void guard_closefrom(int first);
int guard_dup(int fd);
int guard_dup2(int from, int to);
int guard_dup3(int from, int to, int flags);

int guard_spawn_addclose(void *actions, int fd);
int guard_spawn_adddup2(void *actions, int from, int to);
int guard_spawn_addopen(void *actions, int fd, const char *path, int flags, unsigned mode);
int guard_spawn_addclosefrom(void *actions, int first);
