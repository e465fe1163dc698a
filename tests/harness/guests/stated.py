"""What each series of kernels is stated to offer, which is what every run is held to.

A thing that is missing where it is stated fails a run, and so does one that is there where it is stated to be missing.
"""

from __future__ import annotations

from typing import NamedTuple


class Stated(NamedTuple):
    """What a kernel offers.

    ``mechanisms``: by name whether it can be used, with a policy, with a limit; ``why``: words of the reason and of the
    remedy where it cannot; ``auto``: what is taken for a policy, for a limit, and for neither ("": refused);
    ``kernel``: which of `FEATURES` it has; ``standing``: whether standing grants can be loaded.
    """

    mechanisms: dict[str, tuple[bool, bool, bool]]
    why: dict[str, tuple[str, str]]
    auto: tuple[str, str, str]
    kernel: frozenset[str]
    standing: bool


FEATURES = {
    "netns-cookie": "SO_NETNS_COOKIE (5.14)",
    "wait-killable": "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (5.19)",
    "opens-threads": "PIDFD_THREAD (6.9)",
    "landlock": "Landlock (5.13)",
    "landlock-ports": "Landlock rules about ports (6.7)",
    "pidfd-info": "PIDFD_GET_INFO (6.13)",
    "mptcp": "MPTCP",
    "udplite": "UDP-Lite",
    "sctp": "SCTP, as a module",
}
"""What of a kernel's own makes a difference to privbind, and since when it is there."""

_EXACT = (True, True, True)
_WIDE = (True, False, False)
_NONE = (False, False, False)
_ALL = {"bpf": _EXACT, "seccomp": _EXACT, "preload": _EXACT, "ambient": _WIDE}
_NO_COOKIE = ("SO_NETNS_COOKIE", "Linux 5.14")
_6_1 = frozenset({"netns-cookie", "wait-killable", "landlock", "mptcp", "udplite", "sctp"})
_6_12 = _6_1 | {"opens-threads", "landlock-ports"}

STATED = {
    "5.10": Stated(
        {"bpf": _NONE, "seccomp": _NONE, "preload": _NONE, "ambient": _WIDE},
        {"bpf": ("cannot lift the capability check", "Linux 5.14"), "seccomp": _NO_COOKIE, "preload": _NO_COOKIE},
        ("", "", "ambient"),
        frozenset({"udplite", "sctp"}),
        standing=False,
    ),
    "6.1": Stated(_ALL, {}, ("bpf", "bpf", "bpf"), _6_1, standing=True),
    "6.12": Stated(_ALL, {}, ("bpf", "bpf", "bpf"), _6_12, standing=True),
    "newest": Stated(_ALL, {}, ("bpf", "bpf", "bpf"), (_6_12 | {"pidfd-info"}) - {"udplite"}, standing=True),
}
