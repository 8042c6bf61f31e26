# SPDX-License-Identifier: MIT
"""
Signatures of documents.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodecomm.identity.keys import MAX_MODULUS_BITS, PublicKey
from nodecomm.inventory.document import read_document
from nodecomm.inventory.keys import read_agent_key, read_public_key
from nodecomm.inventory.signature import (
    MAX_SIGNATURE_SIZE,
    Signature,
    SignatureRefused,
    read_signature,
    sign,
    verify,
    write_signature,
)
from tests.identity.sample import key, pair
from tests.inventory.documents import REAL, real

DOCUMENT = b"<REQUEST>\r\n</REQUEST>\n"

MADE = sign(DOCUMENT, pair(), hostname="node3", key_date="2023-11-16 10:46:17 +0000")


def holds(data: bytes, document: bytes = DOCUMENT, by: PublicKey | None = None) -> bool:
    """
    Whether a signature's file is that of a document.
    """
    try:
        verify(document, read_signature(data), by or key())
    except SignatureRefused as error:
        assert error.refusal.code == "bad-signature"
        return False
    return True


def bad_line(data: bytes) -> str:
    """
    The line that a file is refused for.
    """
    with pytest.raises(SignatureRefused) as caught:
        read_signature(data)
    assert caught.value.refusal.code == "bad-signature-file"
    return caught.value.refusal.element


@pytest.mark.parametrize("name", REAL)
def test_real_signatures(name: str) -> None:
    """
    Real pairs verify with the key in the certificate and with the one beside it, not
    with any byte changed; and what is written is what a real node writes.
    """
    data, file = real(name)
    inventory = read_document(data)
    own = read_agent_key(inventory.agent, inventory.node_id).key

    assert own.md5 == REAL[name][1]
    assert holds(file, data, own)
    assert holds(file, data, read_public_key(inventory.agent.key or ""))
    assert not holds(file, data + b"\n", own)
    assert not holds(file, data.replace(b"\n", b"\r\n"), own)
    assert not holds(file, data.replace(b"root", b"toor", 1), own)
    assert write_signature(read_signature(file)) == file


def test_crossed_pairs() -> None:
    """
    A signature of one node's document is none of another's.
    """
    (one, sign_one), (two, sign_two) = (real(name) for name in REAL)
    keys = []
    for data in (one, two):
        inventory = read_document(data)
        keys.append(read_agent_key(inventory.agent, inventory.node_id).key)

    assert not holds(sign_two, one, keys[0])
    assert not holds(sign_one, two, keys[1])
    assert not holds(sign_one, one, keys[1])


def test_what_is_made() -> None:
    """
    A signature has the lines of a real one, in their order, and holds.
    """
    lines = dict(line.split("=", 1) for line in MADE.decode().splitlines())

    assert list(lines) == [
        *("header", "algorithm", "digest", "hostname", "keydate", "keyid"),
    ]
    assert lines["header"] == "rudder-signature-v1"
    assert lines["keyid"] == f"{key().modulus:X}"[-8:]
    assert holds(MADE)
    assert not holds(MADE, DOCUMENT + b" ")
    assert not holds(MADE, by=key(1))


def test_lines_for_people_stay_lines() -> None:
    """
    What is told for people cannot make another line.
    """
    made = sign(DOCUMENT, pair(), hostname="a\nheader=x\rdigest=00\u2028" + "y" * 5000)

    assert read_signature(made).hostname.startswith("a?header=x?digest=00?yyy")
    assert made.count(b"\n") == 6
    assert len(made) < MAX_SIGNATURE_SIZE


@pytest.mark.parametrize(
    "data",
    [
        MADE.replace(b"\n", b"\r\n"),
        MADE.replace(b"\n", b"\r"),
        MADE[:-1] + b"\r\n",
        MADE[:-1],
        MADE.replace(b"\n", b"\n\r\n \n"),
        MADE.replace(b"=", b" = "),
        MADE.replace(b"\n", b"\t\n"),
        b"\xef\xbb\xbf" + MADE,
        b"# comment=x\n! header=x\nno value\n" + MADE,
        MADE.replace(b"node3", b"n\xf8de\xff"),
        MADE.replace(b"node3", b"n=o=d"),
        MADE.replace(b"rudder-signature", b"Rudder-Signature"),
        MADE.replace(b"sha512", b"SHA512"),
        MADE.replace(
            b"keyid=", b"short_pubkey=AAA=\nhash_value=00\nhostname=x\nkeyid="
        ),
        b"\n".join(reversed(MADE.splitlines())),
        b"\n".join(MADE.splitlines()[:3]),
        MADE + b"#" * (MAX_SIGNATURE_SIZE - len(MADE)),
    ],
)
def test_odd_files(data: bytes) -> None:
    """
    Line ends, blanks, the order of lines and what is for people do not matter.
    """
    assert holds(data)


def test_digits_in_either_case() -> None:
    """
    The digits of the signature may be in either case.
    """
    digest = read_signature(MADE).digest.hex().encode()

    assert holds(MADE.replace(digest, digest.upper()))


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"", "header"),
        (b"\x1f\x8b\x08", "header"),
        (MADE.replace(b"header=", b"Header="), "header"),
        (MADE.replace(b"-v1", b"-v2"), "header"),
        (MADE.replace(b"algorithm=sha512\n", b""), "algorithm"),
        *(
            (MADE.replace(b"sha512", name), "algorithm")
            for name in (b"md5", b"sha1", b"sha256", b"sha384", b"whirlpool", b"none")
        ),
        (b"header=rudder-signature-v1\nalgorithm=sha512\ndigest=\n", "digest"),
        (b"header=rudder-signature-v1\nalgorithm=sha512\n", "digest"),
        (MADE.replace(b"digest=", b"digest=0"), "digest"),
        (MADE.replace(b"digest=", b"digest=xx"), "digest"),
        (MADE + b"digest=00\n", "digest"),
        (MADE + b"algorithm=sha512\n", "algorithm"),
        (b"header=\n" + MADE, "header"),
        (MADE + b"#" * (MAX_SIGNATURE_SIZE + 1 - len(MADE)), ""),
    ],
)
def test_refused_files(data: bytes, line: str) -> None:
    """
    What is no signature in this format is refused, with the line that is wrong.
    """
    assert bad_line(data) == line


def test_reasons() -> None:
    """
    A signature of another length, and one that names another key, say so.
    """
    short = write_signature(Signature(b"\0" * 100, key_id="0BADBEEF"))
    with pytest.raises(SignatureRefused) as wrong_length:
        verify(DOCUMENT, read_signature(short), key())
    with pytest.raises(SignatureRefused) as other_key:
        verify(DOCUMENT, read_signature(MADE), key(1))

    assert "has 100 bytes, the key 128" in str(wrong_length.value)
    assert "0BADBEEF" in str(wrong_length.value)
    assert key(1).md5 in str(other_key.value)
    assert read_signature(MADE).key_id in str(other_key.value)


@given(data=st.binary(max_size=200))
@settings(max_examples=60)
def test_any_bytes(data: bytes) -> None:
    """
    Whatever comes is a signature or a refusal.
    """
    for given_bytes in (data, MADE[:200] + data):
        try:
            found = read_signature(given_bytes)
        except SignatureRefused:
            continue
        assert found.digest


@given(
    digest=st.binary(min_size=1, max_size=64),
    words=st.lists(st.text("ab =\u00e9", max_size=8), min_size=3, max_size=3),
)
@settings(max_examples=50)
def test_written_is_read(digest: bytes, words: list[str]) -> None:
    """
    What is written reads back the same, as far as it is plain text.
    """
    plain = [word.replace("\u00e9", "?").strip() for word in words]

    assert read_signature(write_signature(Signature(digest, *words))) == Signature(
        digest, *plain
    )


@given(document=st.binary(max_size=100), at=st.integers(0, 10_000))
@settings(max_examples=30)
def test_any_change(document: bytes, at: int) -> None:
    """
    A signature holds for its document, and for none that differs.
    """
    made = sign(document, pair())
    changed = bytearray(document or b"x")
    changed[at % len(changed)] ^= 1 + at % 255

    assert holds(made, document)
    assert not holds(made, bytes(changed))


def test_the_longest_signature() -> None:
    """
    What the largest key makes is written whole; what is for people is cut.
    """
    size = MAX_MODULUS_BITS // 8
    long = Signature(b"\xa5" * size, "h" * 5000, "d" * 5000, "k" * 5000)
    found = read_signature(write_signature(long))

    assert found == Signature(long.digest, "h" * 1024, "d" * 1024, "k" * 1024)
