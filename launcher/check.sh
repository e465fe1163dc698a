#!/bin/sh
# SPDX-License-Identifier: MIT
# check.sh C_LAUNCHER SH_LAUNCHER PACKAGE: both launchers keep the contract of docs/architecture.md. They were built with
# MODULE=shown SOURCE=PACKAGE, where this puts a module that prints what it is given.
set -u
# Signals that were ignored before (nohup, a background job) would show in what is checked here.
[ "${PRIVBIND_CHECK-}" ] || PRIVBIND_CHECK=1 exec env --default-signal "$0" "$@"
c=$1 sh=$2 package=$3
failed=0

expect() {
    if [ "$2" = "$3" ]; then
        printf 'ok     %s\n' "$1"
    else
        printf 'FAILED %s: got\n%s\nnot\n%s\n' "$1" "$2" "$3"
        failed=1
    fi
}

mkdir -p "$package"
cat >"$package/shown.py" <<'END'
import os
import sys


def start(ignored, environment, arguments):
    entries = os.read(int(environment), 1 << 20) if environment != "-" else b"(from /proc)"
    flags = sys.flags.isolated and sys.flags.no_site and sys.flags.utf8_mode
    usual = int(ignored, 16) & 0x7FFFFFFF  # make ignores two real-time signals in what it starts
    print(usual, entries, arguments, flags, "PYTHONPATH" in os.environ)
END

# readelf -r says "no relocations" in every other case.
expect 'no relocations' "$(readelf -rW "$c" | grep -c R_)" 0
expect 'no interpreter' "$(readelf -lW "$c" | grep -c INTERP)" 0
expect 'environment' "$(env -i A=1 PYTHONPATH=/x B= "$c" -x '' 'a b')" \
    "0 b'A=1\\x00PYTHONPATH=/x\\x00B=\\x00' ['-x', '', 'a b'] 1 False"
expect 'odd entries' "$(env -i 'A=a
b' 'x y=1' "$c")" "0 b'A=a\\nb\\x00x y=1\\x00' [] 1 False"
expect 'no environment' "$(env -i "$c")" "0 b'' [] 1 False"
# shellcheck disable=SC2016 # the inner shell's own
expect 'closed low numbers' "$(env -i sh -c 'exec "$0" 3>&1 4>&1 <&-' "$c" | cut -c1-4)" "0 b'"
expect 'sh launcher' "$(env -i PYTHONPATH=/x "$sh" -x '' 'a b')" "0 b'(from /proc)' ['-x', '', 'a b'] 1 True"
# SIGHUP, SIGQUIT and SIGPIPE: bits 0, 2 and 12.
expect 'ignored signals' "$(trap '' HUP QUIT PIPE && env -i "$c")" "4101 b'' [] 1 False"
expect 'ignored signals by sh' "$(trap '' HUP QUIT PIPE && env -i "$sh")" "4101 b'(from /proc)' [] 1 False"
ln -sf "$c" "$package/link"
expect 'through a link' "$(env -i "$package/link")" "0 b'' [] 1 False"

rm "$package/shown.py"
for launcher in "$c" "$sh"; do
    message=$("$launcher" 2>&1)
    expect "no package ($launcher)" "$? $(printf '%s\n' "$message" | wc -l)" '125 1'
    for limit in 'd 4000' 'v 24000'; do
        # shellcheck disable=SC3045  # as in the launcher
        message=$(ulimit "-${limit% *}" "${limit#* }" && "$launcher" 2>&1)
        expect "little memory ($launcher)" "$? $(printf '%s\n' "$message" | grep -c "(ulimit -${limit% *})$")" '125 1'
    done
done
exit $failed
