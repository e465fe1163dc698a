# SPDX-License-Identifier: MIT
"""Classes of immutable values, as dataclasses makes them, for a twentieth of what importing dataclasses costs."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar, dataclass_transform

    _Class = TypeVar("_Class")
else:

    def dataclass_transform(**_: bool) -> object:
        """Tell type checkers what typing.dataclass_transform tells them; at run time it does nothing."""
        return lambda decorator: decorator


@dataclass_transform(frozen_default=True)
def value(cls: type[_Class]) -> type[_Class]:  # noqa: C901  # six short methods
    """Make a class one of immutable values, which are equal, hashed and shown by their fields.

    The fields are the class's annotations, in their order. The constructor takes them by position or by name; a class
    attribute of the same name is a field's default. A class that has a constructor of its own sets its fields there
    with `set_fields`, and one that has ``__str__`` is shown by it.
    """
    names = tuple(cls.__annotations__)
    required = frozenset(name for name in names if not hasattr(cls, name))

    def fields(self: object) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in names)

    def init(self: object, *given: object, **named: object) -> None:
        found = dict(zip(names, given, strict=False), **named)
        if len(found) != len(given) + len(named) or not required <= found.keys() <= set(names):
            raise TypeError(f"{cls.__name__} takes {', '.join(names)}, not {given} and {named}")
        set_fields(self, **found)

    def forbid(_: object, name: str, *__: object) -> None:
        raise AttributeError(f"{name}: a {cls.__name__} cannot be changed")

    def equal(self: object, other: object) -> bool:
        return type(self) is type(other) and fields(self) == fields(other)

    def hashed(self: object) -> int:
        return hash((cls, *fields(self)))

    def shown(self: object) -> str:
        if "__str__" in cls.__dict__:
            return f"<{cls.__name__} {self}>"
        return f"{cls.__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    if "__init__" not in cls.__dict__:
        cls.__init__ = init  # type: ignore[method-assign]
    for name, method in (
        ("__setattr__", forbid),
        ("__delattr__", forbid),
        ("__eq__", equal),
        ("__hash__", hashed),
        ("__repr__", shown),
    ):
        setattr(cls, name, method)
    return cls


def set_fields(instance: object, **fields: object) -> None:
    """Set fields of a value that is being constructed."""
    instance.__dict__.update(fields)


def replaced(instance: _Class, **fields: object) -> _Class:
    """A value like this one but for these fields. For classes without a constructor of their own."""
    return type(instance)(**{**instance.__dict__, **fields})
