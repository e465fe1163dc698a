# SPDX-License-Identifier: MIT
"""Whether one policy permits all that another one permits. Exact: it compares sets of binds, not rules.

A bind is a protocol, a port and an address. For each rule of the other policy, protocols and ports are cut into pieces
in which this policy's rules do not change; in each piece the addresses are compared as ranges of numbers.
"""

from __future__ import annotations

from .policy import PROTOCOLS, mapped_range

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .policy import Policy, Rule

    Range = tuple[int, int]
    """Addresses of one family as numbers, from the first to the second, both included."""

_BITS = (32, 128)
"""The two families, by the length of their addresses."""


def covers(policy: Policy, other: Policy) -> bool:
    """Whether ``policy`` permits every bind that ``other`` permits."""
    if policy.rules is None:
        return True
    if other.rules is None:
        return False  # it permits protocols that no rule can name
    return all(_covers_rule(policy.rules, rule) for rule in other.rules)


def _covers_rule(rules: tuple[Rule, ...], wanted: Rule) -> bool:
    for protocol in PROTOCOLS if wanted.protocol is None else (wanted.protocol,):
        fitting = [rule for rule in rules if rule.protocol in (None, protocol)]
        starts = {wanted.ports.low}
        starts.update(rule.ports.low for rule in fitting)
        starts.update(rule.ports.high + 1 for rule in fitting)
        for port in starts:
            if port in wanted.ports and not _covers_addresses([rule for rule in fitting if port in rule.ports], wanted):
                return False
    return True


def _covers_addresses(rules: list[Rule], wanted: Rule) -> bool:
    return all(
        _contains([piece for rule in rules for piece in _addresses(rule, bits)], needed)
        for bits in _BITS
        for needed in _addresses(wanted, bits)
    )


def _addresses(rule: Rule, bits: int) -> Iterable[Range]:
    """The addresses of one family that a rule matches (`Rule.matches_address` says why the wildcard is apart)."""
    last = (1 << bits) - 1
    if rule.network is None or (rule.prefix == 0 and 8 * len(rule.network) == bits):
        found = (0, last)
    elif 8 * len(rule.network) != bits:
        return []
    else:
        low = int.from_bytes(rule.network, "big")
        found = (low, low | last >> rule.prefix)
        if low == 0 and rule.prefix != bits:
            found = (1, found[1])
    if bits == 32:
        return [found]
    # IPv4-mapped addresses are judged as IPv4 addresses, so no IPv6 rule speaks of them.
    first_mapped, last_mapped = mapped_range()
    pieces = ((found[0], min(found[1], first_mapped - 1)), (max(found[0], last_mapped + 1), found[1]))
    return [(low, high) for low, high in pieces if low <= high]


def _contains(pieces: list[Range], needed: Range) -> bool:
    """Whether the pieces together contain all of a range."""
    low, high = needed
    for start, end in sorted(pieces):
        if start > low:
            break
        low = max(low, end + 1)
    return low > high
