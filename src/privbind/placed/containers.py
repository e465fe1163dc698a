# SPDX-License-Identifier: MIT
"""What a container is granted, and why what it asks for is not. Pure.

The administrator decides, in a file of grants or in the hook's arguments. What an image or a pod's author can write
is one annotation, and it only narrows that.
"""

from __future__ import annotations

from ..grant.policy import Policy, PolicyError
from ..standing.annotations import ALLOW, trusted
from ..values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..grant.policy import Rule, Services
    from ..standing.entries import Entry

MAX_ASKED = 4096
"""Characters of that annotation; a longer one is refused unread."""
MAX_WORDS = 100
"""Rules in it: each one that is refused is a line in the system's log, and may be a look-up of a service."""


@value
class Decision:
    """What a container may bind, None for nothing; where that is granted; and what it is refused, a line each."""

    policy: Policy | None
    sources: tuple[str, ...]
    refused: tuple[str, ...]


def decide(
    annotations: Mapping[str, object],
    runtime: str | None,
    entries: Iterable[Entry],
    arguments: Policy | None,
    services: Services | None = None,
) -> Decision:
    """What a container with these annotations may bind.

    ``entries`` are those of the files, ``arguments`` is what the hook's own arguments allow.
    """
    known = trusted(annotations, runtime)
    rules: list[Rule] = []
    sources: list[str] = []
    if arguments is not None:
        rules += arguments.rules or ()
        sources.append("the hook's --allow")
    for entry in entries:
        # An entry without annotations would be for every container. There can be none, and it would match nothing here.
        if entry.container and all(known.get(name) == wanted for name, wanted in entry.container):
            rules += entry.policy.rules or ()
            sources.append(entry.source)
    granted = Policy(dict.fromkeys(rules)) if rules else None
    if ALLOW not in annotations:
        return Decision(granted, tuple(sources), ())
    policy, refused = _narrowed(granted, annotations[ALLOW], services)
    return Decision(policy, tuple(sources), refused)


def _narrowed(
    granted: Policy | None, asked: object, services: Services | None
) -> tuple[Policy | None, tuple[str, ...]]:
    """The part of the grant that is asked for, and a line for each thing that is asked for beyond the grant."""
    if not isinstance(asked, str) or len(asked) > MAX_ASKED:
        return None, (f"annotation {ALLOW} is no text of at most {MAX_ASKED} characters, so nothing is granted",)
    words = tuple(dict.fromkeys(asked.replace(",", " ").split()))
    if len(words) > MAX_WORDS:
        return None, (f"annotation {ALLOW} has {len(words)} rules, more than {MAX_WORDS}, so nothing is granted",)
    rules: list[Rule] = []
    refused: list[str] = []
    for text in words:
        try:
            wanted = Policy.parse([text], services)
        except PolicyError as error:
            refused.append(f"annotation {ALLOW}: {error}")
            continue
        if granted is not None and granted.covers(wanted):
            rules += wanted.rules or ()
        else:
            refused.append(f"annotation {ALLOW} asks for {text}, beyond what is granted: {granted or 'nothing'}")
    return Policy(rules) if rules else None, tuple(refused)
