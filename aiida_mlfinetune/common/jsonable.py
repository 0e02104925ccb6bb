"""Metadata as a database keeps them, so that what is read back equals what was stored."""

from __future__ import annotations

import json
from typing import Any

DIGITS = 14
"""Significant digits that AiiDA keeps of the floats among a node's attributes."""


def plain_json(value: Any) -> Any:
    """Return a value as plain JSON types, floats rounded to the digits that AiiDA keeps.

    Raises:
        TypeError: the value holds objects that JSON does not know.
        ValueError: the value holds NaN or infinite numbers.
    """
    return json.loads(json.dumps(value, allow_nan=False), parse_float=_rounded)


def _rounded(text: str) -> float | int:
    rounded = f"{float(text):.{DIGITS}g}"
    number = float(rounded)
    return int(number) if "e" in rounded and number.is_integer() else number
