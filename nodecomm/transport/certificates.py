# SPDX-License-Identifier: MIT
"""
The key inside a certificate, and nothing else of it.

Certificates of real peers break the rules for them (serial number 0), which strict
parsers refuse, and OpenSSL, which parsed the certificate in the handshake, gives the
key away only by encoding it anew: 110 us of a connection's 3.4 ms. So the bytes of
the key are cut out here, and the parser of `cryptography` reads those: 8 us.

The key that OpenSSL has verified must be the key that is compared, so there is only
one way to read what is accepted: every length on the way is definite and minimal,
and every element has the one tag that its place allows. OpenSSL, which has accepted
the same bytes by the same grammar, can have found no other key.
"""

from __future__ import annotations

__all__ = ["der_element", "subject_public_key"]

_INTEGER = 0x02
_SEQUENCE = 0x30
_VERSION = 0xA0

#: What stands before the key in a certificate (RFC 5280, 4.1): serial number,
#: algorithm of the signature, issuer, validity, subject.
_BEFORE_THE_KEY = (_INTEGER, _SEQUENCE, _SEQUENCE, _SEQUENCE, _SEQUENCE)


def subject_public_key(certificate: bytes) -> bytes:
    """
    The SubjectPublicKeyInfo of an X.509 certificate; both in DER.

    Raises:
        ValueError: This is no certificate, or it is not encoded strictly.
    """
    start, end = der_element(certificate, _SEQUENCE, 0, len(certificate))
    if end != len(certificate):
        raise ValueError("bytes after the certificate")
    at, end = der_element(certificate, _SEQUENCE, start, end)
    if certificate[at : at + 1] == bytes((_VERSION,)):
        _, at = der_element(certificate, _VERSION, at, end)
    for tag in _BEFORE_THE_KEY:
        _, at = der_element(certificate, tag, at, end)
    _, end = der_element(certificate, _SEQUENCE, at, end)
    return certificate[at:end]


def der_element(data: bytes, tag: int, at: int, limit: int) -> tuple[int, int]:
    """
    Where the content of the element at *at* begins and ends, which must have this
    *tag* (one byte of DER) and end at *limit* or before.

    Raises:
        ValueError: There is no such element, or its length is not encoded strictly.
    """
    if limit - at < 2:
        raise ValueError("a certificate that ends too early")
    if data[at] != tag:
        raise ValueError(f"tag 0x{data[at]:02x} in the place of 0x{tag:02x}")
    size = data[at + 1]
    start = at + 2
    if size >= 0x80:
        digits = size & 0x7F
        start += digits
        if not 1 <= digits <= 4 or start > limit:
            raise ValueError("a length that is indefinite or too long")
        size = int.from_bytes(data[at + 2 : start], "big")
        if size < 0x80 or size >> (8 * (digits - 1)) == 0:
            raise ValueError("a length that is not minimal")
    end = start + size
    if end > limit:
        raise ValueError("an element that is longer than what holds it")
    return start, end
