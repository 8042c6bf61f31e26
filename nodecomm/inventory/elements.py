# SPDX-License-Identifier: MIT
"""
XML into a small tree of the elements that are wanted, within limits.

There is no document type: the first sign of one ends the reading, so there are no
entities but XML's own five, nothing is fetched, and nothing grows. What is not wanted
is counted and forgotten while it is read, which for a real document is most of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sized
from xml.parsers import expat

from nodecomm.inventory.limits import DocumentLimits, DocumentRefused

__all__ = ["Element", "longest_text", "read_elements"]

#: Bytes that are parsed at a time; and how many may wait for the end of their tag.
_STEP = 64 * 1024
_WAITING = 256 * 1024

#: Characters of one text, and of those that may be longer. Real ones have some 5,000.
_TEXT = 64 * 1024
_LONGER = {"CUSTOM_PROPERTIES": 256 * 1024}

#: Characters of a path of names that are told.
_TOLD = 255

#: What separates words. Line breaks stay: keys and certificates consist of lines.
_BLANKS = re.compile(r"[ \t]+")


def longest_text(name: str) -> int:
    """
    Characters that the text of an element of this name may have.
    """
    return _LONGER.get(name, _TEXT)


class Element:
    """
    An element: its name, and what is in it, in order.
    """

    __slots__ = ("content", "name", "size")

    def __init__(self, name: str) -> None:
        self.name = name
        self.content: list[Element | str] = []
        self.size = 0

    def check(self, size: int, path: Iterable[str] = ()) -> None:
        """
        Refuse a text of more characters than this element may have.

        Args:
            size: How many there are.
            path: Names of the elements down to this one, which are told.

        Raises:
            DocumentRefused: `too-long`.
        """
        limit = longest_text(self.name)
        if size > limit:
            where = "/".join(path) or self.name
            where = where.removeprefix("REQUEST/CONTENT/")[:_TOLD]
            msg = f"{where} has more than {limit} characters"
            raise DocumentRefused("too-long", msg, where)

    def children(self, name: str) -> Iterator[Element]:
        """
        The elements of this name directly within.
        """
        for part in self.content:
            if isinstance(part, Element) and part.name == name:
                yield part

    def child(self, name: str) -> Element | None:
        """
        The first element of this name directly within.
        """
        return next(self.children(name), None)

    def words(self) -> str | None:
        """
        All text within, trimmed, runs of blanks as one; None when there is none.

        Raises:
            DocumentRefused: `too-long`.
        """
        content = self.content
        if len(content) == 1 and isinstance(content[0], str):
            # As nearly all are.
            text = content[0]
        else:
            text = "".join(self._pieces())
            self.check(len(text))
        if "  " in text or "\t" in text:
            text = _BLANKS.sub(" ", text)
        return text.strip() or None

    def _pieces(self) -> Iterator[str]:
        for part in self.content:
            if isinstance(part, str):
                yield part
            else:
                yield from part._pieces()

    def text(self, *names: str) -> str | None:
        """
        The text of the first child that has one of these names and is not empty; the
        names are tried in order.
        """
        # A document has thousands: nothing is called for those of other names.
        for name in names:
            for child in self.content:
                if not isinstance(child, Element) or child.name != name:
                    continue
                words = child.words()
                if words is not None:
                    return words
        return None


class _Reader:
    """
    The events of one document.

    Nothing is handed to the parser at once, and nothing read of it, that would take
    more than some milliseconds: meanwhile no other thread of Python goes on.
    """

    def __init__(
        self, limits: DocumentLimits, wanted: Callable[[list[str], str], bool]
    ) -> None:
        self._limits = limits
        self._wanted = wanted
        self._elements = 0
        self._skipping = 0
        self._path: list[str] = []
        self._top = Element("")
        self._open = [self._top]

    def read(self, data: bytes) -> Element:
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.StartDoctypeDeclHandler = self._doctype
        try:
            for start in range(0, len(data), _STEP):
                piece = data[start : start + _STEP]
                parser.Parse(piece, False)
                if start + len(piece) - parser.CurrentByteIndex > _WAITING:
                    msg = f"a tag or a comment of more than {_WAITING} bytes"
                    raise DocumentRefused("too-long", msg)
            parser.Parse(b"", True)
        except expat.ExpatError as error:
            what = expat.ErrorString(error.code)
            where = f"line {error.lineno}, column {error.offset}"
            raise DocumentRefused("not-xml", f"no XML: {what} at {where}") from error
        except (LookupError, ValueError) as error:
            if isinstance(error, DocumentRefused):
                raise
            # Python knows no such encoding, or it is no simple one.
            raise DocumentRefused("not-xml", f"no XML: {error}") from error
        top = self._top.content[0]
        assert isinstance(top, Element)  # noqa: S101
        return top

    def _doctype(self, *_: object) -> None:
        raise DocumentRefused("doctype", "a document type, which no inventory has")

    def _start(self, name: str, attributes: Sized) -> None:
        # The parser remembers the names of all attributes.
        self._elements += 1 + len(attributes)
        if self._elements > self._limits.elements:
            msg = f"more than {self._limits.elements} elements and attributes"
            raise DocumentRefused("too-many-elements", msg)
        if len(self._path) >= self._limits.depth:
            msg = f"elements within each other, more than {self._limits.depth}"
            raise DocumentRefused("too-deep", msg)
        wanted = self._wanted(self._path, name)
        self._path.append(name)
        if self._skipping or not wanted:
            self._skipping += 1
            return
        element = Element(name)
        self._open[-1].content.append(element)
        self._open.append(element)

    def _end(self, _: str) -> None:
        self._path.pop()
        if self._skipping:
            self._skipping -= 1
        else:
            self._open.pop()

    def _text(self, text: str) -> None:
        if not self._skipping:
            element = self._open[-1]
            element.content.append(text)
            # What stands between elements, in documents for people, is no text.
            if not text.isspace():
                element.size += len(text)
                element.check(element.size, self._path)


def read_elements(
    data: bytes,
    limits: DocumentLimits,
    wanted: Callable[[list[str], str], bool],
) -> Element:
    """
    The root of an XML document. Blocks for a tenth of a second per 2 MB.

    Args:
        data: The document.
        limits: How much of it is read.
        wanted: Called with the path of names from the root, and the name of an element
            there; says whether it is kept. It is asked about every element, whether or
            not it is within one that is not kept; the root has to be.

    Raises:
        DocumentRefused: `too-large`, `too-long`, `not-xml`, `doctype`, `too-deep`,
            `too-many-elements`.
    """
    limits.check_size(len(data))
    return _Reader(limits, wanted).read(data)
