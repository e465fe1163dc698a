# SPDX-License-Identifier: MIT
"""The table of standing grants, as the programs in the kernel read it: one hash map, so that one write changes it all.

Pure: from who may bind what to the entries of the map, and back. A key is two numbers of 32 bits: an id, and a kind in
the upper 8 bits with more in the others. All values have 40 bytes:

- USER (a real uid), BLOCK (a uid >> 8, for 256 uids that have the same grants), GROUP (a real gid): a holder.
- PORTS (the number of a set; more: protocol << 8 | port >> 8): a bit for each of 256 ports, little-endian, in 32 bytes.
- NETWORK (the number of a list; more: the place in it, from 0): an address, a mask, and a set of ports. The narrowest
  come first, and each has the ports of all that it lies in, too: so the first one that an address is in decides.
- TEXT (the place, from 0): 40 bytes of the text that says where the grants come from.

A holder has five numbers: the set of ports for any address, those for the wildcards 0.0.0.0 and [::], the list of
networks for IPv4 and for IPv6 addresses (0: none); and a counter. Equal sets and lists are there once.
"""

from __future__ import annotations

from _struct import Struct

from ..errors import PrivbindError
from ..grant.policy import MAX_PORT, PROTOCOLS
from ..values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ..grant.policy import Rule
    from .resolve import Key

    Entries = dict[bytes, bytes]
    """Keys to values, as the map has them."""

USER, BLOCK, GROUP, PORTS, NETWORK, TEXT = range(1, 7)
"""The kinds of keys."""

BLOCK_BITS = 8
TCP, UDP = range(2)
"""The protocols, as PORTS counts them."""

ANY_ADDRESS, WILDCARD4, WILDCARD6, NETWORKS4, NETWORKS6 = range(0, 20, 4)
GRANTED = 24
"""A holder's numbers, and its counter of 64 bits: how many binds were allowed because of its grants."""

ADDRESS, MASK, PORT_SET = 0, 16, 32
"""A network: the address and the mask, in network order, IPv4 in the first 4 bytes; and its set of ports."""

MAX_NETWORKS = 64
"""For how many networks of one family a holder may have rules: the program looks at one after the other.

With a higher number, the verifier takes longer, and so does a first load.
"""
MAX_ENTRIES = 1_000_000
"""How many entries a table may have: about 100 MB of the kernel's memory."""

KEY_SIZE = 8
VALUE_SIZE = 40

_KEY = Struct("=II")
_KIND_SHIFT = 24
_HOLDER = Struct("=5I4xQ8x")
_NETWORK = Struct("=16s16sI4x")
_PORTS = Struct("=32s8x")


class TableError(PrivbindError):
    """The grants do not fit into a table."""


def kind(number: int) -> int:
    """A kind, in its place in the second number of a key."""
    return number << _KIND_SHIFT


@value
class Held:
    """What one holder may bind: a set of ports for each of the five cases, and how often that was used."""

    anywhere: int
    wildcard4: int
    wildcard6: int
    networks4: int
    networks6: int
    granted: int = 0


