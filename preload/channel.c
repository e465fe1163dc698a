// SPDX-License-Identifier: MIT
#include "channel.h"

#include "sys.h"

#include <stdatomic.h>

// Zero: no grant. A descriptor is the channel only if its socket has this SO_COOKIE, which no other
// socket ever gets.
static _Atomic uint64_t channel_cookie;

// Numbers that may be the channel. Bits are only ever set: a vfork child that moves its channel
// writes here too, while the parent's channel is still at the old number. The cookie decides
// whether a number really is the channel.
static _Atomic uint64_t candidates[CHANNEL_NUMBERS / 64];

// Set when a search through all numbers found nothing, so that each refused bind does not search
// again.
static atomic_bool search_failed;

// The ports that PRIVBIND_CHANNEL names, written at the start only.
static uint64_t shared_ports[65536 / 64];
static bool shares_any;

static _Atomic int spare = -1;

// How often a number was remembered: a look through all numbers can miss a channel that another
// thread moves meanwhile, and then looks again.
static atomic_uint changes;

enum {
    USUAL_NUMBERS = 1024, // the channel is kept below this while there is room
    FIRST_NUMBER = 3,     // never in the place of standard input, output or error
    ABOVE_LIMIT = 64      // how far above the soft limit channel_copy may have to go
};

static void remember(int fd)
{
    atomic_fetch_or(&candidates[fd / 64], UINT64_C(1) << (fd % 64));
    atomic_fetch_add(&changes, 1);
}

bool channel_matches(int fd)
{
    uint64_t wanted = atomic_load_explicit(&channel_cookie, memory_order_relaxed);
    uint64_t cookie;
    return wanted != 0 && sys_cookie(fd, &cookie) == 0 && cookie == wanted;
}

static struct sys_limit descriptor_limit(void)
{
    struct sys_limit limit = {USUAL_NUMBERS, USUAL_NUMBERS};
    sys_prlimit(RLIMIT_NOFILE, NULL, &limit);
    return limit;
}

// The digits of one base (lower case, no sign, no leading zero) as a number from 0 to `most`.
static bool parse_number(const char **text, unsigned base, uint64_t most, uint64_t *number)
{
    const char *start = *text;
    uint64_t value = 0;
    for (;; ++*text) {
        char c = **text;
        unsigned digit;
        if (c >= '0' && c <= '9')
            digit = (unsigned)(c - '0');
        else if (c >= 'a' && c <= 'f')
            digit = (unsigned)(c - 'a') + 10;
        else
            break;
        if (digit >= base || value > (most - digit) / base)
            return false;
        value = value * base + digit;
    }
    size_t digits = (size_t)(*text - start);
    if (digits == 0 || (digits > 1 && *start == '0'))
        return false;
    *number = value;
    return true;
}

// LOW-HIGH, and more of them behind commas.
static bool parse_ports(const char *text)
{
    for (;; ++text) {
        uint64_t low, high;
        if (!parse_number(&text, 10, UINT16_MAX, &low) || *text++ != '-' ||
            !parse_number(&text, 10, UINT16_MAX, &high) || low == 0 || low > high)
            return false;
        for (uint64_t port = low; port <= high; ++port)
            shared_ports[port / 64] |= UINT64_C(1) << (port % 64);
        if (*text != ',')
            return *text == '\0';
    }
}

static const char *channel_entry(char *const *environment)
{
    static const char name[] = "PRIVBIND_CHANNEL=";
    for (; environment && *environment; ++environment) {
        size_t i = 0;
        while (name[i] && (*environment)[i] == name[i])
            ++i;
        if (!name[i])
            return *environment + i;
    }
    return NULL;
}

static int search(void)
{
    uint64_t soft = descriptor_limit().soft;
    uint64_t end = (soft > USUAL_NUMBERS ? soft : USUAL_NUMBERS) + ABOVE_LIMIT;
    if (end > CHANNEL_NUMBERS)
        end = CHANNEL_NUMBERS;
    // Downwards from where it was put, then upwards from there.
    for (int i = USUAL_NUMBERS - 1; i >= 0; --i)
        if (channel_matches(i))
            return remember(i), i;
    for (int i = USUAL_NUMBERS; i < (int)end; ++i)
        if (channel_matches(i))
            return remember(i), i;
    return -1;
}

