# SPDX-License-Identifier: MIT
"""What `privbind --help` and `--version` print; the man page is checked against it."""

from __future__ import annotations

from .. import __version__

VERSION_LINE = f"privbind {__version__}\n"

HELP = """\
Usage: privbind -u USER [OPTION]... [--] COMMAND [ARG]...
Run COMMAND as an unprivileged USER who may bind the reserved ports granted, and nothing else.

  -u, --user USER        name or uid; must not be root. A uid without passwd entry needs -g
  -g, --group GROUP      name or gid (default: the user's primary group)
  -G, --no-groups        no supplementary groups (default: the user's)
  -a, --allow RULE       what may be bound; repeatable, and comma-separated (default: any reserved port)
  -n, --binds NUM        at most NUM successful reserved binds, over all processes together (0: no limit)
  -r, --reuse-port PORTS set SO_REUSEPORT before binding these ports
  -l, --library PATH     the shim to preload (implies --via preload)
      --via MECHANISM    auto (default), bpf, seccomp, preload, ambient
      --no-new-privs     the command can gain no privileges through setuid or file capabilities
      --set-home         HOME, USER, LOGNAME, SHELL of the user
  -v, --verbose          tell what is done, and why so
      --dry-run          tell what would be done, and do nothing
  -h, --help             print this and end
      --version          print the version and end

RULE is [PROTOCOL:][ADDRESS:]PORTS. PROTOCOL is tcp or udp (none: both); ADDRESS is IPv4 or [IPv6], either with
/PREFIX (none: any); PORTS is a number, a range 20-21, a service name, or any.
Options end at the first word that is not one. Exit status: the command's; 125 privbind failed, 126 the command
cannot be executed, 127 it was not found.

  privbind -u www-data --allow tcp:80,tcp:443 -- ./server
"""
