# SPDX-License-Identifier: MIT
"""A policy taken apart for searching: by address first, then by port. Pure; knows nothing of BPF.

Networks are nested or apart, never overlapping: so the networks that an address is in form a chain, from the
narrowest outwards, ending in the rules without an address. Each network keeps the ports of its own rules only, and
leads on to the next wider one. That keeps the whole as small as the policy itself, however its ranges overlap; and
finding the narrowest network of an address is a search among sorted boundaries.
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_ntop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ...grant.policy import Ports, Rule

    Cell = tuple[int, int, int]
    """Ports from the first to the second, both included, and for which protocols (a mask)."""
    Segment = tuple[int, "Network | None"]
    """Where a segment of the address space begins, and the narrowest network there."""

TCP = 1
UDP = 2
BOTH = TCP | UDP
MASKS = {"tcp": TCP, "udp": UDP, None: BOTH}
"""The mask of a rule's protocol."""


class Network:
    """The rules for one network, or those without an address (``address`` None).

    ``cells`` are sorted and do not overlap. ``wider`` is the next network outwards, None where there is none with an
    address. ``label`` is its name, as a rule has it.
    """

    __slots__ = ("address", "cells", "label", "prefix", "wider")

    def __init__(self, address: bytes | None, prefix: int, cells: list[Cell]) -> None:
        """Keep what belongs together."""
        self.address = address
        self.prefix = prefix
        self.cells = cells
        self.wider: Network | None = None
        self.label = _text(address, prefix)


def _text(address: bytes | None, prefix: int) -> str:
    if address is None:
        return "any address"
    if len(address) == 4:
        return inet_ntop(AF_INET, address) + (f"/{prefix}" if prefix < 32 else "")
    return f"[{inet_ntop(AF_INET6, address)}" + (f"/{prefix}]" if prefix < 128 else "]")


class Space:
    """The networks of one family: how to find the one that an address is in.

    ``segments`` are sorted; ``wildcard`` is where the search for the wildcard address begins. ``width`` is the number
    of bits in an address.
    """

    __slots__ = ("networks", "segments", "width", "wildcard")

    def __init__(self, networks: list[Network], width: int) -> None:
        """Sort the networks of a family."""
        self.width = width
        self.networks = sorted(networks, key=_narrowest_first)
        top = next((network for network in networks if network.prefix == 0), None)
        # A wildcard stands for every address: a network that happens to contain it does not mean it, only the exact
        # wildcard and /0 do (Rule.matches_address). So it is found apart, and no other address can be the exact one.
        exact = next((network for network in networks if network.prefix == width and not any(network.address)), None)  # type: ignore[arg-type]
        self.wildcard = exact or top
        self.segments = _segments([network for network in networks if network is not exact], width)
        if exact:
            exact.wider = top


def _narrowest_first(network: Network) -> int:
    return -network.prefix


class Table:
    """A policy for ports below ``end``: ``anywhere`` for rules without an address, ``ipv4`` and ``ipv6`` for others."""

    __slots__ = ("anywhere", "ipv4", "ipv6")

    def __init__(self, rules: Iterable[Rule], end: int) -> None:
        """Sort the rules."""
        spans: dict[tuple[bytes | None, int], list[Cell]] = {}
        for rule in rules:
            ports = rule.ports
            if ports.low < end:
                cell = (ports.low, min(ports.high, end - 1), MASKS[rule.protocol])
                spans.setdefault((rule.network, rule.prefix), []).append(cell)
        self.anywhere = Network(None, 0, merged(spans.pop((None, 0), [])))
        by_size: dict[int, list[Network]] = {4: [], 16: []}
        for (address, prefix), cells in spans.items():
            by_size[len(address or b"")].append(Network(address, prefix, merged(cells)))
        self.ipv4 = Space(by_size[4], 32)
        self.ipv6 = Space(by_size[16], 128)


def reuse_cells(ranges: Iterable[Ports], start: int, end: int) -> list[Cell]:
    """The ports from ``start`` to before ``end`` that get SO_REUSEPORT, whatever the protocol."""
    cells = [(max(ports.low, start), min(ports.high, end - 1), BOTH) for ports in ranges]
    return merged([cell for cell in cells if cell[0] <= cell[1]])


def merged(cells: list[Cell]) -> list[Cell]:
    """The same ports and protocols as sorted cells that do not overlap; neighbours that are alike become one."""
    if len(cells) < 2:
        return cells
    # At each port where something begins or ends: by how much the number of cells for TCP, and for UDP, changes.
    changes: dict[int, list[int]] = {}
    for low, high, mask in cells:
        for port, step in ((low, 1), (high + 1, -1)):
            change = changes.setdefault(port, [0, 0])
            if mask & TCP:
                change[0] += step
            if mask & UDP:
                change[1] += step
    found: list[Cell] = []
    tcp = udp = since = before = 0
    for port in sorted(changes):
        tcp += changes[port][0]
        udp += changes[port][1]
        now = (TCP if tcp else 0) | (UDP if udp else 0)
        if now != before:
            if before:
                found.append((since, port - 1, before))
            since, before = port, now
    return found


def _segments(networks: list[Network], width: int) -> list[Segment]:
    """Cut the address space where networks begin and end, and find each network's next wider one."""
    starts = [(int.from_bytes(network.address or b"", "big"), network.prefix, network) for network in networks]
    starts.sort(key=_by_start)
    segments: list[Segment] = [(0, None)]
    around: list[tuple[int, Network]] = []  # the networks that contain this place, and where they end

    def begin(start: int, network: Network | None) -> None:
        if segments[-1][0] == start:
            segments.pop()
        segments.append((start, network))

    def leave() -> None:
        end = around.pop()[0]
        if end + 1 < 1 << width:
            begin(end + 1, around[-1][1] if around else None)

    for start, prefix, network in starts:
        while around and around[-1][0] < start:
            leave()
        network.wider = around[-1][1] if around else None
        begin(start, network)
        around.append((start | (1 << width - prefix) - 1, network))
    while around:
        leave()
    return segments


def _by_start(entry: tuple[int, int, Network]) -> tuple[int, int]:
    return entry[:2]
