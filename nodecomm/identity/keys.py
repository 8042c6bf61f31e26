# SPDX-License-Identifier: MIT
"""
RSA keys as values: digests, PEM forms, and which keys are fit to be trusted.

A key digest is only a name. It hashes the bytes of modulus and exponent joined
without a length, so the same bytes split at another place are another key with the
same digest, and such keys with known factors are built in seconds whatever the hash
function is. `check_sane` is what makes the split unique again: the modulus fills
whole groups of eight bytes and the exponent has at most four, so the number of bytes
alone says where one ends and the other begins. Every way into this package applies
it, and wherever a whole key is known the whole key is compared.
"""

from __future__ import annotations

import hashlib
import re
from datetime import datetime, timedelta, timezone

from attrs import field, frozen
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

__all__ = [
    "EXPONENT_LIMIT",
    "MAX_MODULUS_BITS",
    "MIN_MODULUS_BITS",
    "InsaneKey",
    "KeyPair",
    "PublicKey",
    "UnreadableKey",
    "UnusableKey",
    "check_sane",
    "parse_digest",
]

#: Bits of the smallest and of the largest modulus that is accepted. 1024 is the
#: least that OpenSSL still makes; above 8192 one handshake costs a second of CPU.
MIN_MODULUS_BITS = 1024
MAX_MODULUS_BITS = 8192

#: The modulus has a multiple of this many bits, see the head of this module.
MODULUS_STEP_BITS = 64

#: The public exponent is below this.
EXPONENT_LIMIT = 2**32

#: The fixed passphrase of private keys that older releases wrote encrypted. It
#: protects nothing; it only has to be known to read them.
#: Source: CFEngine up to 3.13, private keys with `DEK-Info: DES-EDE3-CBC`.
OLD_PASSPHRASE = b"Cfengine passphrase"

#: How long an own certificate says that it is valid. Nobody looks.
CERTIFICATE_DAYS = 3650

_DIGEST = re.compile(r"(MD5=)([0-9a-f]{32})|(SHA=)([0-9a-f]{64})", re.IGNORECASE)


class UnusableKey(ValueError):  # noqa: N818
    """
    This key cannot be used at all, whatever is stored or configured.
    """


class InsaneKey(UnusableKey):
    """
    A key outside the bounds within which a digest can name only one key.

    The real programs never make such a key. Its owner should make a new one with
    `cf-key` or `nodecomm key generate`; a peer that insists on one is likely an
    attacker with a forged key.

    Attributes:
        field: `modulus` or `exponent`.
        value: What it is, in words (`1456 bits`).
        limit: What it would have to be.
    """

    def __init__(self, field: str, value: str, limit: str) -> None:
        super().__init__(f"RSA key with {field} of {value}; it must be {limit}")
        self.field = field
        self.value = value
        self.limit = limit


class UnreadableKey(UnusableKey):
    """
    These bytes are no RSA key in a form that is read here.
    """


def _to_bytes(number: int) -> bytes:
    """
    The minimal big-endian bytes of a number, without a sign byte.
    """
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


