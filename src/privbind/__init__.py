# SPDX-License-Identifier: MIT
"""privbind: run a program as an unprivileged user who may bind exactly the reserved ports granted.

For Python programs: `become` makes this process run as the user, `command` makes the command line that starts another
program, `may_bind` asks whether this process may bind, and `explain` why. docs/python.md has recipes. Importing this
package loads none of its modules and makes no system call of its own; a name is loaded when it is first used.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .api import (
        Grant,
        NoMechanismError,
        NotUndoneError,
        Policy,
        PolicyError,
        Ports,
        PrivbindError,
        Rule,
        Status,
        UnsupportedError,
        UsageError,
        become,
        command,
        explain,
        may_bind,
    )

__version__ = "2.0.0"

__all__ = [
    "Grant",
    "NoMechanismError",
    "NotUndoneError",
    "Policy",
    "PolicyError",
    "Ports",
    "PrivbindError",
    "Rule",
    "Status",
    "UnsupportedError",
    "UsageError",
    "become",
    "command",
    "explain",
    "may_bind",
]


if not TYPE_CHECKING:  # type checkers have the names from above, and are to know that there are no others

    def __getattr__(name: str) -> object:
        """Load what is public when it is first asked for."""
        if name not in __all__:
            raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
        import sys

        if sys.implementation.name != "cpython":
            raise ImportError(f"{__name__}.{name} needs CPython (the privbind command starts programs of any Python)")
        from . import api

        found: object = getattr(api, name)
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return [*globals(), *__all__]
