# SPDX-License-Identifier: MIT
"""What authbind's files permit, as grants: read once, to be looked through and kept, and never at run time.

authbind(1) looks at three places in turn, and the first that has a file for the port decides: byport, whose files let
those bind who may execute them; byaddr, the same for one address; byuid, whose files hold lines of networks and ports.

The grants made of that never permit more than authbind did. What cannot be said exactly becomes a comment that names
the file and the reason. One thing differs: privbind takes an IPv4-mapped address for the IPv4 address that it is.
"""

from __future__ import annotations

import os
from _stat import S_ISLNK, S_ISREG, S_IXGRP, S_IXOTH, S_IXUSR

from ..errors import PrivbindError, strerror
from ..grant.policy import MAX_RULES, Ports, Rule, unmapped
from ..linux.call import has_attribute
from .authbind_names import (
    NoSuchNameError,
    address_and_port,
    holds,
    is_second_choice,
    parse_line,
    port_of,
    uid_and_ports,
)
from .folder import MAX_SIZE
from .render import comment, entry_lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .names import Names

ROOT = "/etc/authbind"

_EVERYBODY = S_IXUSR | S_IXGRP | S_IXOTH
_ACCESS_LIST = "system.posix_acl_access"
"""Where a file has such a list, its mode does not tell who may do what: the group's bits are then the list's mask."""

_NO_SUCH_LINE = "authbind takes no notice of such a line"


class _NotSaidError(Exception):
    """Why something becomes no grant. ``rules`` are those that somebody could be granted instead, by hand."""

    def __init__(self, why: str, rules: Iterable[Rule] = ()) -> None:
        super().__init__(why)
        self.rules = tuple(rules)


def convert(names: Names, root: str = ROOT) -> tuple[str, ...]:
    """The grants, as lines of TOML. Raises PrivbindError where there is no such folder."""
    if not os.path.isdir(root):
        raise PrivbindError(f"cannot read {root}: it is no folder (is authbind set up on this host?)")
    return tuple(_Conversion(names, root).lines())


class _Conversion:
    """One conversion. What byport and byaddr decide is remembered, since byuid is not asked about it any more."""

    def __init__(self, names: Names, root: str) -> None:
        self._names = names
        self._root = root
        self._ports: set[int] = set()
        self._addresses: set[tuple[bytes, int]] = set()

    def lines(self) -> Iterator[str]:
        """The whole text."""
        yield comment("Made by privbindctl import-authbind from authbind's files. Look it through before you keep it.")
        closed = self._closed(self._root)
        for folder, convert_file in (("byport", self._by_port), ("byaddr", self._by_address), ("byuid", self._by_uid)):
            place = f"{self._root}/{folder}"
            # Who may not enter one of the first two is refused there, whatever comes after. byuid is read as root.
            if folder != "byuid":
                closed = closed or self._closed(place)
            try:
                found = sorted(os.listdir(place), key=lambda name: (is_second_choice(name), name))
            except FileNotFoundError:
                continue
            except OSError as error:
                closed = f"{place} cannot be read: {strerror(error)}"
                yield from _remark(place, f"cannot be read: {strerror(error)}")
                continue
            for name in found:
                path = f"{place}/{name}"
                try:
                    block = ["", comment(path), *convert_file(path, name, closed)]
                except OSError as error:
                    block = _remark(path, f"cannot be read: {strerror(error)}")
                except NoSuchNameError as error:
                    block = _remark(path, str(error))
                except _NotSaidError as error:
                    block = _remark(path, str(error), error.rules)
                yield from block

    def _closed(self, folder: str) -> str:
        """Why not everybody may enter a folder; empty where everybody may, or where there is none."""
        try:
            mode = os.stat(folder).st_mode
        except FileNotFoundError:
            return ""
        except OSError as error:
            return f"{folder} cannot be looked at: {strerror(error)}"
        if mode & _EVERYBODY == _EVERYBODY and not has_attribute(folder, _ACCESS_LIST):
            return ""
        return f"only some users may enter {folder}: name those of them who are meant"

    def _by_port(self, path: str, name: str, closed: str) -> list[str]:
        port = port_of(name)
        users, groups = self._executors(path, Rule(None, None, 0, Ports(port, port)), closed, (None, port))
        return entry_lines(users, groups, [str(port)])

    def _by_address(self, path: str, name: str, closed: str) -> list[str]:
        address, port = address_and_port(name)
        if port in self._ports:
            raise _NotSaidError(f"a file in byport decides about port {port} before it")
        if (address, port) in self._addresses:
            raise _NotSaidError("a file for the same address and port, of another name, decides before it")
        if unmapped(address) != address:
            raise _NotSaidError("it is about an IPv4-mapped address, which privbind takes for the IPv4 address")
        rule = Rule(None, address, 8 * len(address), Ports(port, port))
        users, groups = self._executors(path, rule, closed, (address, port))
        return entry_lines(users, groups, [str(rule)])

    def _executors(
        self, path: str, rule: Rule, closed: str, decides: tuple[bytes | None, int]
    ) -> tuple[list[str | int], list[str | int]]:
        """Users and groups that may execute a file, as access(2) would tell them."""
        if os.path.islink(path) and not os.path.exists(path):
            raise _NotSaidError("it is a symbolic link to nothing, which to authbind is no file")
        address, port = decides
        if address is None:
            self._ports.add(port)
        else:
            self._addresses.add((address, port))
        found = os.lstat(path)
        if why := closed or _why_unclear(path, found):
            raise _NotSaidError(why, [rule])
        users = [self._user(found.st_uid)] if found.st_mode & S_IXUSR and found.st_uid else []
        groups = [self._group(found.st_gid)] if found.st_mode & S_IXGRP else []
        if not users and not groups:
            raise _NotSaidError("executable by root at most")
        return users, groups

    def _by_uid(self, path: str, name: str, closed: str) -> list[str]:
        uid, ports = uid_and_ports(name)
        if uid == 0:
            raise _NotSaidError("root needs no grant")
        if closed:
            raise _NotSaidError(closed)
        rules: list[Rule] = []
        lines = []
        for number, line in enumerate(_read(path).split("\n"), 1):
            if line and not line.startswith("#"):
                found, lost = self._line(line, ports)
                rules += found
                lines += [comment(f"line {number}, {line}: {why}") for why in lost]
        texts = tuple(dict.fromkeys(map(str, rules)))
        if len(texts) > MAX_RULES:
            raise _NotSaidError(f"it makes {len(texts)} rules, more than the {MAX_RULES} that a grant may have")
        return [*lines, *(entry_lines([self._user(uid)], [], texts) if texts else [])]

    def _line(self, line: str, looked_for: range) -> tuple[list[Rule], list[str]]:
        """The rules of a line of byuid, and what of it is in none."""
        parsed = parse_line(line)
        if parsed is None:
            return [], [_NO_SUCH_LINE]
        networks, first, last = parsed
        ports = {port for port in looked_for if first <= port <= last}
        if not ports:
            return [], [f"authbind looks into this file for ports {looked_for[0]} to {looked_for[-1]} only"]
        lost = [f"a file in byport decides about port {port} before it" for port in sorted(ports & self._ports)]
        ports -= self._ports
        for address, port in sorted(self._addresses):
            if port in ports and any(holds(network, address) for network in networks):
                # All addresses but one would need a rule that denies.
                lost.append(f"a file in byaddr decides about one address of port {port} before it: name the others")
                ports.remove(port)
        rules = []
        for network, prefix in networks:
            if unmapped(network) != network and prefix >= 96:  # the whole network is one of IPv4-mapped addresses
                lost.append("IPv4-mapped addresses are taken for the IPv4 addresses that they are")
                continue
            prefixes = [prefix]
            if not any(network) and prefix:
                # For authbind the wildcard address is in each network that has its number; here it is asked for itself.
                prefixes.append(8 * len(network))
            rules += [Rule(None, network, length, run) for length in prefixes for run in _runs(ports)]
        return rules, lost

    def _user(self, uid: int) -> str | int:
        """A user by name, where the name leads back to the number and can be written."""
        name = self._names.user_name(uid)
        return name if name is not None and _is_plain(name) and self._names.user(name) == uid else uid

    def _group(self, gid: int) -> str | int:
        name = self._names.group_name(gid)
        return name if name is not None and _is_plain(name) and self._names.group(name) == gid else gid


