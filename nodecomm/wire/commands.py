# SPDX-License-Identifier: MIT
"""
Requests as values, from and to the payload of a transaction.

A parser takes the whole payload, the command word included, and returns a value or
raises `RemoteProtocolError`, which is answered with the protocol error and a close.
An encoder returns the payload, to be framed by `framing.encode_transaction`.

The real server reads a payload as text that a NUL ends. A space must follow the command
word; otherwise any white space may stand between words. Paths end at the first newline
or NUL and keep their trailing white space.
"""

from __future__ import annotations

from attrs import define, frozen

from nodecomm.wire.errors import LocalProtocolError, RemoteProtocolError
from nodecomm.wire.framing import MAX_PAYLOAD

#: Largest block size in a GET, bytes. It says nothing about the data, which comes
#: without any blocks; it is the size of the block that reports a failure.
#: Source: CFEngine 3.21, CF_BUFSIZE.
MAX_BLOCK = 4096

#: What the real server makes of a block size of exactly `MAX_BLOCK`, and what the
#: real agent asks for. Source: CFEngine 3.21, observed.
USUAL_BLOCK = 2048

#: Most bytes in the handle of a VAR, the pattern of a CONTEXT, a whole QUERY.
#: Source: CFEngine 3.21, buffers of 256.
MAX_ARGUMENT = 255

#: Most bytes in the name of a QUERY. Source: CFEngine 3.21, buffer of 128.
MAX_QUERY_NAME = 127

#: Bytes from the end of the path of an MD5 request to the digest: the NUL and one
#: byte of any value. Source: CFEngine 3.21, CF_SMALL_OFFSET.
DIGEST_GAP = 2

#: Bytes of an MD5 digest, which is what the community programs send.
MD5_SIZE = 16

#: Bytes of a SHA-256 digest, which is what Enterprise programs send.
SHA256_SIZE = 32

_NUL = 0
_NEWLINE = 10
_SIGNS = b"+-"

#: Characters of a decimal number in a request, its sign included. A longer one fits
#: in no integer of the real programs.
_MAX_DIGITS = 18


# The four that agents send all the time are not frozen: making a frozen one takes
# twice as long.
@define
class StatRequest:
    """
    `SYNCH <time> STAT <path>`: what is at *path*.

    Attributes:
        client_time: The client's clock, seconds since the epoch.
        path: The name asked for.
    """

    client_time: int
    path: bytes


@define
class OpendirRequest:
    """
    `OPENDIR <path>`: the names in a folder.
    """

    path: bytes


@define
class DigestRequest:
    """
    `MD5 <path> NUL <byte> <digest>`: does the file differ from the client's.

    Attributes:
        path: The name asked for.
        digest: The digest of the client's own file, 16 (MD5) or 32 bytes (SHA-256);
            None when the request carries none, which is answered as a difference.
    """

    path: bytes
    digest: bytes | None


@define
class GetRequest:
    """
    `GET <block> <path>`: the content of a file.

    Attributes:
        block: Size of the block that reports a failure, at most 4095 bytes.
        path: The name asked for.
    """

    block: int
    path: bytes


@frozen
class VarRequest:
    """
    `VAR <handle>`: the text of a literal.
    """

    handle: bytes


@frozen
class ContextRequest:
    """
    `CONTEXT <pattern>`: the persistent classes whose names match.
    """

    pattern: bytes


@frozen
class QueryRequest:
    """
    `QUERY <name> <text>`: a report query.

    Attributes:
        name: The first word, which access rules name.
        text: What follows it; may be empty.
    """

    name: bytes
    text: bytes


def split_word(payload: bytes) -> tuple[bytes, bytes]:
    """
    Divide a request into its command word and the rest.

    The word begins at offset 0 and ends at a space, a NUL or the end; it is empty when
    the payload begins with one of these. Other white space is a part of it, so that
    `VERSION` and a newline is an unknown word, as for the real server. The rest has
    lost the white space before it.
    """
    word, _, rest = payload.partition(b" ")
    if _NUL in word:
        end = word.index(_NUL)
        return payload[:end], payload[end:]
    return word, rest.lstrip()


