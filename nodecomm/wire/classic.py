# SPDX-License-Identifier: MIT
"""
The messages of the classic dialog (protocol version 1), from and to payloads.

A client says who it claims to be (`CAUTH`), sends a challenge (`SAUTH`) and its public
key as two numbers; `nodecomm.wire.classic_dialog` knows the order and the answers.

Numbers travel as OpenSSL's *mpi*: four bytes of length, then the number with its most
significant byte first and a zero byte before it when its top bit is set.
"""

from __future__ import annotations

from attrs import frozen

from nodecomm.wire.errors import LocalProtocolError, RemoteProtocolError

#: Bits of a challenge, the top one set. Source: CFEngine 3.21.
NONCE_BITS = 256

#: Bytes of a challenge in clear: it is sent as an mpi, and its top bit is set. The real
#: client hashes as many bytes of the counter-challenge as its own challenge has, so
#: no other size works. Source: CFEngine 3.21, observed.
NONCE_SIZE = 37

#: Bytes of a session key. Source: CFEngine 3.21, community edition.
KEY_SIZE = 16

#: Bytes before the challenge: text, a NUL, filling.
#: Source: CFEngine 3.21, CF_RSA_PROTO_OFFSET.
HEAD = 24

#: Most bytes of a challenge, as sent and in clear: what a key of 4096 bits makes.
#: Source: CFEngine 3.21.
MAX_CHALLENGE = 512

#: Most bits of a number: those of the largest key that is accepted.
MAX_NUMBER_BITS = 8192

#: Most bytes of each word of a claim. Source: CFEngine 3.21, buffers of 256.
MAX_WORD = 255

#: The edition that the community's programs name.
COMMUNITY = b"c"

#: The server knows the client's key.
KEY_ACCEPTED = b"OK: key accepted"

#: The server saw the client's key for the first time, and kept it.
KEY_ON_TRUST = b"OK: unknown key was accepted on trust"

#: The server does not know the client's key, and must not trust it.
KEY_REFUSED = b"BAD: key could not be accepted on trust"

#: The challenge is encrypted with the server's public key.
ENCRYPTED = b"y"

#: The challenge is in clear, and the client asks for the server's public key.
CLEAR = b"n"

_LENGTH_SIZE = 4
_CLAIM_WORDS = 4
_CHALLENGE_WORDS = (4, 5)


@frozen
class Claim:
    """
    `CAUTH <address> <host name> <user> <number>`: who the client says that it is.

    Nothing proves the first two. The user is a part of the name under which the
    client's key is looked up.
    """

    address: bytes
    hostname: bytes
    user: bytes


@frozen
class Challenge:
    """
    `SAUTH <form> <size> <clear size> <edition>` and *data*.

    Attributes:
        form: `ENCRYPTED` or `CLEAR`.
        data: The challenge as sent.
        clear_size: Its bytes once decrypted.
        edition: `COMMUNITY`; anything else names an Enterprise client.
    """

    form: bytes
    data: bytes
    clear_size: int
    edition: bytes = COMMUNITY


def encode_mpi(number: int) -> bytes:
    """
    A positive number as an mpi.

    Raises:
        LocalProtocolError: It is not positive, or has more than 8192 bits.
    """
    bits = number.bit_length()
    if number < 1 or bits > MAX_NUMBER_BITS:
        raise LocalProtocolError(
            "number", f"of {bits} bits", f"positive, at most {MAX_NUMBER_BITS} bits"
        )
    # One bit more than the number has: that of the sign.
    size = bits // 8 + 1
    return size.to_bytes(_LENGTH_SIZE, "big") + number.to_bytes(size, "big")


def parse_mpi(data: bytes, what: str) -> int:
    """
    Read an mpi that is the whole of *data*. Zero bytes before the number are read as
    OpenSSL reads them.

    Args:
        data: The payload.
        what: What the number is, for the error.

    Raises:
        RemoteProtocolError: The length is not that of *data*, or the number is not
            positive or has more than 8192 bits.
    """
    body = data[_LENGTH_SIZE:]
    if len(data) < _LENGTH_SIZE or int.from_bytes(data[:_LENGTH_SIZE], "big") != len(
        body
    ):
        raise RemoteProtocolError(what, data, "a length and as many bytes")
    number = int.from_bytes(body, "big", signed=True)
    if number < 1 or number.bit_length() > MAX_NUMBER_BITS:
        raise RemoteProtocolError(
            what, data, f"positive, at most {MAX_NUMBER_BITS} bits"
        )
    return number


