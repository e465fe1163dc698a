// SPDX-License-Identifier: MIT
// trybind [-raw] [-hold] [-hex] (PROTOCOL FAMILY ADDRESS PORT)...: binds one socket after the other
// and closes it. Prints `ok ADDRESS PORT` or the errno's name for each; status 0 if all were bound.
//   -raw   by the system call, not through libc
//   -hold  keeps them, and at the end waits for the end of standard input
//   -hex   ADDRESS is a whole sockaddr in hexadecimal; PORT is the length given to bind
#include "common.h"

static socklen_t parse_hex(struct sockaddr_storage *address, const char *text)
{
    unsigned char *bytes = (unsigned char *)address;
    memset(address, 0, sizeof *address);
    for (size_t i = 0; i < sizeof *address && text[2 * i] && text[2 * i + 1]; ++i) {
        unsigned value;
        if (sscanf(text + 2 * i, "%2x", &value) != 1)
            return 0;
        bytes[i] = (unsigned char)value;
    }
    return 1;
}

int main(int argc, char **argv)
{
    bool raw = false, hold = false, hex = false, all = true;
    int next = 1;
    for (; next < argc && argv[next][0] == '-'; ++next) {
        raw |= strcmp(argv[next], "-raw") == 0;
        hold |= strcmp(argv[next], "-hold") == 0;
        hex |= strcmp(argv[next], "-hex") == 0;
    }
    for (; next + 3 < argc; next += 4) {
        struct sockaddr_storage address;
        int number = atoi(argv[next + 3]);
        socklen_t length = hex ? parse_hex(&address, argv[next + 2])
                               : make_address(&address, argv[next + 2], number);
        if (hex && length)
            length = (socklen_t)number;
        else if (!length)
            die("not an address");
        int fd = open_socket(argv[next], argv[next + 1]);
        if (fd < 0) { // a kernel without this protocol
            puts(errno_name(errno));
            all = false;
            continue;
        }
        long result = raw ? syscall(SYS_bind, fd, &address, length)
                          : bind(fd, (struct sockaddr *)&address, length);
        char text[INET6_ADDRSTRLEN];
        int port;
        if (result < 0)
            puts(errno_name(errno));
        else if (bound_to(fd, text, &port))
            printf("ok %s %d\n", text, port);
        else
            puts("unbound");
        all = all && result == 0;
        if (!hold)
            close(fd);
    }
    fflush(stdout);
    char byte;
    while (hold && read(0, &byte, 1) > 0)
        continue;
    return all ? 0 : 1;
}
