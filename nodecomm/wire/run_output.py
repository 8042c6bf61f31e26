# SPDX-License-Identifier: MIT
"""
What a command prints, on its way from its pipe to frames: a frame for each line.
"""

from __future__ import annotations

from functools import cache

from nodecomm.wire.framing import HEADER_SIZE, encode_transaction, join_frames

__all__ = ["MAX_LINE", "OutputLines", "Printed", "output_line"]

#: Most bytes of a line of output; what is beyond them in that line is not sent.
#: Source: CFEngine 3.21, observed: a payload of 4086 bytes with prefix and newline.
MAX_LINE = 4083

#: Before a line of output.
_OUTPUT = b"> "

#: Bytes of a frame that are not in the line.
_AROUND = HEADER_SIZE + len(_OUTPUT)


class OutputLines:
    """
    Makes whole lines of what a command writes, as it comes. Of a line that never ends,
    `MAX_LINE` bytes are kept.
    """

    __slots__ = ("_line",)

    def __init__(self) -> None:
        self._line = bytearray()

    def feed(self, data: bytes) -> bytes:
        """
        Add bytes as the command wrote them.

        Returns:
            The lines that are whole now, each with its newline.
        """
        line = self._line
        end = data.rfind(b"\n") + 1
        whole = b""
        if end:
            whole = bytes(line) + data[:end]
            line.clear()
        line += data[end : end + MAX_LINE - len(line)]
        return whole

    def finish(self) -> bytes:
        """
        A last line without a newline is whole, too.
        """
        return self.feed(b"\n") if self._line else b""


class Printed:
    """
    Some lines that a command has printed. The frames are made once, for all who are
    sent them.

    Attributes:
        lines: Whole lines, each with its newline.
        size: About how many bytes the frames are; more only where lines are cut.
    """

    __slots__ = ("_records", "lines", "size")

    def __init__(self, lines: bytes) -> None:
        self.lines = lines
        self.size = len(lines) + _AROUND * lines.count(b"\n")
        self._records: list[bytes] | None = None

    @property
    def records(self) -> list[bytes]:
        """
        A frame for each line, joined to records: each item is one or more whole frames
        and at most `MAX_RECORD` bytes, to be written at once.
        """
        if self._records is None:
            self._records = _records(self.lines)
        return self._records


def output_line(line: bytes) -> bytes:
    """
    The frame for a line of output. The line ends before its first NUL or newline and
    after `MAX_LINE` bytes; what else is in it is lost, as with a real server.
    """
    line = line.partition(b"\n")[0].partition(b"\0")[0]
    return encode_transaction(b"> %b\n" % line[:MAX_LINE])


def _records(lines: bytes) -> list[bytes]:
    texts = lines.split(b"\n")
    texts.pop()
    if b"\0" in lines:
        texts = [text.partition(b"\0")[0] for text in texts]
    if max(map(len, texts), default=0) > MAX_LINE:
        texts = [text[:MAX_LINE] for text in texts]
    # There may be thousands, with nothing in them: no call for each.
    heads = _heads()
    return join_frames([heads[len(text)] + text + b"\n" for text in texts])


@cache
def _heads() -> list[bytes]:
    """
    What a frame begins with, by the length of the line in it.
    """
    longest = b"\n".rjust(MAX_LINE + 1)
    return [
        encode_transaction(_OUTPUT + longest[MAX_LINE - size :])[:_AROUND]
        for size in range(MAX_LINE + 1)
    ]
