// SPDX-License-Identifier: MIT
// net_uring ADDRESS PORT...: binds TCP sockets with io_uring's IORING_OP_BIND (Linux 6.11). Prints
// `ok` or the errno's name for each port; `missing` where the kernel has no such operation.
#include "common.h"

#include <stdint.h>
#include <sys/mman.h>

// linux/io_uring.h, which musl's compiler does not find.
enum { OP_BIND = 56, ENTER_GETEVENTS = 1, FEATURE_SINGLE_MMAP = 1 };
#define OFFSET_RINGS 0
#define OFFSET_ENTRIES 0x10000000

struct submission {
    uint8_t opcode, flags;
    uint16_t priority;
    int32_t fd;
    uint64_t offset, address;
    uint32_t rest[10];
};

struct completion {
    uint64_t data;
    int32_t result;
    uint32_t flags;
};

struct params {
    uint32_t sq_entries, cq_entries, flags, cpu, idle, features, wq_fd, unused[3];
    struct {
        uint32_t head, tail, mask, entries, flags, dropped, array, unused;
        uint64_t user;
    } sq;
    struct {
        uint32_t head, tail, mask, entries, overflow, cqes, flags, unused;
        uint64_t user;
    } cq;
};

_Static_assert(sizeof(struct submission) == 64, "struct io_uring_sqe");
_Static_assert(sizeof(struct params) == 120, "struct io_uring_params");

static struct params params;
static struct submission *entries;
static char *rings;
static int ring;

static void *map(size_t size, off_t offset)
{
    int protection = PROT_READ | PROT_WRITE;
    void *memory = mmap(NULL, size, protection, MAP_SHARED | MAP_POPULATE, ring, offset);
    if (memory == MAP_FAILED)
        die("mmap");
    return memory;
}

static bool open_ring(void)
{
    ring = (int)syscall(SYS_io_uring_setup, 1, &params);
    if (ring < 0 || !(params.features & FEATURE_SINGLE_MMAP))
        return false;
    size_t submissions = params.sq.array + params.sq_entries * sizeof(uint32_t);
    size_t completions = params.cq.cqes + params.cq_entries * sizeof(struct completion);
    rings = map(submissions > completions ? submissions : completions, OFFSET_RINGS);
    entries = map(params.sq_entries * sizeof *entries, OFFSET_ENTRIES);
    return true;
}

// What the operation gave: 0, or an errno.
static int ring_bind(int fd, struct sockaddr_storage *address, socklen_t length)
{
    uint32_t *tail = (uint32_t *)(rings + params.sq.tail);
    uint32_t *order = (uint32_t *)(rings + params.sq.array);
    uint32_t *head = (uint32_t *)(rings + params.cq.head);
    struct completion *done = (struct completion *)(rings + params.cq.cqes);
    *entries = (struct submission){
        .opcode = OP_BIND, .fd = fd, .address = (uintptr_t)address, .offset = length};
    order[*tail % params.sq_entries] = 0;
    __atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
    if (syscall(SYS_io_uring_enter, ring, 1, 1, ENTER_GETEVENTS, NULL, 0) < 0)
        die("io_uring_enter");
    int result = -done[*head % params.cq_entries].result;
    __atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
    return result;
}

int main(int argc, char **argv)
{
    if (argc < 3 || !open_ring()) {
        puts("missing");
        return 2;
    }
    for (int next = 2; next < argc; ++next) {
        struct sockaddr_storage address;
        socklen_t length = make_address(&address, argv[1], atoi(argv[next]));
        int fd = socket(address.ss_family, SOCK_STREAM, 0);
        if (!length || fd < 0)
            die("socket");
        int result = ring_bind(fd, &address, length);
        char text[INET6_ADDRSTRLEN];
        int port;
        if (result == EINVAL)
            puts("missing");
        else
            puts(result == 0 && !bound_to(fd, text, &port) ? "unbound" : errno_name(result));
        close(fd);
    }
    return 0;
}