def parse_stat(payload: bytes) -> StatRequest:
    """
    Read `SYNCH <time> STAT <path>`.

    Raises:
        RemoteProtocolError: A part is missing or the time is no number.
    """
    # At most three splits: the last part keeps the white space that it ends with.
    try:
        _, time, verb, path = payload.split(None, 3)
    except ValueError:
        verb = b""
    if verb != b"STAT" or not payload.startswith(b"SYNCH "):
        raise RemoteProtocolError("request", payload, "SYNCH <time> STAT <path>")
    if _NEWLINE in path or _NUL in path:
        path = _path(path, payload)
    return StatRequest(
        int(time)
        if time.isdigit() and len(time) <= _MAX_DIGITS
        else _number("client time", time),
        path,
    )


def parse_opendir(payload: bytes) -> OpendirRequest:
    """
    Read `OPENDIR <path>`.

    Raises:
        RemoteProtocolError: The word is another or the path is missing.
    """
    return OpendirRequest(_path(_after(b"OPENDIR ", payload), payload))


def parse_digest(payload: bytes) -> DigestRequest:
    """
    Read `MD5 <path> NUL <byte> <digest>`.

    A digest shorter than 16 bytes is none; of more than 16 bytes but less than 32
    the first 16 count, of more than 32 the first 32.

    Raises:
        RemoteProtocolError: The word is another or the path is missing.
    """
    rest = _after(b"MD5 ", payload)
    path, _, rest = rest.partition(b"\0")
    if not path or _NEWLINE in path:
        path = _path(path, payload)
    # The byte after the NUL has no meaning.
    digest = rest[1 : 1 + SHA256_SIZE]
    size = len(digest)
    if size != SHA256_SIZE:
        digest = digest[:MD5_SIZE]
    return DigestRequest(path, digest if size >= MD5_SIZE else None)


def parse_get(payload: bytes, smallest: int = 1) -> GetRequest:
    """
    Read `GET <block> <path>`. A block of 4096 bytes becomes 2048.

    Args:
        payload: The transaction.
        smallest: The smallest block size; 0 on the classic protocol.

    Raises:
        RemoteProtocolError: A part is missing or the block size is not *smallest* to
            4096.
    """
    words = payload.split(None, 2)
    if len(words) != 3 or not payload.startswith(b"GET "):
        raise RemoteProtocolError("request", payload, "GET <block> <path>")
    block = _number("block size", words[1])
    if not smallest <= block <= MAX_BLOCK:
        raise RemoteProtocolError("block size", block, f"{smallest} to {MAX_BLOCK}")
    if block == MAX_BLOCK:
        block = USUAL_BLOCK
    return GetRequest(block, _path(words[2], payload))


def parse_var(payload: bytes) -> VarRequest:
    """
    Read `VAR <handle>`.

    Raises:
        RemoteProtocolError: The handle is missing or longer than 255 bytes.
    """
    return VarRequest(_argument(b"VAR", payload))


def parse_context(payload: bytes) -> ContextRequest:
    """
    Read `CONTEXT <pattern>`.

    Raises:
        RemoteProtocolError: The pattern is missing or longer than 255 bytes.
    """
    return ContextRequest(_argument(b"CONTEXT", payload))


def parse_query(payload: bytes) -> QueryRequest:
    """
    Read `QUERY <name> <text>`.

    Raises:
        RemoteProtocolError: The name is missing or longer than 127 bytes, or the
            whole query is longer than 255.
    """
    words = _argument(b"QUERY", payload).split(None, 1)
    name = words[0]
    if len(name) > MAX_QUERY_NAME:
        raise RemoteProtocolError("query name", name, f"at most {MAX_QUERY_NAME} bytes")
    return QueryRequest(name, words[1] if len(words) > 1 else b"")


def encode_stat(client_time: int, path: bytes) -> bytes:
    """
    The payload of a STAT request. *client_time* is the own clock, seconds since the
    epoch: a server may refuse clocks that are an hour apart.

    Raises:
        LocalProtocolError: The path has no form on the wire (see `check_path`), or
            the time has more than 18 characters.
    """
    time = b"%d" % client_time
    if len(time) > _MAX_DIGITS:
        raise LocalProtocolError("client time", time, f"{_MAX_DIGITS} characters")
    return _whole(b"SYNCH %b STAT %b" % (time, check_path(path)))


def encode_opendir(path: bytes) -> bytes:
    """
    The payload of an OPENDIR request.

    Raises:
        LocalProtocolError: The path has no form on the wire (see `check_path`).
    """
    return _whole(b"OPENDIR " + check_path(path))


