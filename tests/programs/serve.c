// SPDX-License-Identifier: MIT
// serve [PORT]: a web server of one page, "hello", on every IPv4 address.
#include "common.h"

int main(int argc, char **argv)
{
    static const char page[] = "HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\nhello\n";
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(80)};
    if (argc > 1)
        address.sin_port = htons((unsigned short)atoi(argv[1]));
    int server = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(server, (struct sockaddr *)&address, sizeof address) < 0) {
        perror("bind");
        return 1;
    }
    listen(server, 8);
    for (;;) {
        char request[4096];
        int client = accept(server, NULL, NULL);
        if (client < 0)
            continue;
        if (read(client, request, sizeof request) > 0 && write(client, page, sizeof page - 1) < 0)
            perror("write");
        close(client);
    }
}