@frozen
class PublicKey:
    """
    The public half of an RSA key. Two are equal when the whole keys are.

    Any two positive numbers make a value, sane or not, so that a refusal can name
    the digest of what was refused; `check_sane` decides whether it may be used.

    Attributes:
        modulus: N.
        exponent: E.
        md5: The digest as the community edition prints it, `MD5=` and 32 hex digits.
        sha: The digest as the Enterprise edition prints it, `SHA=` and 64 hex digits.
    """

    modulus: int = field(repr=False)
    exponent: int = field(repr=False)
    md5: str = field(init=False, eq=False)
    sha: str = field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        if self.modulus < 1 or self.exponent < 1:
            msg = "modulus and exponent of an RSA key must be positive"
            raise UnreadableKey(msg)
        # Source: CFEngine 3.21, H(N || E), printed lower case. MD5 is a name here.
        joined = _to_bytes(self.modulus) + _to_bytes(self.exponent)
        md5 = hashlib.md5(joined, usedforsecurity=False).hexdigest()
        object.__setattr__(self, "md5", f"MD5={md5}")
        object.__setattr__(self, "sha", f"SHA={hashlib.sha256(joined).hexdigest()}")

    @property
    def digests(self) -> tuple[str, str]:
        """
        Both printed digests, the community edition's first.
        """
        return (self.md5, self.sha)

    @property
    def bits(self) -> int:
        """
        Bits of the modulus.
        """
        return self.modulus.bit_length()

    def matches(self, digest: str) -> bool:
        """
        Is *digest* one of this key's printed digests? The hexadecimal digits may
        be in either case. A digest names a key; it does not prove which key it is.
        """
        return digest in self.digests or parse_digest_or_none(digest) in self.digests

    def to_pem(self) -> bytes:
        """
        `BEGIN RSA PUBLIC KEY`, the only form that the real programs read.

        Raises:
            UnusableKey: The key is not one that a file can hold.
        """
        try:
            numbers = rsa.RSAPublicNumbers(self.exponent, self.modulus)
            return numbers.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.PKCS1
            )
        except (ValueError, UnsupportedAlgorithm) as error:
            raise UnreadableKey(str(error)) from error

    @classmethod
    def from_pem(cls, data: bytes) -> PublicKey:
        """
        Read a public key, sane or not (`check_sane` comes next).

        `BEGIN RSA PUBLIC KEY` is what the real programs write; `BEGIN PUBLIC KEY`
        is read too.

        Raises:
            UnreadableKey: This is no RSA public key in PEM form.
        """
        try:
            key = serialization.load_pem_public_key(data)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            if b"PRIVATE KEY-----" in data:
                msg = "this is a private key, not a public one"
                raise UnreadableKey(msg) from error
            msg = "not a public key in PEM form (-----BEGIN RSA PUBLIC KEY-----)"
            raise UnreadableKey(msg) from error
        return cls.from_cryptography(key)

    @classmethod
    def from_cryptography(cls, key: object) -> PublicKey:
        """
        The value of a key object of the *cryptography* package, sane or not.

        Raises:
            UnreadableKey: It is not an RSA public key.
        """
        if not isinstance(key, rsa.RSAPublicKey):
            msg = f"not an RSA key but {type(key).__name__}"
            raise UnreadableKey(msg)
        try:
            numbers = key.public_numbers()
        except ValueError as error:
            raise UnreadableKey(str(error)) from error
        return cls(numbers.n, numbers.e)


def check_sane(key: PublicKey) -> None:
    """
    Refuse a key that could share its digest with another one.

    Raises:
        InsaneKey: The exponent is even or outside 3 to 2**32 - 1, or the modulus is
            even, or has fewer than 1024 or more than 8192 bits, or no multiple of 64.
    """
    exponent = key.exponent
    if not (exponent & 1 and 3 <= exponent < EXPONENT_LIMIT):
        width = exponent.bit_length()
        value = f"{width} bits" if width > 32 else str(exponent)
        raise InsaneKey("exponent", value, "odd, at least 3 and below 2**32")
    bits = key.modulus.bit_length()
    if not MIN_MODULUS_BITS <= bits <= MAX_MODULUS_BITS or bits % MODULUS_STEP_BITS:
        limit = (
            f"{MIN_MODULUS_BITS} to {MAX_MODULUS_BITS} bits "
            f"in a multiple of {MODULUS_STEP_BITS}"
        )
        raise InsaneKey("modulus", f"{bits} bits", limit)
    if not key.modulus & 1:
        raise InsaneKey("modulus", "an even number", "odd")


def parse_digest(text: str) -> str:
    """
    The one form of a printed digest: `MD5=` or `SHA=` and lower-case digits.

    Raises:
        ValueError: It is neither.
    """
    digest = parse_digest_or_none(text)
    if digest is None:
        msg = (
            f"{text[:80]!r} is no key digest: write MD5= and 32, "
            "or SHA= and 64 hexadecimal digits"
        )
        raise ValueError(msg)
    return digest


def parse_digest_or_none(text: str) -> str | None:
    """
    As `parse_digest`, None for what is no digest.
    """
    found = _DIGEST.fullmatch(text)
    if found is None:
        return None
    prefix, digits = (part for part in found.groups() if part is not None)
    return prefix.upper() + digits.lower()


