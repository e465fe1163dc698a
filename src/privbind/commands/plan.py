# SPDX-License-Identifier: MIT
"""What `privbind --dry-run --json` prints: what would be started, as whom, and by which mechanism (privbind(1))."""

from __future__ import annotations

from json import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..grant.policy import Policy
    from ..launch import Choice
    from ..request import Command, Request


def of_launch(request: Request, choice: Choice, warnings: list[str]) -> str:
    """A launch by a privileged process. ``rules`` null: every reserved port; ``mechanism`` null: none is needed."""
    grant = request.grant
    return _text(
        request.command,
        grant.policy,
        limit=grant.limit or None,
        reuse_ports=[str(ports) for ports in grant.reuse_ports],
        mechanism=choice.name if choice.mechanism else None,
        passed_over=[
            {"mechanism": error.mechanism, "reason": error.reason, "remedy": error.remedy}
            for error in choice.passed_over
        ],
        reserved_below=request.site.port_start,
        warnings=warnings,
    )


def of_own(command: Command, policy: Policy) -> str:
    """A command that its user may start as it is."""
    return _text(command, policy, mechanism=None)


def _text(command: Command, policy: Policy, **more: Any) -> str:
    account = command.account
    values = {
        "account": {
            "user": account.name or None,
            "uid": account.uid,
            "gid": account.gid,
            "groups": list(account.groups),
        },
        "command": [_shown(word) for word in command.argv],
        "program": _shown(command.program.path),
        "rules": None if policy.rules is None else [str(rule) for rule in policy.rules],
        **more,
    }
    return dumps(values, indent=2) + "\n"


def _shown(word: bytes) -> str:
    return word.decode("utf-8", "backslashreplace")
