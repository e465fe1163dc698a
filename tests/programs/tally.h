// SPDX-License-Identifier: MIT
// How many binds had which result, counted by threads and processes together.
#pragma once

#include "common.h"

#include <stdatomic.h>
#include <sys/mman.h>

enum { TALLY_RESULTS = 1000 };

struct tally {
    atomic_uint counts[TALLY_RESULTS];
};

static inline struct tally *tally_new(void)
{
    struct tally *tally =
        mmap(NULL, sizeof *tally, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (tally == MAP_FAILED)
        die("mmap");
    return tally;
}

static inline void tally_add(struct tally *tally, int result)
{
    atomic_fetch_add(&tally->counts[result < TALLY_RESULTS ? result : TALLY_RESULTS - 1], 1);
}

// `PREFIXRESULT COUNT` for each result there was. 0 if all were ok.
static inline int tally_print(const struct tally *tally, const char *prefix)
{
    int status = 0;
    for (int i = 0; i < TALLY_RESULTS; ++i)
        if (tally->counts[i]) {
            printf("%s%s %u\n", prefix, errno_name(i), tally->counts[i]);
            status |= i != 0;
        }
    fflush(stdout);
    return status;
}
