# SPDX-License-Identifier: MIT
"""
The key that an inventory brings: out of a certificate, or on its own.

A certificate is the container of a key and of the node's id, and nothing more: who
issued it and until when it is valid says nothing here. Its own signature matters once,
when a node changes its key: it proves that whoever made it has the new key.

Source: Rudder 6.0 to 9.0, `AGENT_CERT` (self-signed, `UID=` the node's id) and
`CFENGINE_KEY` (`BEGIN RSA PUBLIC KEY`); texts without the lines around them, or with
blanks for line breaks, were sent by older releases.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re

from attrs import field, frozen
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from nodecomm.identity.keys import PublicKey, UnusableKey, check_sane
from nodecomm.inventory.model import Agent, Refusal
from nodecomm.transport.certificates import der_element, subject_public_key

__all__ = [
    "AgentKey",
    "Certificate",
    "KeyRefused",
    "key_pin",
    "pem_certificate",
    "read_agent_key",
    "read_certificate",
    "read_pem",
    "read_public_key",
    "same_node",
]

_CERTIFICATE_PATH = "RUDDER/AGENT/AGENT_CERT"
_KEY_PATH = "RUDDER/AGENT/CFENGINE_KEY"

#: How a block of PEM begins.
_BEGIN = re.compile(r"-----BEGIN ([A-Z0-9 ]{1,40})-----")

_SPACE = re.compile(r"\s+")

#: Characters in a line of base64, for certificates that came without lines.
_LINE = 64

_BIT_STRING = 0x03
_OID = 0x06
_SEQUENCE = 0x30
_SET = 0x31
_VERSION = 0xA0

#: What stands before the subject in a certificate (RFC 5280, 4.1): serial number,
#: algorithm of the signature, issuer, validity.
_BEFORE_THE_SUBJECT = (0x02, _SEQUENCE, _SEQUENCE, _SEQUENCE)

#: The attribute UID, 0.9.2342.19200300.100.1.1.
_UID = bytes.fromhex("0992268993f22c640101")

#: How the values of names are encoded, by tag: UTF8String, NumericString,
#: PrintableString, T61String, IA5String, UniversalString, BMPString.
_TEXTS = {
    0x0C: "utf-8",
    0x12: "ascii",
    0x13: "ascii",
    0x14: "latin-1",
    0x16: "ascii",
    0x1C: "utf-32-be",
    0x1E: "utf-16-be",
}

#: sha256, sha384 and sha512WithRSAEncryption, 1.2.840.113549.1.1.11 to 13.
_HASHES: dict[bytes, hashes.HashAlgorithm] = {
    bytes.fromhex("2a864886f70d01010b"): hashes.SHA256(),
    bytes.fromhex("2a864886f70d01010c"): hashes.SHA384(),
    bytes.fromhex("2a864886f70d01010d"): hashes.SHA512(),
}


class KeyRefused(ValueError):  # noqa: N818
    """
    The key that came cannot be used, whatever is known of the node.

    Attributes:
        refusal: Why; `bad-certificate`, `bad-key`, `insane-key`, `subject-mismatch`.
    """

    def __init__(self, code: str, text: str, element: str = "") -> None:
        super().__init__(text)
        self.refusal = Refusal(code, text, element)


def key_pin(key: PublicKey) -> str:
    """
    The digest of a key as `rudder agent info` and `curl --pinnedpubkey` write it.
    """
    der = (
        rsa.RSAPublicNumbers(key.exponent, key.modulus)
        .public_key()
        .public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return f"sha256//{base64.b64encode(hashlib.sha256(der).digest()).decode()}"


def same_node(one: str, other: str) -> bool:
    """
    Whether two ids are of the same node: the case of letters makes no difference.
    """
    return one.strip().lower() == other.strip().lower()


@frozen
class Certificate:
    """
    A certificate as far as it matters.

    Attributes:
        der: All of it.
        key: The key in it.
        node_ids: The values of UID in its subject.
        signed: The part that is signed.
        algorithm: The object identifier of the signature's algorithm, its content.
        signature: The signature.
    """

    der: bytes = field(repr=False)
    key: PublicKey
    node_ids: tuple[str, ...]
    signed: bytes = field(repr=False)
    algorithm: bytes = field(repr=False)
    signature: bytes = field(repr=False)

    def is_of(self, node_id: str) -> bool:
        """
        Whether its subject names this node, and no other one.
        """
        return bool(self.node_ids) and all(same_node(x, node_id) for x in self.node_ids)

    def proves_possession(self) -> bool:
        """
        Whether its own key has signed it: only who has that key can have made it.
        RSA PKCS#1 v1.5 with SHA-256, SHA-384 or SHA-512 counts.
        """
        algorithm = _HASHES.get(self.algorithm)
        if algorithm is None:
            return False
        numbers = rsa.RSAPublicNumbers(self.key.exponent, self.key.modulus)
        try:
            numbers.public_key().verify(
                self.signature, self.signed, padding.PKCS1v15(), algorithm
            )
        except (InvalidSignature, ValueError, UnsupportedAlgorithm):
            return False
        return True


@frozen
class AgentKey:
    """
    The key of a node as a document brings it. The key is sane, and where there is a
    certificate, that names the node.

    Attributes:
        key: The key.
        certificate: What it came in; None for a key on its own.
    """

    key: PublicKey
    certificate: Certificate | None = None


def _decoded(text: str) -> bytes:
    """
    The bytes in the first block of PEM, or in a text that is nothing but base64.

    Raises:
        ValueError: There is neither.
    """
    found = _BEGIN.search(text)
    body = text
    if found is not None:
        body, end, _ = text[found.end() :].partition(f"-----END {found[1]}-----")
        if not end:
            raise ValueError("it has no end")
    try:
        data = base64.b64decode(_SPACE.sub("", body), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("no base64 in PEM form") from error
    if not data:
        raise ValueError("nothing in it")
    return data


def pem_certificate(text: str) -> str:
    """
    A certificate in PEM form, with the lines around it that some leave out.

    Raises:
        KeyRefused: `bad-certificate`.
    """
    body = base64.b64encode(read_certificate(text).der).decode()
    lines = [body[at : at + _LINE] for at in range(0, len(body), _LINE)]
    return "\n".join(
        ["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""]
    )


def read_certificate(text: str) -> Certificate:
    """
    Read a certificate: PEM, or its base64 alone; the first one of several.

    Raises:
        KeyRefused: `bad-certificate`: it is none that holds an RSA key, or it is not
            encoded strictly; `insane-key`: see `check_sane`.
    """
    try:
        certificate = _parse(_decoded(text))
    except (ValueError, UnsupportedAlgorithm) as error:
        msg = f"unusable certificate: {error}"
        raise KeyRefused("bad-certificate", msg, _CERTIFICATE_PATH) from error
    _check_sane(certificate.key, _CERTIFICATE_PATH)
    return certificate


def _parse(der: bytes) -> Certificate:
    info = subject_public_key(der)
    # Its first element is the algorithm; a bare key would begin with a number.
    at, end = der_element(info, _SEQUENCE, 0, len(info))
    der_element(info, _SEQUENCE, at, end)
    key = PublicKey.from_cryptography(serialization.load_der_public_key(info))

    start, end = der_element(der, _SEQUENCE, 0, len(der))
    at, signed_end = der_element(der, _SEQUENCE, start, end)
    if der[at : at + 1] == bytes((_VERSION,)):
        _, at = der_element(der, _VERSION, at, signed_end)
    inner = b""
    for place, tag in enumerate(_BEFORE_THE_SUBJECT):
        first = at
        _, at = der_element(der, tag, at, signed_end)
        if place == 1:
            inner = der[first:at]
    node_ids = _uids(der, *der_element(der, _SEQUENCE, at, signed_end))

    at, algorithm_end = der_element(der, _SEQUENCE, signed_end, end)
    if der[signed_end:algorithm_end] != inner:
        raise ValueError("two different algorithms for one signature")
    algorithm = der[slice(*der_element(der, _OID, at, algorithm_end))]
    at, last = der_element(der, _BIT_STRING, algorithm_end, end)
    if last != end or der[at : at + 1] != b"\0":
        raise ValueError("a signature that is no whole number of bytes")
    return Certificate(
        der=der,
        key=key,
        node_ids=node_ids,
        signed=der[start:signed_end],
        algorithm=algorithm,
        signature=der[at + 1 : last],
    )


def _uids(der: bytes, at: int, end: int) -> tuple[str, ...]:
    """
    The values of UID in the name whose content is from *at* to *end*.
    """
    found = []
    while at < end:
        inside, set_end = der_element(der, _SET, at, end)
        while inside < set_end:
            oid, next_one = der_element(der, _SEQUENCE, inside, set_end)
            start, stop = der_element(der, _OID, oid, next_one)
            if der[start:stop] == _UID:
                tag = der[stop] if stop < next_one else 0
                if tag not in _TEXTS:
                    raise ValueError("a UID that is no text")
                start, stop = der_element(der, tag, stop, next_one)
                found.append(der[start:stop].decode(_TEXTS[tag]))
            inside = next_one
        at = set_end
    return tuple(found)


def read_public_key(text: str) -> PublicKey:
    """
    Read a public key: `BEGIN RSA PUBLIC KEY`, `BEGIN PUBLIC KEY`, or the base64 of
    either alone.

    Raises:
        KeyRefused: `bad-key`: it is no RSA key; `insane-key`: see `check_sane`.
    """
    try:
        found = serialization.load_der_public_key(_decoded(text))
        key = PublicKey.from_cryptography(found)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        msg = f"unusable public key: {error}"
        raise KeyRefused("bad-key", msg, _KEY_PATH) from error
    _check_sane(key, _KEY_PATH)
    return key


def _check_sane(key: PublicKey, element: str) -> None:
    try:
        check_sane(key)
    except UnusableKey as error:
        raise KeyRefused("insane-key", str(error), element) from error


def read_pem(text: str) -> AgentKey:
    """
    A public key, or that of a certificate, in PEM form.

    Raises:
        KeyRefused: It is none that can be used.
    """
    if "BEGIN CERTIFICATE" in text:
        certificate = read_certificate(text)
        return AgentKey(certificate.key, certificate)
    return AgentKey(read_public_key(text))


def read_agent_key(agent: Agent, node_id: str) -> AgentKey:
    """
    The key of the node whose document this agent is in. Where there is a certificate
    that counts, and a key beside it does not.

    Raises:
        KeyRefused: `bad-certificate`, `bad-key`, `insane-key`; `subject-mismatch`: the
            certificate names no node, or another one.
    """
    if agent.certificate is None:
        return AgentKey(read_public_key(agent.key or ""))
    certificate = read_certificate(agent.certificate)
    if not certificate.is_of(node_id):
        named = (
            " and ".join(repr(x[:80]) for x in certificate.node_ids[:3]) or "no node"
        )
        msg = f"the certificate's subject names {named}, and the document {node_id}"
        raise KeyRefused("subject-mismatch", msg, _CERTIFICATE_PATH)
    return AgentKey(certificate.key, certificate)
