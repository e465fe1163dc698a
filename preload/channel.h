// SPDX-License-Identifier: MIT
// Where the channel to privbind's helper is. Everything here is async-signal-safe, safe in a vfork
// child (which shares this memory but not the descriptors) and leaves errno alone.
#pragma once

#include <stdbool.h>
#include <stdint.h>

// Channel numbers are below this: the helper starts below 1024, and moves go higher only when all
// of those are taken.
enum { CHANNEL_NUMBERS = 65536 };

// Reads PRIVBIND_CHANNEL; anything but exactly NUMBER:COOKIE or NUMBER:COOKIE:PORTS leaves the shim
// inert.
void channel_start(char *const *environment);

// False when there is no grant here at all: then none of the other questions needs to be asked.
bool channel_known(void);

// Is SO_REUSEPORT to be set before this port is bound? And is it for any port at all?
bool channel_shares(uint16_t port);
bool channel_shares_any(void);

// Is this descriptor the channel, whatever its number?
bool channel_matches(int fd);

// Is this number the channel now? One bit test for the numbers that never were.
bool channel_is(int fd);

// The lowest channel number in first..last, or -1. Numbers at which the channel was never seen are
// not looked at.
int channel_within(unsigned first, unsigned last);

// A channel number, or -1 when this process has lost it.
int channel_find(void);

// One more descriptor of the channel, at the highest free number, which is returned; -1 when there
// is no room.
int channel_copy(int fd);

// The number that spawned children can rely on while `target` is overwritten in them; -1 when there
// is none.
int channel_spare(int target);

// The number to keep in a child: the spare one if there is any, otherwise the highest; -1 without
// channel.
int channel_for_child(void);
