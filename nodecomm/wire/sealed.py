# SPDX-License-Identifier: MIT
"""
The encrypted commands of the classic protocol: a plain command in an envelope.

An envelope is a word, the size of what follows and, for `SGET`, a block size, as text
that a NUL ends; from offset 16 on the encrypted text of the plain command. Parsers and
encoders of the plain commands (`nodecomm.wire.commands`) do the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from nodecomm.wire.cipher import CipherError, SessionCipher
from nodecomm.wire.commands import (
    USUAL_BLOCK,
    check_path,
    encode_digest,
    encode_opendir,
    encode_stat,
)
from nodecomm.wire.errors import LocalProtocolError, RemoteProtocolError
from nodecomm.wire.framing import MAX_PAYLOAD

#: Each word of an envelope, and the first word of what must be inside.
#: Source: CFEngine 3.21.
SEALED: Mapping[bytes, bytes] = MappingProxyType(
    {
        b"SSYNCH": b"SYNCH",
        b"SOPENDIR": b"OPENDIR",
        b"SMD5": b"MD5",
        b"SGET": b"GET",
        b"SVAR": b"VAR",
        b"SCONTEXT": b"CONTEXT",
        b"SQUERY": b"QUERY",
        b"SCALLBACK": b"CALL_ME_BACK",
    }
)

#: Bytes before the encrypted text. Source: CFEngine 3.21.
HEAD = 16

#: Between `GET` and the path stand a space, eight bytes without meaning, a space.
#: Source: CFEngine 3.21, which reads them by position.
_DUMMY = b"dummykey"


class SealedSizeError(RemoteProtocolError):
    """
    The size in an envelope is missing or not that of what follows.
    """


class WrongWord(RemoteProtocolError):  # noqa: N818
    """
    An envelope holds another command than it says, or cannot be decrypted. Which of
    the two it was is not told to anybody.
    """


class Sealed(NamedTuple):
    """
    An envelope.

    Attributes:
        word: Its word, one of `SEALED`.
        data: The encrypted text.
        block: The block size of `SGET`, 0 where it names none; None for the others. It
            says nothing.
    """

    word: bytes
    data: bytes
    block: int | None


def parse_sealed(payload: bytes) -> Sealed:
    """
    Read an envelope. Real clients leave bytes of any value between the NUL and the
    encrypted text.

    Raises:
        SealedSizeError: A size is missing, or not that of what follows.
        RemoteProtocolError: The word is none of an envelope.
    """
    word, size, block = _read_head(payload[:HEAD].partition(b"\0")[0])
    data = payload[HEAD:]
    if size != len(data):
        raise SealedSizeError("size in an envelope", size, f"{len(data)} bytes follow")
    return Sealed(word, data, block)


@lru_cache(maxsize=1024)
def _read_head(text: bytes) -> tuple[bytes, int, int | None]:
    """
    The word, the size and the block size in an envelope. A peer's requests have few
    sizes.
    """
    words = text.split()
    if not words or words[0] not in SEALED or not text.startswith(words[0]):
        raise RemoteProtocolError("envelope", text, "an encrypted command")
    # The real server reads numbers and looks at nothing behind them.
    if len(words) == 1 or not words[1].isdigit():
        raise SealedSizeError("envelope", text, "must hold a size")
    return words[0], int(words[1]), _block(words) if words[0] == b"SGET" else None


def _block(words: list[bytes]) -> int:
    """
    The block size in an envelope of `SGET`.

    Raises:
        SealedSizeError: It is less than none.
    """
    # Source: CFEngine 3.21, observed: without one, and with what is no number, the
    # content is served; a negative one is refused.
    text = words[2] if len(words) > 2 else b""
    if text.startswith(b"-"):
        raise SealedSizeError("block size", text, "not negative")
    return int(text) if text.isdigit() else 0


def open_sealed(sealed: Sealed, cipher: SessionCipher) -> bytes:
    """
    Decrypt an envelope: the payload of the plain request that it stands for.

    `SGET` becomes a `GET` with the usual block size. `SCALLBACK` becomes
    `CALL_ME_BACK`, which is no plain command.

    Raises:
        WrongWord: It cannot be decrypted, or holds another command.
    """
    word = SEALED[sealed.word]
    try:
        clear = cipher.decrypt(sealed.data)
    except CipherError:
        clear = b""
    if not clear.startswith(word + b" "):
        # The clear text is a secret, and stays out of the log.
        raise WrongWord("envelope", sealed.word, f"must hold {word.decode()}")
    if word == b"MD5":
        # Text, a NUL, a byte and a digest, which may hold NULs.
        return clear
    text = clear.partition(b"\0")[0]
    if word == b"GET":
        return b"GET %d %b" % (USUAL_BLOCK, text[len(b"GET  ") + len(_DUMMY) :])
    return text


def encode_sealed(
    word: bytes, clear: bytes, cipher: SessionCipher, block: int | None = None
) -> bytes:
    """
    The payload of an envelope.

    Args:
        word: One of `SEALED`.
        clear: What is inside, the NUL at its end included.
        cipher: The session's.
        block: The block size of `SGET`, None for the others.

    Raises:
        LocalProtocolError: There is no such envelope, or it is too long.
    """
    if word not in SEALED or (block is not None) != (word == b"SGET"):
        raise LocalProtocolError("envelope", word, "an encrypted command")
    data = cipher.encrypt(clear)
    if HEAD + len(data) > MAX_PAYLOAD:
        raise LocalProtocolError("request", clear, f"at most {MAX_PAYLOAD} bytes")
    # Source: CFEngine 3.21, the sizes of SGET are four wide.
    text = (
        b"%b %d" % (word, len(data))
        if block is None
        else b"%b %4d %4d" % (word, len(data), block)
    )
    if len(text) >= HEAD:
        raise LocalProtocolError("block size", block, "four digits")
    return text.ljust(HEAD, b"\0") + data


def seal_stat(client_time: int, path: bytes, cipher: SessionCipher) -> bytes:
    """
    As `nodecomm.wire.commands.encode_stat`, in an envelope.
    """
    return _sealed_text(b"SSYNCH", encode_stat(client_time, path), cipher)


def seal_opendir(path: bytes, cipher: SessionCipher) -> bytes:
    """
    As `nodecomm.wire.commands.encode_opendir`, in an envelope.
    """
    return _sealed_text(b"SOPENDIR", encode_opendir(path), cipher)


def seal_digest(path: bytes, digest: bytes, cipher: SessionCipher) -> bytes:
    """
    As `nodecomm.wire.commands.encode_digest`, in an envelope.
    """
    # Source: CFEngine 3.21, no NUL behind the digest.
    return encode_sealed(b"SMD5", encode_digest(path, digest), cipher)


def seal_get(path: bytes, cipher: SessionCipher, block: int = USUAL_BLOCK) -> bytes:
    """
    As `nodecomm.wire.commands.encode_get`, in an envelope.
    """
    clear = b"GET %b %b\0" % (_DUMMY, check_path(path))
    return encode_sealed(b"SGET", clear, cipher, block)


def _sealed_text(word: bytes, text: bytes, cipher: SessionCipher) -> bytes:
    # The real server decrypts into a buffer that it does not clear, so the NUL must
    # be sent.
    return encode_sealed(word, text + b"\0", cipher)
