// SPDX-License-Identifier: MIT
// libc's own users of reserved ports. Their bind is inside libc, where no library stands before it,
// so they are done again here over a bind that asks the helper.
#pragma once

int resvport_socket(int *port, int family);
int resvport_bind(int fd, void *address);
