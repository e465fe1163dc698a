// SPDX-License-Identifier: MIT
// fullfds [PORT]: binds with 0, 1, 2 … 4 free descriptor numbers besides the socket. Prints `FREE
// RESULT` for each.
#include "common.h"

#include <fcntl.h>

int main(int argc, char **argv)
{
    int port = argc > 1 ? atoi(argv[1]) : 80;
    for (int spare = 0; spare <= 4; ++spare) {
        int filled[4096], count = 0, fd;
        int socket_fd = socket(AF_INET, SOCK_STREAM, 0);
        while (count < 4096 && (fd = open("/dev/null", O_RDONLY)) >= 0)
            filled[count++] = fd;
        for (int i = 0; i < spare && count > 0; ++i)
            close(filled[--count]);
        struct sockaddr_in address = {.sin_family = AF_INET,
                                      .sin_port = htons((uint16_t)port),
                                      .sin_addr.s_addr = htonl(0x7f000001 + (unsigned)spare)};
        int error = bind(socket_fd, (void *)&address, sizeof address) < 0 ? errno : 0;
        printf("%d %s\n", spare, errno_name(error));
        fflush(stdout);
        while (count > 0)
            close(filled[--count]);
        close(socket_fd);
    }
    return 0;
}
