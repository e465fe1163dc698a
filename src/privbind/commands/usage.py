# SPDX-License-Identifier: MIT
"""What `privbind --help` and `--version` print; the man page is checked against it."""

from __future__ import annotations

from .. import __version__

VERSION_LINE = f"privbind {__version__}\n"

HELP = """\
Usage: privbind -u USER[:GROUP] [OPTION]... [--] COMMAND [ARG]...
       privbind [--allow RULE]... [--] COMMAND [ARG]...
Run COMMAND as an unprivileged USER who may bind the reserved ports granted.

  -u, --user USER        name or uid, or USER:GROUP; must not be root
  -g, --group GROUP      name or gid (default: the user's primary group)
  -G, --no-groups        no supplementary groups (default: the user's)
  -a, --allow RULE       what may be bound (default: any reserved port)
  -n, --binds NUM        at most NUM successful reserved binds (0: no limit)
  -r, --reuse-port PORTS set SO_REUSEPORT before binding these ports
  -l, --library PATH     the shim to preload (implies --via preload)
      --via MECHANISM    auto (default), bpf, seccomp, preload, ambient
      --no-new-privs     setuid programs and sudo give the command nothing
      --set-home         HOME, USER, LOGNAME, SHELL of the user
  -v, --verbose          tell what is done, and why; -vv: with program listings
  -q, --quiet            no warnings
      --dry-run          tell what would be done, and do nothing
      --json             with --dry-run: as JSON, on standard output
  -h, --help             print this and end
      --version          print the version and end

RULE is [PROTOCOL:][ADDRESS:]PORTS, several are joined by commas. PROTOCOL is
tcp or udp (none: both); ADDRESS is IPv4 or [IPv6], either with /PREFIX (none:
any); PORTS is a number, a range 20-21, a service name, or any.
Options end at the first word that is not one. Exit status: the command's own;
125 privbind failed, 126 the command cannot be executed, 127 it was not found.

A server on ports 80 and 443, which root starts as www-data:
  privbind -u www-data --allow tcp:80,tcp:443 -- ./server
What would be done, and by which mechanism:
  privbind -u www-data --allow tcp:80 --dry-run -- ./server
Your own server, by a grant that root gave you (privbindctl allow USER tcp:80):
  privbind --allow tcp:80 -- node server.js
"""
