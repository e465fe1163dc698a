#!/bin/sh
# SPDX-License-Identifier: MIT
# programs.sh GRANT FOLDER SUFFIX SHIM [RUNNER]...: runs ../tests/programs, built into FOLDER as NAME and SUFFIX, first without
# the shim (every reserved bind must be refused: the negative control), then with it.
set -u
grant=$1 folder=$2 suffix=$3 shim=$4
shift 4
failed=0

# check NAME WANTED LINES: lines that do not match the extended pattern WANTED are failures, and so are no lines.
check() {
    wrong=$(printf '%s\n' "$3" | grep -vxE "$2")
    if [ -z "$3" ] || [ -n "$wrong" ]; then
        printf 'FAILED %s\n%s\n' "$1" "${wrong:-no output}"
        failed=1
    else
        printf 'ok     %s\n' "$1"
    fi
}

# try NAME WITH WITHOUT [ARG]...: the lines that the program prints with the shim, and without.
try() {
    name=$1 with=$2 without=$3
    shift 3
    # shellcheck disable=SC2086 # a runner is several words
    check "$name without" "$without" "$("$grant" - $runner "$folder/$name$suffix" "$@" 2>&1)"
    # shellcheck disable=SC2086
    check "$name" "$with" "$("$grant" "$shim" $runner "$folder/$name$suffix" "$@" 2>&1)"
}

runner=$*
n='[0-9]+'
word='[a-z0-9-]+'
# closers fills every number and needs some above; rresvport takes 512.
# shellcheck disable=SC3045 # no POSIX, but dash, busybox and bash have -S
ulimit -S -n 700

try trybind 'ok .*' 'EACCES' tcp 4 127.0.0.1 80 udp 4 0.0.0.0 80 tcp 6 ::1 81 udp 6only ::1 83 tcp 6 :: 84
try threads 'ok 800' 'EACCES 800' 4 200
try procs 'ok 800' 'EACCES 800' 4 200
try daemon 'ok' 'EACCES'
try signals "ok 500|handler-ok $n" "EACCES 500|handler-EACCES $n" 500 1000
try forkthread "ok $n|child-ok 50" "EACCES $n|child-EACCES 50" 50
try killed 'ok 50' 'EACCES 50' 50
kept='(dup2|fcntl|close) kept'
try errnokeep "bind kept|again EINVAL|in-use EADDRINUSE|$kept" "(bind|again|in-use) EACCES|$kept"
try fullfds '[01] EACCES|[234] ok' '[0-4] EACCES'
bad='(family|wrong-family) EAFNOSUPPORT|wrong-socket EINVAL|no-socket ENOTSOCK'
try rresvport "$word ok $n|$word-port $n|address-same 1|exhausted EAGAIN 1|bind-exhausted EADDRINUSE|$bad" \
    "$word EACCES|exhausted EACCES 0|$word missing|$bad"
# Under qemu a program cannot exec itself, and qemu looks at addresses in its own way.
if [ -z "$runner" ]; then
    try vforkexec "$word ok" "$word EACCES"
    bad='(null|one|kernel|unmapped|half) EFAULT|(unix|unknown) EAFNOSUPPORT|no-socket ENOTSOCK|closed EBADF'
    bad="$bad|(too-long|negative|empty|null-empty|family-only|port-too|too-short) EINVAL"
    try efault "(end-of-page|storage) ok|$bad" "(end-of-page|storage) EACCES|$bad"
    try closers "(raw-(close|close-range|dup3)(-exec)?|reused) EACCES|(close|dup|fcntl|ioctl|looks|spawn)$word ok|close ok|\
spawn-$word missing" "$word (EACCES|missing)"
fi
exit $failed
