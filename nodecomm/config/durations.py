# SPDX-License-Identifier: MIT
"""
Lengths of time as people write them: `90s`, `5m`, `1h30m`, `2d`.
"""

from __future__ import annotations

import re

__all__ = ["duration_text", "parse_duration"]

_UNITS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))

_DURATION = re.compile(
    r"(?:([0-9]{1,9})d)?(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9})s)?",
    re.ASCII,
)


def parse_duration(text: str) -> int:
    """
    The seconds that *text* means: numbers with `d`, `h`, `m`, `s`, the largest first.

    Raises:
        ValueError: It is something else.
    """
    found = _DURATION.fullmatch(text)
    if not text or found is None:
        msg = "not a length of time"
        raise ValueError(msg)
    return sum(
        int(number or 0) * seconds
        for number, (_, seconds) in zip(found.groups(), _UNITS, strict=True)
    )


def duration_text(seconds: float) -> str:
    """
    So many seconds, rounded, as `parse_duration` reads them; of a long time the two
    largest units.
    """
    left = round(seconds)
    parts: list[str] = []
    for name, size in _UNITS:
        number, left = divmod(left, size)
        if number or parts:
            parts.append(f"{number}{name}" if number else "")
    return "".join(parts[:2]) or "0s"
