// SPDX-License-Identifier: MIT
// threads THREADS BINDS [PORT]: each thread binds BINDS times, on addresses of its own. Prints the
// count of each result.
#include "tally.h"

#include <pthread.h>

static struct tally *tally;
static pthread_barrier_t together;
static int binds, port = 80;

static void *work(void *argument)
{
    unsigned thread = (unsigned)(size_t)argument;
    pthread_barrier_wait(&together);
    for (int i = 0; i < binds; ++i)
        tally_add(tally, bind_once((thread + 1) << 12 | ((unsigned)i % 4095 + 1), port));
    return NULL;
}

int main(int argc, char **argv)
{
    int count = argc > 2 ? atoi(argv[1]) : 0;
    pthread_t *threads = calloc((size_t)count + 1, sizeof *threads);
    if (!count || !threads)
        die("usage: threads THREADS BINDS [PORT]");
    binds = atoi(argv[2]);
    if (argc > 3)
        port = atoi(argv[3]);
    tally = tally_new();
    pthread_barrier_init(&together, NULL, (unsigned)count);
    for (int i = 0; i < count; ++i)
        if (pthread_create(&threads[i], NULL, work, (void *)(size_t)i))
            die("pthread_create");
    for (int i = 0; i < count; ++i)
        pthread_join(threads[i], NULL);
    return tally_print(tally, "");
}