def parse_cauth(payload: bytes) -> Claim:
    """
    Read `CAUTH <address> <host name> <user> <number>`. The number has no meaning and
    may be missing.

    Raises:
        RemoteProtocolError: It is no such message, or a word has over 255 bytes.
    """
    words = payload.partition(b"\0")[0].split()
    if not payload.startswith(b"CAUTH ") or len(words) < _CLAIM_WORDS:
        raise RemoteProtocolError(
            "claim", payload, "CAUTH <address> <host name> <user> <number>"
        )
    claim = Claim(words[1], words[2], words[3])
    for word in words[1:4]:
        if len(word) > MAX_WORD:
            raise RemoteProtocolError("claim", word, f"at most {MAX_WORD} bytes")
    return claim


def encode_cauth(claim: Claim) -> bytes:
    """
    The payload that makes a claim.

    Raises:
        LocalProtocolError: A part is no single word of at most 255 bytes.
    """
    words = (claim.address, claim.hostname, claim.user)
    for word in words:
        if len(word) > MAX_WORD or word.split() != [word] or b"\0" in word:
            raise LocalProtocolError(
                "claim", word, f"one word of at most {MAX_WORD} bytes"
            )
    # Source: CFEngine 3.21 always sends the number 0.
    return b"CAUTH %b %b %b 0" % words


def check_user(user: bytes) -> None:
    """
    Whether anybody can be called *user*.

    Raises:
        LocalProtocolError: The name is no single word of at most 255 bytes, or has a
            slash, which no server takes.
    """
    long = len(user) > MAX_WORD
    if long or user.split() != [user] or any(char in user for char in b"/\\\0"):
        raise LocalProtocolError(
            "user name", user, f"one word of at most {MAX_WORD} bytes without / and \\"
        )


def parse_sauth(payload: bytes) -> Challenge:
    """
    Read a challenge.

    The real server accepts any size of an encrypted challenge. Here it must be that
    of a nonce: a server that tells the digest of whatever it decrypts can be asked
    about session keys that were recorded.

    Raises:
        RemoteProtocolError: A word is missing or malformed, or a size is not what
            the form allows or not that of the data.
    """
    text, nul, _ = payload[:HEAD].partition(b"\0")
    words = text.split()
    if (
        not nul
        or not text.startswith(b"SAUTH ")
        or len(words) not in _CHALLENGE_WORDS
        or not all(word.isdigit() for word in words[2:4])
    ):
        raise RemoteProtocolError(
            "challenge", payload, "SAUTH <form> <size> <clear size> <edition>"
        )
    challenge = Challenge(
        words[1], payload[HEAD:], int(words[3]), words[4] if words[4:] else COMMUNITY
    )
    size = int(words[2])
    if size != len(challenge.data):
        raise RemoteProtocolError("challenge size", size, "as many bytes as follow")
    wrong = _wrong_challenge(challenge)
    if wrong is not None:
        raise RemoteProtocolError(*wrong)
    return challenge


def encode_sauth(challenge: Challenge) -> bytes:
    """
    The payload of a challenge.

    Raises:
        LocalProtocolError: A size is not what the form allows, or the edition is no
            short word.
    """
    wrong = _wrong_challenge(challenge)
    if wrong is not None:
        raise LocalProtocolError(*wrong)
    edition = challenge.edition
    text = b"SAUTH %b %d %d %b" % (
        challenge.form,
        len(challenge.data),
        challenge.clear_size,
        edition,
    )
    if len(text) >= HEAD or edition.split() != [edition] or b"\0" in edition:
        raise LocalProtocolError("edition", edition, "one short word")
    return text.ljust(HEAD, b"\0") + challenge.data


def _wrong_challenge(challenge: Challenge) -> tuple[str, bytes | int, str] | None:
    """
    What no challenge may be: field, value and limit of the error.
    """
    size = len(challenge.data)
    if not 0 < size <= MAX_CHALLENGE:
        return "challenge size", size, f"1 to {MAX_CHALLENGE} bytes"
    if challenge.form == ENCRYPTED:
        if challenge.clear_size != NONCE_SIZE:
            return "clear challenge size", challenge.clear_size, f"{NONCE_SIZE} bytes"
    elif challenge.form == CLEAR:
        if challenge.clear_size != size:
            return (
                "clear challenge size",
                challenge.clear_size,
                f"{size} bytes",
            )
    else:
        return "form of the challenge", challenge.form, "y or n"
    return None