def encode_digest(path: bytes, digest: bytes) -> bytes:
    """
    The payload of an MD5 request with the digest of the own file.

    Raises:
        LocalProtocolError: The path has no form on the wire, or the digest has
            neither 16 nor 32 bytes.
    """
    if len(digest) not in (MD5_SIZE, SHA256_SIZE):
        raise LocalProtocolError("digest size", len(digest), "16 or 32 bytes")
    return _whole(b"MD5 %b\0\0%b" % (check_path(path), digest))


def encode_get(path: bytes, block: int = USUAL_BLOCK) -> bytes:
    """
    The payload of a GET request.

    Raises:
        LocalProtocolError: The path has no form on the wire, or the block size is
            not 1 to 4095.
    """
    if not 0 < block < MAX_BLOCK:
        raise LocalProtocolError("block size", block, f"1 to {MAX_BLOCK - 1}")
    return _whole(b"GET %d %b" % (block, check_path(path)))


def encode_var(handle: bytes) -> bytes:
    """
    The payload of a VAR request.

    Raises:
        LocalProtocolError: The handle is longer than 255 bytes or has no form on
            the wire.
    """
    return b"VAR " + _check_argument("handle", handle)


def encode_context(pattern: bytes) -> bytes:
    """
    The payload of a CONTEXT request.

    Raises:
        LocalProtocolError: The pattern is longer than 255 bytes or has no form on
            the wire.
    """
    return b"CONTEXT " + _check_argument("pattern", pattern)


def encode_query(name: bytes, text: bytes = b"") -> bytes:
    """
    The payload of a QUERY request.

    Raises:
        LocalProtocolError: The name is no single word of at most 127 bytes, or the
            whole is longer than 255 or has no form on the wire.
    """
    if len(name) > MAX_QUERY_NAME or name.split() != [name]:
        raise LocalProtocolError(
            "query name", name, f"one word of at most {MAX_QUERY_NAME} bytes"
        )
    query = b"%b %b" % (name, text) if text else name
    return b"QUERY " + _check_argument("query", query)


def check_path(path: bytes) -> bytes:
    """
    Return *path* when a request can carry it.

    Raises:
        LocalProtocolError: It is empty, begins with white space, or holds a newline
            or a NUL. Such an object can be listed but not asked for.
    """
    if not path or path[:1].isspace() or _NEWLINE in path or _NUL in path:
        raise LocalProtocolError(
            "path", path, "not empty, no white space first, no newline, no NUL"
        )
    return path


def _check_argument(what: str, text: bytes) -> bytes:
    if len(text) > MAX_ARGUMENT:
        raise LocalProtocolError(what, text, f"at most {MAX_ARGUMENT} bytes")
    return check_path(text)


def _whole(payload: bytes) -> bytes:
    if len(payload) > MAX_PAYLOAD:
        raise LocalProtocolError("request", payload, f"at most {MAX_PAYLOAD} bytes")
    return payload


def _after(word: bytes, payload: bytes) -> bytes:
    """
    What follows *word*, a space included, and further white space.
    """
    if payload.startswith(word):
        return payload[len(word) :].lstrip()
    raise RemoteProtocolError("request", payload, f"{word.decode()}<argument>")


def _path(rest: bytes, payload: bytes) -> bytes:
    # Looking for a number in bytes is several times faster than for bytes.
    if _NEWLINE in rest or _NUL in rest:
        rest = rest.partition(b"\n")[0].partition(b"\0")[0]
    if not rest:
        raise RemoteProtocolError("request", payload, "must name an object")
    return rest


def _argument(word: bytes, payload: bytes) -> bytes:
    text = _path(_after(word + b" ", payload), payload)
    if len(text) > MAX_ARGUMENT:
        raise RemoteProtocolError(
            f"{word.decode()} argument", text, f"at most {MAX_ARGUMENT} bytes"
        )
    return text


def _number(what: str, text: bytes) -> int:
    # int() alone would also take underscores.
    if len(text) <= _MAX_DIGITS and (
        text.isdigit() or (text[0] in _SIGNS and text[1:].isdigit())
    ):
        return int(text)
    raise RemoteProtocolError(what, text, "a decimal number")
