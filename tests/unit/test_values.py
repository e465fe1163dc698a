"""Classes of immutable values: equality, hashes, defaults, and what they do not take."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from privbind.values import replaced, set_fields, value


@value
class Point:
    """Two fields, one of them with a default."""

    x: int
    y: int = 7


@value
class Other:
    """The same fields as a point's, but another class."""

    x: int
    y: int = 7


@value
class Checked:
    """A class with a constructor of its own, and with a text form."""

    text: str

    def __init__(self, text: str, times: int = 1) -> None:
        """Refuse nothing to say."""
        if not text:
            raise ValueError("nothing to say")
        set_fields(self, text=text * times)

    def __str__(self) -> str:
        return self.text


@value
class Empty:
    """No fields at all."""


ANY: Any = Point
"""For calls that a type checker would refuse, as it should."""


def test_fields_by_position_and_by_name() -> None:
    assert (Point(1, 2).x, Point(1, 2).y) == (1, 2)
    assert Point(1, 2) == Point(y=2, x=1) == Point(1, y=2)


def test_a_class_attribute_is_a_default() -> None:
    """Which the instances do not change."""
    assert Point(1).y == 7
    assert Point(1) == Point(1, 7)
    assert Point(1, 8).y == 8
    assert Point.y == 7


@pytest.mark.parametrize(
    ("given", "named"),
    [((), {}), ((1, 2, 3), {}), ((1,), {"x": 1}), ((1,), {"z": 1}), ((), {"y": 2}), ((1, 2), {"y": 2})],
    ids=["none", "too many", "twice", "unknown", "only the default", "the default twice"],
)
def test_wrong_arguments(given: tuple[int, ...], named: dict[str, int]) -> None:
    """The error names the class and what it takes."""
    with pytest.raises(TypeError, match=r"^Point takes x, y, not "):
        ANY(*given, **named)


def test_a_class_without_fields_takes_nothing() -> None:
    assert Empty() == Empty()
    cls: Any = Empty
    with pytest.raises(TypeError, match="Empty takes "):
        cls(1)


def test_equal_by_class_and_content() -> None:
    assert Point(1, 2) == Point(1, 2)
    assert Point(1, 2) != Point(1, 3)
    assert Point(1, 2) != Point(2, 2)
    same_fields: object = Other(1, 2)
    assert Point(1, 2) != same_fields
    a_tuple: object = (1, 2)
    assert Point(1, 2) != a_tuple


def test_a_subclass_is_another_class() -> None:
    class Near(Point):
        pass

    assert Near(1, 2) != Point(1, 2)
    assert Near(1, 2) == Near(1, 2)


def test_equal_values_have_equal_hashes() -> None:
    """And count once in a set; values of another class with the same content do not count as the same."""
    assert hash(Point(1, 2)) == hash(Point(1, 2))
    assert len({Point(1, 2), Point(1, 2), Point(2, 1)}) == 2
    mixed: set[object] = {Point(1, 2), Other(1, 2)}
    assert len(mixed) == 2


@pytest.mark.parametrize("instance", [Point(1), Checked("a"), Empty()], ids=lambda instance: type(instance).__name__)
def test_nothing_can_be_changed(instance: object) -> None:
    """Neither a field nor anything else, and the error says of what class it is."""
    before = dict(vars(instance))
    for name in ("x", "text", "new"):
        with pytest.raises(AttributeError, match=f"^{name}: a {type(instance).__name__} cannot be changed$"):
            setattr(instance, name, 3)
        with pytest.raises(AttributeError, match=f"^{name}: a {type(instance).__name__} cannot be changed$"):
            delattr(instance, name)
    assert vars(instance) == before


def test_a_constructor_of_its_own_is_kept() -> None:
    assert Checked("ab", 2).text == "abab"
    assert Checked("ab", 2) == Checked("abab")
    with pytest.raises(ValueError, match="nothing to say"):
        Checked("")


def test_how_it_is_shown() -> None:
    """By its fields, or by its text form where it has one."""
    assert repr(Point(1)) == "Point(x=1, y=7)"
    assert repr(Empty()) == "Empty()"
    assert repr(Checked("ab")) == "<Checked ab>"
    assert str(Checked("ab")) == "ab"


def test_a_value_like_another() -> None:
    point = Point(1, 2)
    assert replaced(point, y=3) == Point(1, 3)
    assert replaced(point) == point
    assert point == Point(1, 2)
    with pytest.raises(TypeError, match="Point takes x, y"):
        replaced(point, z=3)


def test_it_survives_being_pickled() -> None:
    """Tests send values from one process to another."""
    assert pickle.loads(pickle.dumps(Point(1, 2))) == Point(1, 2)
