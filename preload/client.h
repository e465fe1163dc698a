// SPDX-License-Identifier: MIT
// One reserved bind, asked of privbind's helper. The wire is described in docs/architecture.md.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define CLIENT_MAGIC UINT32_C(0x31766270) // pbv1

enum { CLIENT_ADDRESS_MAX = 128 };

struct client_request {
    uint32_t magic;
    uint32_t length;
    unsigned char address[CLIENT_ADDRESS_MAX];
};

struct client_reply {
    uint32_t magic;
    int32_t error;
};

// Before a bind(2): sets SO_REUSEPORT on the socket if the grant names the port for it. The address
// is the program's, and may be anything.
void client_share(int fd, const void *address, unsigned length);

// For a bind(2) that the kernel answered with EACCES: 0 when the helper has bound the socket,
// otherwise the errno that bind(2) has to give. EACCES stands for everything that is not an answer
// of the helper.
int client_bind(int fd, const void *address, unsigned length);
