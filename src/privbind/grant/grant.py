# SPDX-License-Identifier: MIT
"""A grant: what is granted, apart from whose it is (`holder`) and where it holds (`site`)."""

from __future__ import annotations

from ..values import set_fields, value
from .policy import MAX_U32, Policy, PolicyError, Ports, number, parse_ports

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_PARTS = "; "
_LIMIT = ("at most ", " binds")
_REUSE = "SO_REUSEPORT on "


@value
class Grant:
    """A policy, the number of successful reserved binds allowed (0: no limit), and the ports that get SO_REUSEPORT."""

    policy: Policy
    limit: int
    reuse_ports: tuple[Ports, ...]

    def __init__(self, policy: Policy, limit: int = 0, reuse_ports: Iterable[Ports] = ()) -> None:
        """Raise PolicyError when the limit is not from 0 to 4294967295."""
        if not 0 <= limit <= MAX_U32:
            raise PolicyError(f"limit {limit} is not a whole number from 0 to {MAX_U32}")
        set_fields(self, policy=policy, limit=limit, reuse_ports=tuple(reuse_ports))

    @classmethod
    def parse(cls, text: str) -> Grant:
        """Read the text form of a grant: the inverse of ``str``. Raises PolicyError."""
        policy, *parts = text.split(_PARTS)
        limit = 0
        reuse_ports: tuple[Ports, ...] = ()
        for part in parts:
            if part.startswith(_LIMIT[0]) and part.endswith(_LIMIT[1]):
                limit = number(part[len(_LIMIT[0]) : -len(_LIMIT[1])], 1, MAX_U32, "limit")
            elif part.startswith(_REUSE):
                reuse_ports = parse_ports(part[len(_REUSE) :])
            else:
                raise PolicyError(f"'{part}' is no part of a grant")
        return cls(Policy.parse((policy,)), limit, reuse_ports)

    def reuses(self, port: int) -> bool:
        """Whether SO_REUSEPORT is set before this port is bound."""
        return any(port in ports for ports in self.reuse_ports)

    def __str__(self) -> str:
        text = str(self.policy)
        if self.limit:
            text += _PARTS + str(self.limit).join(_LIMIT)
        if self.reuse_ports:
            text += _PARTS + _REUSE + ",".join(map(str, self.reuse_ports))
        return text