void channel_start(char *const *environment)
{
    const char *text = channel_entry(environment);
    uint64_t number, cookie;
    if (!text || !parse_number(&text, 10, CHANNEL_NUMBERS - 1, &number) || *text++ != ':' ||
        !parse_number(&text, 16, UINT64_MAX, &cookie) || cookie == 0)
        return;
    shares_any = *text == ':' && parse_ports(text + 1);
    if (*text != '\0' && !shares_any)
        return;
    atomic_store(&channel_cookie, cookie);
    // The program that execed this one may have moved its channel; only then is it looked for now,
    // so that it is guarded from here on.
    if (channel_matches((int)number))
        remember((int)number);
    else if (search() < 0)
        atomic_store(&search_failed, true);
}

bool channel_known(void)
{
    return atomic_load_explicit(&channel_cookie, memory_order_relaxed) != 0;
}

bool channel_shares_any(void)
{
    return shares_any;
}

bool channel_shares(uint16_t port)
{
    return shares_any && (shared_ports[port / 64] >> (port % 64) & 1) != 0;
}

bool channel_is(int fd)
{
    if (fd < 0 || fd >= CHANNEL_NUMBERS)
        return false;
    uint64_t word = atomic_load_explicit(&candidates[fd / 64], memory_order_relaxed);
    return (word >> (fd % 64) & 1) != 0 && channel_matches(fd);
}

int channel_within(unsigned first, unsigned last)
{
    if (!channel_known())
        return -1;
    for (unsigned i = first; i <= last && i < CHANNEL_NUMBERS; ++i) {
        uint64_t word = atomic_load_explicit(&candidates[i / 64], memory_order_relaxed) >> (i % 64);
        if (word == 0)
            i |= 63;
        else if ((word & 1) != 0 && channel_matches((int)i))
            return (int)i;
    }
    return -1;
}

int channel_find(void)
{
    unsigned before;
    do {
        before = atomic_load(&changes);
        int found = channel_within(0, CHANNEL_NUMBERS - 1);
        if (found >= 0)
            return found;
    } while (atomic_load(&changes) != before);
    if (!channel_known() || atomic_exchange(&search_failed, true))
        return -1;
    int found = search();
    if (found >= 0)
        atomic_store(&search_failed, false);
    return found;
}

// The lowest free number from `least` on. F_DUPFD never takes a number that is in use, whatever
// other threads do.
static int duplicate(int fd, int least)
{
    int copy = sys_fcntl(fd, F_DUPFD, least);
    if (copy < CHANNEL_NUMBERS)
        return copy;
    sys_close(copy);
    return -EMFILE;
}

static int duplicate_anywhere(int fd)
{
    struct sys_limit limit = descriptor_limit();
    int usual = limit.soft < USUAL_NUMBERS ? (int)limit.soft : USUAL_NUMBERS;
    for (int i = usual - 1; i >= FIRST_NUMBER; --i)
        if (sys_fcntl(i, F_GETFD, 0) == -EBADF) {
            int copy = duplicate(fd, i);
            if (copy >= 0)
                return copy;
        }
    if (limit.soft > USUAL_NUMBERS) {
        int copy = duplicate(fd, USUAL_NUMBERS);
        if (copy >= 0)
            return copy;
    }
    // Every number that the program may use is in use: take one above its soft limit, which is
    // raised for this moment.
    if (limit.hard <= limit.soft || limit.soft >= CHANNEL_NUMBERS)
        return -EMFILE;
    struct sys_limit raised = {limit.soft + ABOVE_LIMIT, limit.hard};
    if (raised.soft > limit.hard)
        raised.soft = limit.hard;
    if (sys_prlimit(RLIMIT_NOFILE, &raised, NULL) < 0)
        return -EMFILE;
    int copy = duplicate(fd, (int)limit.soft);
    sys_prlimit(RLIMIT_NOFILE, &limit, NULL);
    return copy;
}

int channel_copy(int fd)
{
    int copy = duplicate_anywhere(fd);
    if (copy < 0)
        return -1;
    remember(copy);
    return copy;
}

int channel_spare(int target)
{
    int known = atomic_load(&spare);
    if (known == target || !channel_is(known)) {
        known = channel_copy(target);
        atomic_store(&spare, known);
    }
    return known;
}

int channel_for_child(void)
{
    int known = atomic_load(&spare);
    if (channel_is(known))
        return known;
    int highest = -1;
    for (int i = channel_within(0, CHANNEL_NUMBERS - 1); i >= 0;
         i = channel_within((unsigned)i + 1, CHANNEL_NUMBERS - 1))
        highest = i;
    return highest;
}
