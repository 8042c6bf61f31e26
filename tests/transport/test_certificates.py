# SPDX-License-Identifier: MIT
"""
The key cut out of a certificate is the one that OpenSSL has verified.
"""

from __future__ import annotations

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st
from OpenSSL import crypto

from nodecomm.identity.keys import KeyPair
from nodecomm.transport.certificates import subject_public_key

PAIR = KeyPair.generate(2048)
CERTIFICATE = PAIR.certificate().public_bytes(Encoding.DER)
KEY = PAIR.private.public_key().public_bytes(
    Encoding.DER, PublicFormat.SubjectPublicKeyInfo
)

#: The version and the serial number of a certificate of ours.
HEAD = bytes.fromhex("a003020102 020101")

#: Where the content of the outer and of the inner sequence begins.
OUTER, INNER = 4, 8


def sequence(content: bytes) -> bytes:
    """*content*, of 256 to 65535 bytes, as a sequence."""
    return b"\x30\x82" + len(content).to_bytes(2, "big") + content


def with_head(head: bytes) -> bytes:
    """Our certificate with *head* in the place of version and serial number."""
    inner_size = int.from_bytes(CERTIFICATE[INNER - 2 : INNER], "big")
    inner = CERTIFICATE[INNER : INNER + inner_size]
    assert inner.startswith(HEAD)
    rest = CERTIFICATE[INNER + inner_size :]
    return sequence(sequence(head + inner[len(HEAD) :]) + rest)


@pytest.mark.parametrize("bits", [1024, 2048, 4096])
def test_key_of_any_size(bits: int) -> None:
    """The key comes out as it was put in, with lengths of one byte and of more."""
    pair = KeyPair.generate(bits)
    certificate = pair.certificate().public_bytes(Encoding.DER)

    key = load_der_public_key(subject_public_key(certificate))

    assert key == pair.private.public_key()


@pytest.mark.parametrize(
    "head",
    [
        HEAD,
        bytes.fromhex("a003020102 020100"),
        bytes.fromhex("a003020102 0201ff"),
        bytes.fromhex("a003020102 0215") + b"\x7f" * 21,
        bytes.fromhex("020101"),
    ],
    ids=["ours", "serial 0", "serial below 0", "long serial", "version 1"],
)
def test_rules_that_real_certificates_break(head: bytes) -> None:
    """What stands in the other fields is nobody's business."""
    assert subject_public_key(with_head(head)) == KEY


@pytest.mark.parametrize(
    ("certificate", "problem"),
    [
        (b"", "too early"),
        (b"\x30", "too early"),
        (CERTIFICATE + b"\0", "after the certificate"),
        (b"\x31" + CERTIFICATE[1:], "tag 0x31"),
        (b"\x30\x80" + CERTIFICATE[OUTER:] + b"\0\0", "indefinite"),
        (b"\x30\x85\0" + CERTIFICATE[2:], "too long"),
        (b"\x30\x83\0" + CERTIFICATE[2:], "not minimal"),
        (b"\x30\x81\x03\x30\x01\0", "not minimal"),
        (b"\x30\x82\xff\xff" + CERTIFICATE[OUTER:], "longer than what holds it"),
        (with_head(bytes.fromhex("a003020102")), "tag 0x30"),
        (with_head(bytes.fromhex("a003020102 02810101")), "not minimal"),
        (with_head(HEAD + HEAD[5:]), "tag 0x02"),
    ],
    # The key differs from process to process; names of tests must not.
    ids=lambda value: value if isinstance(value, str) else "certificate",
)
def test_loose_encodings(certificate: bytes, problem: str) -> None:
    """What could be read in two ways is not read at all."""
    with pytest.raises(ValueError, match=problem):
        subject_public_key(certificate)


@given(st.integers(0, len(CERTIFICATE) - 1))
@settings(max_examples=100)
def test_half_a_certificate(size: int) -> None:
    """No beginning of a certificate is one."""
    with pytest.raises(ValueError, match=r"longer|early|long"):
        subject_public_key(CERTIFICATE[:size])


@given(st.binary(max_size=200))
@settings(max_examples=100)
def test_garbage(data: bytes) -> None:
    """Bytes that somebody sends can do no more than be refused."""
    with pytest.raises(ValueError, match=r"."):
        subject_public_key(data)


@given(st.integers(0, len(CERTIFICATE) - 1), st.integers(1, 255))
@example(CERTIFICATE.index(KEY) + 30, 1)
@settings(max_examples=100)
def test_same_key_as_openssl(at: int, change: int) -> None:
    """Of a damaged certificate OpenSSL reads the same key, or one of us reads none."""
    damaged = bytearray(CERTIFICATE)
    damaged[at] ^= change
    try:
        certificate = crypto.load_certificate(crypto.FILETYPE_ASN1, bytes(damaged))
        verified = certificate.get_pubkey().to_cryptography_key()
        whole = crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)
        found = load_der_public_key(subject_public_key(whole))
    except (crypto.Error, ValueError, UnsupportedAlgorithm):
        return

    assert found == verified
