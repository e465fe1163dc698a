// SPDX-License-Identifier: MIT
// libc's own functions that bind reserved ports. They call bind inside libc, where no library can
// stand in front of it, so they are written again here, with a bind that asks the helper.
#pragma once

int resvport_socket(int *port, int family);
int resvport_bind(int fd, void *address);
