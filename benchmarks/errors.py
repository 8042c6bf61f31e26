# SPDX-License-Identifier: MIT
"""What can go wrong in a way the person at the keyboard can mend."""

from __future__ import annotations


class BenchmarkError(Exception):
    """A measurement could not be made; the text says what to do about it."""
