// SPDX-License-Identifier: MIT
// net_socketcall ADDRESS PORT...: binds TCP sockets with socketcall(2), as old 32-bit programs do.
// Prints `ok` or the errno's name for each port, `missing` where there is no such system call.
#include "common.h"

int main(int argc, char **argv)
{
#ifdef SYS_socketcall
    for (int next = 2; next < argc; ++next) {
        struct sockaddr_storage address;
        socklen_t length = make_address(&address, argv[1], atoi(argv[next]));
        int fd = socket(address.ss_family, SOCK_STREAM, 0);
        if (!length || fd < 0)
            die("socket");
        unsigned long arguments[] = {(unsigned long)fd, (unsigned long)&address, length};
        long result = syscall(SYS_socketcall, 2, arguments); // SYS_BIND, linux/net.h
        puts(errno_name(result < 0 ? errno : 0));
        close(fd);
    }
    return 0;
#else
    (void)argc;
    (void)argv;
    puts("missing");
    return 2;
#endif
}
