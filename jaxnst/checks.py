"""Checks of arguments that many functions share."""

from numbers import Integral
from typing import Any


def check_positive_integer(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is an integer above 0."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name} must be a positive integer, not {value!r}")
