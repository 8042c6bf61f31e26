# SPDX-License-Identifier: MIT
"""
One line on a terminal that tells how far it is.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from nodecomm.sync.model import Progress

__all__ = ["ProgressLine", "amount"]

_UNITS = ("kB", "MB", "GB", "TB", "PB")

#: Characters of the bar.
_BAR = 20


def amount(size: int) -> str:
    """
    A number of bytes as people read it, in steps of 1000.
    """
    if size < 1000:
        return f"{size} B"
    value = float(size)
    for unit in _UNITS:
        value /= 1000
        if value < 999.95 or unit == _UNITS[-1]:
            return f"{value:.1f} {unit}"
    raise AssertionError


class ProgressLine:
    """
    The last line of a terminal.

    Args:
        stream: The terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shown = ""

    @classmethod
    def on(cls, stream: TextIO) -> ProgressLine | None:
        """
        A line on *stream*, None if that is no terminal that can go back in a line.
        """
        if os.environ.get("TERM", "dumb") == "dumb" or not stream.isatty():
            return None
        return cls(stream)

    def show(self, progress: Progress) -> None:
        """
        Tell how far an update is.
        """
        self.show_text(progress_text(progress))

    def show_text(self, text: str) -> None:
        """
        Show *text*, as much of it as has room in a line.
        """
        text = text[: self._width() - 1]
        if text == self._shown:
            return
        # Over the old one, and blanks over what is longer of it.
        self._write("\r" + text.ljust(len(self._shown)))
        self._shown = text

    def clear(self) -> None:
        """
        Leave an empty line.
        """
        if self._shown:
            self._write("\r" + " " * len(self._shown) + "\r")
            self._shown = ""

    def _width(self) -> int:
        try:
            columns = os.get_terminal_size(self._stream.fileno()).columns
        except OSError:
            columns = 0
        # One that was never told its size says 0.
        return columns or shutil.get_terminal_size().columns

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def progress_text(progress: Progress) -> str:
    """
    How far it is, in words and a bar.
    """
    parts = [progress.phase.value]
    if progress.files_total or progress.files:
        files = f"{progress.files}"
        if progress.files_total:
            files += f" of {progress.files_total}"
        parts.append(f"{files} files")
    if progress.bytes_total:
        parts.append(f"{amount(progress.bytes)} of {amount(progress.bytes_total)}")
        done = min(_BAR, _BAR * progress.bytes // progress.bytes_total)
        parts.append(f"[{'#' * done}{'.' * (_BAR - done)}]")
    return "  ".join(parts)
