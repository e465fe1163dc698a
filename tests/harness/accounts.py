"""Users and groups of a host that there is not, for tests of what looks them up."""

from __future__ import annotations


class Accounts:
    """A few users and groups; see privbind.standing.names.Names for what each method says."""

    def __init__(self) -> None:
        self.users = {"root": 0, "toor": 0, "alice": 1000, "bob": 1001, "carol": 1002, "odd": -1}
        self.groups = {"root": 0, "wheel": 0, "web": 33, "dns": 53}
        self.listed: dict[int, tuple[tuple[str, int | None], ...]] = {
            33: (("alice", 1000), ("bob", 1001), ("root", 0)),
            53: (("bob", 1001), ("dave", None)),
        }
        self.ranges = {
            "alice": [(100000, 65536)],
            "bob": [(165536, 65536)],
            "1002": [(0, 10), (4294967290, 10), (300000, 1)],
        }

    def user(self, name: str) -> int | None:
        return self.users.get(name)

    def user_name(self, uid: int) -> str | None:
        return next((name for name, number in self.users.items() if number == uid), None)

    def group(self, name: str) -> int | None:
        return self.groups.get(name)

    def group_name(self, gid: int) -> str | None:
        return next((name for name, number in self.groups.items() if number == gid), None)

    def members(self, gid: int) -> tuple[tuple[str, int | None], ...]:
        return self.listed.get(gid, ())

    def subids(self, name: str | None, uid: int) -> list[tuple[int, int]]:
        return [*self.ranges.get(name or "", []), *self.ranges.get(str(uid), [])]