def build(
    grants: Mapping[Key, Iterable[Rule]], text: bytes = b"", counted: Mapping[bytes, int] | None = None
) -> Entries:
    """The table for the rules of each holder. Raises TableError where they do not fit.

    ``text`` is kept in it; ``counted`` are the values that counters start from, by the holder's key.
    """
    rules: dict[bytes, frozenset[Rule]] = {}
    for holder, held in grants.items():
        own = frozenset(held)  # one for all keys of a range
        for key in keys(holder):
            rules[key] = rules[key] | own if key in rules else own
            if len(rules) > MAX_ENTRIES:
                raise TableError(_too_many("more than that", "and blocks of subordinate uids"))
    builder = _Builder()
    entries: Entries = {}
    for key, found in rules.items():
        try:
            entries[key] = _HOLDER.pack(*builder.held(found), (counted or {}).get(key, 0))
        except TableError as error:
            raise TableError(f"{_described(key)} {error}") from None
    entries |= builder.entries
    for start in range(0, len(text), VALUE_SIZE):
        entries[_KEY.pack(start // VALUE_SIZE, kind(TEXT))] = text[start : start + VALUE_SIZE].ljust(VALUE_SIZE, b"\0")
    if len(entries) > MAX_ENTRIES:
        raise TableError(_too_many(str(len(entries)), f"and blocks of subordinate uids, {len(rules)} of them"))
    return entries


def _too_many(needed: str, who: str) -> str:
    return (
        f"the kernel's table takes {MAX_ENTRIES} entries, and the grants need {needed}"
        f" (they are for users, groups {who}: name fewer)"
    )


def _described(key: bytes) -> str:
    """A holder in numbers, for messages."""
    number, found = _KEY.unpack(key)[0], _kind_of(key)
    if found == BLOCK:
        return f"the range of uids {number << BLOCK_BITS}-{(number + 1 << BLOCK_BITS) - 1}"
    return f"{'gid' if found == GROUP else 'uid'} {number}"


def text_of(entries: Mapping[bytes, bytes]) -> bytes:
    """The text that a table keeps, with some zero bytes behind it."""
    parts = sorted((key, found) for key, found in entries.items() if _kind_of(key) == TEXT)
    return b"".join(found for _, found in parts)


def holders(entries: Mapping[bytes, bytes]) -> dict[bytes, Held]:
    """The holders in a table, by their keys."""
    return {
        key: Held(*_HOLDER.unpack(found)) for key, found in entries.items() if _kind_of(key) in (USER, BLOCK, GROUP)
    }


def keys(holder: Key) -> Iterator[bytes]:
    """The keys of a holder: one, or those of the blocks in a range of uids and of the uids at its ends."""
    if holder.kind == "gid":
        yield holder_key(holder.first, GROUP)
        return
    number, end = holder.first, holder.first + holder.count
    size = 1 << BLOCK_BITS
    while number < end:
        if number % size == 0 and end - number >= size:
            yield holder_key(number >> BLOCK_BITS, BLOCK)
            number += size
        else:
            yield holder_key(number, USER)
            number += 1


def holder_key(number: int, what: int) -> bytes:
    """The key of a user, a block or a group."""
    return _KEY.pack(number, kind(what))


def permits(entries: Mapping[bytes, bytes], ids: tuple[int, int], protocol: str, address: bytes, port: int) -> bool:
    """What the program answers, found by the same steps in the same order. ``ids`` are the real uid and gid.

    ``address`` is packed, and not IPv4-mapped.
    """
    uid, gid = ids
    who = (uid, USER), (uid >> BLOCK_BITS, BLOCK), (gid, GROUP)
    asked = PROTOCOLS.index(protocol), port
    for number, what in who:
        found = entries.get(holder_key(number, what))
        if found is not None and _holder_permits(entries, Held(*_HOLDER.unpack(found)), address, asked):
            return True
    return False


def _holder_permits(entries: Mapping[bytes, bytes], held: Held, address: bytes, asked: tuple[int, int]) -> bool:
    if _in_set(entries, held.anywhere, asked):
        return True
    ipv4 = len(address) == 4
    if not any(address):
        return _in_set(entries, held.wildcard4 if ipv4 else held.wildcard6, asked)
    number = held.networks4 if ipv4 else held.networks6
    place = 0
    while number and place < MAX_NETWORKS and (found := entries.get(_KEY.pack(number, kind(NETWORK) + place))):
        network, mask, ports = _NETWORK.unpack(found)
        if bytes(byte & bit for byte, bit in zip(address.ljust(16, b"\0"), mask, strict=True)) == network:
            return _in_set(entries, ports, asked)
        place += 1
    return False


def _in_set(entries: Mapping[bytes, bytes], number: int, asked: tuple[int, int]) -> bool:
    protocol, port = asked
    bits = entries.get(_KEY.pack(number, kind(PORTS) + (protocol << 8 | port >> 8)))
    return bits is not None and bool(bits[(port & 0xFF) >> 3] >> (port & 7) & 1)


def _kind_of(key: bytes) -> int:
    return int(_KEY.unpack(key)[1]) >> _KIND_SHIFT


class _Builder:
    """Makes sets of ports and lists of networks, each once."""

    def __init__(self) -> None:
        self.entries: Entries = {}
        self._held: dict[frozenset[Rule], tuple[int, ...]] = {}
        self._sets: dict[frozenset[tuple[str | None, int, int]], int] = {}
        self._numbers: dict[bytes, int] = {}
        self._lists: dict[tuple[bytes, ...], int] = {}

    def held(self, rules: frozenset[Rule]) -> tuple[int, ...]:
        """The five numbers of a holder with these rules."""
        if rules not in self._held:
            self._held[rules] = (
                self._ports(rule for rule in rules if rule.network is None),
                *(self._ports(rule for rule in rules if _is_wildcard(rule, size)) for size in (4, 16)),
                *(self._networks(rules, size) for size in (4, 16)),
            )
        return self._held[rules]

    def _networks(self, rules: frozenset[Rule], size: int) -> int:
        found: dict[tuple[bytes, int], list[Rule]] = {}
        for rule in rules:
            # The exact wildcard is no address that a socket is bound to.
            if rule.network is not None and len(rule.network) == size and (any(rule.network) or rule.prefix < 8 * size):
                found.setdefault((rule.network, rule.prefix), []).append(rule)
        if not found:
            return 0
        if len(found) > MAX_NETWORKS:
            raise TableError(
                f"has rules for {len(found)} addresses or networks of IPv{4 if size == 4 else 6},"
                f" and {MAX_NETWORKS} fit (name networks instead of their addresses)"
            )
        values = tuple(
            _NETWORK.pack(network, _mask(size, prefix), self._ports(_around(network, prefix, found)))
            for network, prefix in sorted(found, key=lambda where: (-where[1], where[0]))
        )
        if values not in self._lists:
            number = self._lists[values] = len(self._lists) + 1
            self.entries |= {_KEY.pack(number, kind(NETWORK) + place): entry for place, entry in enumerate(values)}
        return self._lists[values]

    def _ports(self, rules: Iterable[Rule]) -> int:
        """The set of the ports of these rules; 0 for none."""
        meant = frozenset((rule.protocol, rule.ports.low, rule.ports.high) for rule in rules)
        if not meant:
            return 0
        if meant not in self._sets:
            bits = [0, 0]
            for protocol, low, high in meant:
                for index, name in enumerate(PROTOCOLS):
                    if protocol in (None, name):
                        bits[index] |= (1 << high + 1) - (1 << low)
            both = b"".join(ports.to_bytes((MAX_PORT + 1) // 8, "little") for ports in bits)
            if both not in self._numbers:
                number = self._numbers[both] = len(self._numbers) + 1
                for part in range(0, len(both), 32):
                    if any(both[part : part + 32]):
                        self.entries[_KEY.pack(number, kind(PORTS) + part // 32)] = _PORTS.pack(both[part : part + 32])
            self._sets[meant] = self._numbers[both]
        return self._sets[meant]


def _is_wildcard(rule: Rule, size: int) -> bool:
    """Whether a rule with an address of this size permits the wildcard: by that very address, or by /0."""
    network = rule.network
    return network is not None and len(network) == size and not any(network) and rule.prefix in (0, 8 * size)


def _around(network: bytes, prefix: int, found: dict[tuple[bytes, int], list[Rule]]) -> Iterator[Rule]:
    """The rules of a network, and of all that it lies in."""
    bits = int.from_bytes(network, "big")
    for (other, shorter), rules in found.items():
        rest = 8 * len(network) - shorter
        if shorter <= prefix and bits >> rest == int.from_bytes(other, "big") >> rest:
            yield from rules


def _mask(size: int, prefix: int) -> bytes:
    bits = 8 * size
    return (((1 << prefix) - 1) << bits - prefix).to_bytes(size, "big").ljust(16, b"\0")
