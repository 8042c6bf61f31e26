# SPDX-License-Identifier: MIT
"""
The one form in which bytes of the wire are shown as text, and read back.

Names on the wire are bytes in no particular encoding. As text they are UTF-8 where
they can be; every byte that is not UTF-8, and every control character, is `\\xNN`,
and a backslash is two. Nothing is folded or normalised, so the way back is exact.
"""

from __future__ import annotations

_HEX = frozenset("0123456789abcdefABCDEF")


def _bytes_as_text(raw: bytes) -> str:
    return "".join([f"\\x{byte:02x}" for byte in raw])


#: C0, DEL and C1 controls and the backslash, each with what stands for it.
_ESCAPES = {
    code: _bytes_as_text(chr(code).encode())
    for code in (*range(0x20), *range(0x7F, 0xA0))
} | {ord("\\"): "\\\\"}

#: As `_ESCAPES`, for text from `surrogateescape`: U+DC80 to U+DCFF are single bytes.
_RAW_ESCAPES = _ESCAPES | {
    0xDC00 + byte: f"\\x{byte:02x}" for byte in range(0x80, 0x100)
}


def to_text(raw: bytes) -> str:
    """
    Show *raw* as text: UTF-8, other bytes and controls as `\\xNN`, `\\` as `\\\\`.

    The text still holds characters that can confuse a terminal (writing direction,
    invisible ones): put it through `safe` before it is printed.
    """
    text = raw.decode("utf-8", "surrogateescape")
    if text.isprintable() and "\\" not in text:
        return text
    return text.translate(_RAW_ESCAPES)


def from_text(text: str) -> bytes:
    """
    The bytes that *text* stands for: the inverse of `to_text`, and of `safe` on top
    of it.

    Raises:
        ValueError: A backslash is followed by neither another one nor `x` and two
            hexadecimal digits, or the text holds a lone surrogate.
    """
    first, *rest = text.split("\\")
    parts = [_encode(first)]
    pieces = iter(rest)
    for piece in pieces:
        if piece:
            digits = piece[1:3]
            if piece[0] != "x" or len(digits) != 2 or not _HEX.issuperset(digits):
                raise ValueError(
                    f"'\\{safe(piece[:3])}' is no escape: write '\\\\' for a backslash"
                    " and '\\xNN' for a byte"
                )
            parts += bytes.fromhex(digits), _encode(piece[3:])
        else:
            # Two backslashes: the piece after the second one is plain text.
            plain = next(pieces, None)
            if plain is None:
                raise ValueError("a single backslash ends the text: write '\\\\'")
            parts += b"\\", _encode(plain)
    return b"".join(parts)


def safe(text: str) -> str:
    """
    Make any text safe for one line of a terminal or a log.

    Whatever does not print (controls, marks of writing direction, invisible and
    unassigned characters, line separators, lone surrogates) becomes `\\xNN` for each
    byte of its UTF-8 form. Applying it twice changes nothing more, and
    `from_text(safe(to_text(raw)))` is `raw`.
    """
    if text.isprintable():
        return text
    return "".join(
        [char if char.isprintable() else _bytes_as_text(_raw(char)) for char in text]
    )


def _raw(char: str) -> bytes:
    # What os.fsdecode made of a single byte becomes that byte again.
    errors = "surrogateescape" if "\udc80" <= char <= "\udcff" else "surrogatepass"
    return char.encode("utf-8", errors)


def _encode(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"'{safe(text)}' holds a lone surrogate: write bytes as '\\xNN'"
        ) from None
