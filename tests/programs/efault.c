// SPDX-License-Identifier: MIT
// efault [PORT]: bind with addresses that cannot be read and lengths that make no sense. Prints
// `CASE RESULT` for each.
#include "common.h"

#include <sys/mman.h>

static void attempt(const char *name, const void *address, socklen_t length)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0)
        die("socket");
    long result = bind(fd, address, length);
    printf("%s %s\n", name, errno_name(result < 0 ? errno : 0));
    close(fd);
}

int main(int argc, char **argv)
{
    long page = sysconf(_SC_PAGESIZE);
    unsigned char *pages =
        mmap(NULL, (size_t)page * 2, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED || munmap(pages + page, (size_t)page) < 0)
        die("mmap");
    struct sockaddr_in good = {.sin_family = AF_INET,
                               .sin_port = htons((uint16_t)(argc > 1 ? atoi(argv[1]) : 80)),
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    unsigned char *last = pages + page - sizeof good;
    memcpy(last, &good, sizeof good);
    struct sockaddr_storage large = {0};
    memcpy(&large, &good, sizeof good);
    attempt("null", NULL, sizeof good);
    attempt("one", (void *)1, sizeof good);
    attempt("kernel", (void *)~0xfffUL, sizeof good);
    attempt("unmapped", pages + page, sizeof good);
    attempt("half", last + 8, sizeof good);
    attempt("end-of-page", last, sizeof good);
    attempt("storage", &large, sizeof large);
    attempt("too-long", last, sizeof large + 1);
    attempt("negative", &good, (socklen_t)-1);
    attempt("empty", &good, 0);
    attempt("null-empty", NULL, 0);
    attempt("family-only", &good, 2);
    attempt("port-too", &good, 4);
    attempt("too-short", &good, sizeof good - 1);
    good.sin_family = AF_UNIX;
    attempt("unix", &good, sizeof good);
    good.sin_family = 99;
    attempt("unknown", &good, sizeof good);
    printf("no-socket %s\n", errno_name(bind(0, (void *)&large, sizeof good) < 0 ? errno : 0));
    printf("closed %s\n", errno_name(bind(-1, (void *)&large, sizeof good) < 0 ? errno : 0));
    return 0;
}
