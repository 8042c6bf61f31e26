# SPDX-License-Identifier: MIT
"""
What the files of an inventory are called when they are sent.

A document and its signature come each by itself, in either order, and belong together
by their names alone: `NAME.ocs` or `NAME.ocs.gz`, and `NAME.ocs.sign`. What the name
says of the node is not believed; the document says it, and the signature proves it.
"""

from __future__ import annotations

import enum
import re

from attrs import frozen

__all__ = ["MAX_NAME", "Half", "UploadName", "read_name"]

#: Characters of a name. Source: nodes call them `<host>-<id>.ocs` (up to Rudder 7.2)
#: or `<id>_<ISO 8601 time>.ocs`, so real ones have some 70.
MAX_NAME = 200

_NAME = re.compile(rf"[A-Za-z0-9_.:+\-]{{1,{MAX_NAME}}}", re.ASCII)

#: What ends a document's name, once a `.gz` is off.
_DOCUMENTS = (".ocs", ".xml")

_COMPRESSED = ".gz"
_SIGNATURE = ".sign"


class Half(enum.Enum):
    """
    Which of the two files of an inventory.
    """

    DOCUMENT = "document"
    SIGNATURE = "signature"

    @property
    def other(self) -> Half:
        """
        The one that it belongs to.
        """
        return Half.SIGNATURE if self is Half.DOCUMENT else Half.DOCUMENT


@frozen
class UploadName:
    """
    The name of a file that is sent.

    Attributes:
        text: The name itself; it is one of a file in a folder and nothing else.
        half: Which of the two files it is.
        pair: What both have in common: the document's name without `.gz`.
        compressed: Whether it is that of a compressed document.
    """

    text: str
    half: Half
    pair: str
    compressed: bool = False


def read_name(text: str) -> UploadName:
    """
    Read the name of a file that is sent.

    Raises:
        ValueError: It is none. The message says what one looks like.
    """
    if not _NAME.fullmatch(text) or text.startswith("."):
        msg = (
            f"a name has 1 to {MAX_NAME} letters, digits and _ . : + -, and does not "
            "begin with a dot"
        )
        raise ValueError(msg)
    pair, half, compressed = text, Half.DOCUMENT, False
    if text.endswith(_SIGNATURE):
        pair, half = text[: -len(_SIGNATURE)], Half.SIGNATURE
    elif text.endswith(_COMPRESSED):
        pair, compressed = text[: -len(_COMPRESSED)], True
    if not pair.endswith(_DOCUMENTS):
        raise ValueError("a name ends with .ocs, .ocs.gz, .xml, .xml.gz or .sign")
    return UploadName(text, half, pair, compressed)
