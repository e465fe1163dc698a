#!/bin/sh
# SPDX-License-Identifier: MIT
# symbols.sh LIBRARY: it exports the interposed names and nothing else, takes only what every C library has, and is
# hardened. nm and readelf read every architecture's files.
set -u
library=$1
exports='bind bindresvport close close_range closefrom dup dup2 dup3 fcntl fcntl64 ioctl
posix_spawn_file_actions_addclose posix_spawn_file_actions_addclosefrom_np posix_spawn_file_actions_adddup2
posix_spawn_file_actions_addopen rresvport rresvport_af'
imports='__errno_location __stack_chk_fail dlsym environ getauxval'

fail() {
    printf 'FAILED %s: %s\n' "$library" "$1"
    exit 1
}

names() {
    nm -D "$library" | awk -v kinds="$1" 'index(kinds, $(NF - 1)) { print $NF }' | sort
}

# One name a line, in one order.
listed() {
    printf '%s\n' "$1" | tr ' ' '\n' | sort
}

[ "$(names TtBbDdRrVWi)" = "$(listed "$exports")" ] || fail "exports $(names TtBbDdRrVWi | tr '\n' ' ')"
# aarch64 keeps the stack protector's value in a variable, x86-64 in the thread's area.
[ "$(names Uwv | grep -vx __stack_chk_guard)" = "$(listed "$imports")" ] ||
    fail "imports $(names Uwv | tr '\n' ' ')"
dynamic=$(readelf -dW "$library")
case $dynamic in *NEEDED*) fail 'it needs another library' ;; esac
case $dynamic in *TEXTREL*) fail 'its text has relocations' ;; esac
case $dynamic in *NOW*) ;; *) fail 'it is not bound at the start' ;; esac
segments=$(readelf -lW "$library")
case $segments in *GNU_RELRO*) ;; *) fail 'no RELRO' ;; esac
case $segments in *GNU_STACK*RWE*) fail 'its stack is executable' ;; esac
case $segments in *RWE*) fail 'it has writable code' ;; esac
printf 'ok     symbols of %s\n' "$library"