class KeyPair:
    """
    An own RSA key: the private half and its public value.

    Attributes:
        private: The private key, an object of the *cryptography* package.
        public: Its public half; always sane.

    Raises:
        InsaneKey: No peer would accept this key, see `check_sane`.
    """

    __slots__ = ("private", "public")

    def __init__(self, private: rsa.RSAPrivateKey) -> None:
        self.private = private
        self.public = PublicKey.from_cryptography(private.public_key())
        check_sane(self.public)

    def __repr__(self) -> str:
        return f"<KeyPair {self.public.md5}>"

    @classmethod
    def generate(cls, bits: int = 2048) -> KeyPair:
        """
        Make a new key with exponent 65537. Blocks: 0.1 s for 2048 bits, many seconds
        for 8192.

        Raises:
            InsaneKey: *bits* is outside 1024 to 8192 or no multiple of 64.
        """
        # A modulus of exactly this many bits is what would be checked afterwards.
        check_sane(PublicKey((1 << max(bits - 1, 0)) | 1, 65537))
        return cls(rsa.generate_private_key(65537, bits))

    @classmethod
    def load(cls, data: bytes) -> KeyPair:
        """
        Read a private key: `BEGIN RSA PRIVATE KEY`, plain or encrypted with the
        fixed passphrase of older releases, or PKCS#8.

        Raises:
            UnreadableKey: This is no RSA private key, or its passphrase is another.
            InsaneKey: No peer would accept this key.
        """
        try:
            private = _load_private(data)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            if b"PUBLIC KEY-----" in data:
                msg = "this is a public key, not a private one"
            elif b"ENCRYPTED" in data:
                msg = "an encrypted private key with another passphrase than CFEngine's"
            else:
                msg = "not a private key in PEM form (-----BEGIN RSA PRIVATE KEY-----)"
            raise UnreadableKey(msg) from error
        if not isinstance(private, rsa.RSAPrivateKey):
            msg = f"not an RSA key but {type(private).__name__}"
            raise UnreadableKey(msg)
        _check_parts(private.private_numbers())
        return cls(private)

    def to_pem(self) -> bytes:
        """
        `BEGIN RSA PRIVATE KEY`, not encrypted, as cf-key 3.21 writes it.
        """
        return self.private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )

    def certificate(self, now: datetime | None = None) -> x509.Certificate:
        """
        A self-signed certificate, the envelope that carries the key in a handshake.

        Peers look at nothing but the key. It says as little as the real one, but
        with a serial number that strict readers accept.

        Args:
            now: When it is made; the present by default.
        """
        # Source: CFEngine 3.21 makes one at each start: CN=a, serial 0, 3650 days,
        # RSA with SHA-384.
        start = now or datetime.now(timezone.utc)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a")])
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .serial_number(1)
            .not_valid_before(start - timedelta(days=1))
            .not_valid_after(start + timedelta(days=CERTIFICATE_DAYS))
            .public_key(self.private.public_key())
            .sign(self.private, hashes.SHA384())
        )


def _load_private(data: bytes) -> object:
    """
    A private key, with the old passphrase only if it asks for one.
    """
    # The library wants a passphrase exactly when the key is encrypted.
    encrypted = b"ENCRYPTED" in data
    return serialization.load_pem_private_key(
        data,
        password=OLD_PASSPHRASE if encrypted else None,
        # It would prove again that the factors are prime, which takes a tenth of the
        # time that a short command has in all.
        unsafe_skip_rsa_key_validation=True,
    )


def _check_parts(numbers: rsa.RSAPrivateNumbers) -> None:
    """
    Find damage: a signature made with one wrong part can give the key away.

    Raises:
        UnreadableKey: The parts of the key do not belong together.
    """
    p, q, d = numbers.p, numbers.q, numbers.d
    public = numbers.public_numbers
    if not (
        min(p, q, d) > 2
        and p & q & 1
        and p * q == public.n
        and public.e * d % (p - 1) == 1
        and public.e * d % (q - 1) == 1
        and numbers.dmp1 == d % (p - 1)
        and numbers.dmq1 == d % (q - 1)
        and numbers.iqmp * q % p == 1
    ):
        msg = "a damaged private key: its parts do not belong together"
        raise UnreadableKey(msg)