def _is_plain(name: str) -> bool:
    return name.isprintable() and not name.isdigit() and name not in ("", "root")


def _remark(path: str, why: str, rules: Iterable[Rule] = ()) -> list[str]:
    """A comment instead of a grant, and the grant to be completed by hand where there is one."""
    texts = [str(rule) for rule in rules]
    return ["", comment(f"{path}: {why}"), *(comment(line) for line in entry_lines(["NAME"], [], texts) if texts)]


def _why_unclear(path: str, found: os.stat_result) -> str:
    """Why those who may execute a file cannot be told from its mode; empty where they can be."""
    mode = found.st_mode
    group = mode & S_IXGRP
    reasons = (
        (S_ISLNK(mode), "it is a symbolic link: name those who may execute what it leads to"),
        (not S_ISREG(mode), "it is not a regular file"),
        (has_attribute(path, _ACCESS_LIST), "it has an access control list: name those whom it lets in (getfacl)"),
        (mode & S_IXOTH, "executable by everybody: name the users"),
        (
            group and not mode & S_IXUSR and found.st_uid,
            "executable by its group, but not by its owner: name the users",
        ),
        (group and not found.st_gid, "executable by group 0, which cannot hold a grant: name the users"),
    )
    return next((why for applies, why in reasons if applies), "")


def _read(path: str) -> str:
    """A file of byuid. Nothing is waited for, no link is followed."""
    if os.path.islink(path):
        raise _NotSaidError("it is a symbolic link: see yourself what it leads to")
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        if not S_ISREG(os.fstat(fd).st_mode):
            raise _NotSaidError("it is not a regular file")
        data = file.read(MAX_SIZE + 1)
    if len(data) > MAX_SIZE:
        raise _NotSaidError(f"it is larger than {MAX_SIZE} bytes")
    return data.decode("utf-8", "surrogateescape")


def _runs(ports: set[int]) -> list[Ports]:
    """Ports as ranges."""
    starts = sorted(port for port in ports if port - 1 not in ports)
    ends = sorted(port for port in ports if port + 1 not in ports)
    return [Ports(low, high) for low, high in zip(starts, ends, strict=True)]
