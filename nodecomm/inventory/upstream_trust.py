# SPDX-License-Identifier: MIT
"""
Whether a server that inventories are sent to is the one that is meant.

It is decided in the TLS handshake, so that neither a password nor a file nor our own
certificate leaves before. By default the key is compared with one that is known; who
has issued a certificate counts only for those who ask for it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol

from attrs import field, frozen
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from OpenSSL import SSL
from service_identity import CertificateError as NoNames
from service_identity import VerificationError
from service_identity.cryptography import (
    verify_certificate_hostname,
    verify_certificate_ip_address,
)
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.logger import Logger

from nodecomm.identity.keys import PublicKey, UnusableKey, check_sane, parse_digest
from nodecomm.identity.servers import ServerDecision
from nodecomm.inventory.upstream_pins import ServerPins
from nodecomm.transport.certificates import subject_public_key
from nodecomm.wire.text import safe

__all__ = [
    "Authorities",
    "AuthoritiesUnusable",
    "IServerCheck",
    "NoneKnown",
    "PinOnFirstUse",
    "PinnedKeys",
    "ShownKey",
    "Unchecked",
    "parse_pin",
    "parse_pins",
    "read_pins",
]

#: How a key is named whatever kind it is of: curl's `--pinnedpubkey`, `rudder agent
#: info`.
_SHA256 = "sha256//"

#: SHA-256 has that many bytes.
_DIGEST_BYTES = 32

_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----.*?-----END \1-----", re.DOTALL)

#: Why OpenSSL does not believe a certificate, by its number for it.
_PROBLEMS = {
    2: "its issuer is unknown",
    9: "it is not valid yet",
    10: "it has expired",
    18: "it is signed by itself, and not one of the authorities",
    19: "it is issued by a root that is not one of the authorities",
    20: "its issuer is not one of the authorities",
    21: "its issuer is not one of the authorities",
    23: "it has been revoked",
    26: "it is not made for servers",
    66: "its key is too small",
    67: "the key of an issuer is too small",
    68: "it is signed with a weak digest",
}


@frozen
class ShownKey:
    """
    The key that a server shows.

    Attributes:
        pin: Its name whatever kind it is of, `sha256//` and base64 of the SHA-256
            of its SubjectPublicKeyInfo.
        key: The key, if it is an RSA key.
        certificate: The whole certificate, in DER.
        problem: Why OpenSSL does not believe the certificate; "" if it does or was
            not asked.
    """

    pin: str
    key: PublicKey | None
    certificate: bytes = field(repr=False)
    problem: str = ""

    @classmethod
    def from_certificate(cls, certificate: bytes, problem: str = "") -> ShownKey:
        """
        The key in a certificate.

        Raises:
            ValueError: There is none that can be read.
        """
        encoded = subject_public_key(certificate)
        digest = hashlib.sha256(encoded).digest()
        key = None
        try:
            loaded = serialization.load_der_public_key(encoded)
            key = PublicKey.from_cryptography(loaded)
        except (UnsupportedAlgorithm, UnusableKey, ValueError, TypeError):
            pass
        return cls(_pin_of(digest), key, certificate, problem)

    @property
    def names(self) -> tuple[str, ...]:
        """
        All names of the key, each of which can be pinned.
        """
        if self.key is None:
            return (self.pin,)
        return (self.pin, *self.key.digests)


class IServerCheck(Protocol):
    """
    Decides whether a server is the one that is meant.
    """

    @property
    def authorities(self) -> Authorities | None:
        """
        The authorities that certificates must come from; None: it does not matter who
        issued them.
        """
        ...

    def judge(self, server: str, shown: ShownKey) -> ServerDecision:
        """
        Whether *server* may show this key. Asked in the handshake, before anything
        leaves, and again after it; nothing may be stored.

        Args:
            server: Name or address, and port, `HOST:PORT`.
            shown: What it shows. That it has this key is not proved yet.
        """
        ...

    def keep(self, server: str, shown: ShownKey) -> Any:
        """
        Store what has to be stored, now that the server has proved to have a key that
        was judged to be right: a `ServerDecision`, or a Deferred of it.
        """
        ...


class PinnedKeys:
    """
    A server must have one of some keys; who issued its certificate, for what name and
    until when does not matter.

    Args:
        pins: Keys, whole or by name: `sha256//...`, `MD5=...` or `SHA=...`.
        advice: What an operator does who has changed the server's key.

    Raises:
        ValueError: A name is none, or there is no key.
    """

    authorities = None

    def __init__(
        self,
        pins: Iterable[str | PublicKey],
        advice: str = "if its key was changed on purpose, pin the new one",
    ) -> None:
        self.pins = tuple(
            pin if isinstance(pin, PublicKey) else parse_pin(pin) for pin in pins
        )
        if not self.pins:
            raise ValueError("no key is pinned")
        self._advice = advice

    def judge(self, server: str, shown: ShownKey) -> ServerDecision:
        """One of the keys, or not."""
        if shown.pin in self.pins:
            return _trusted("pinned", f"the key {shown.pin} is pinned")
        key = shown.key
        if key is None:
            if all(isinstance(p, str) and p.startswith(_SHA256) for p in self.pins):
                return self._another(server, shown)
            text = (
                f"{safe(server)} shows a key that is not an RSA key, {shown.pin}; "
                f"pinned: {self._pinned()}"
            )
            return ServerDecision(False, "key-unusable", text)
        try:
            check_sane(key)
        except UnusableKey as error:
            text = f"{safe(server)} shows the key {key.md5}, which is refused: {error}"
            return ServerDecision(False, "key-unusable", text)
        if key in self.pins or not set(key.digests).isdisjoint(self._names()):
            return _trusted("pinned", f"the key {key.md5} is pinned")
        return self._another(server, shown)

    def keep(self, server: str, shown: ShownKey) -> ServerDecision:
        """Nothing is stored."""
        return self.judge(server, shown)

    def _names(self) -> set[str]:
        return {pin for pin in self.pins if isinstance(pin, str)}

    def _pinned(self) -> str:
        return ", ".join(p if isinstance(p, str) else p.md5 for p in self.pins)

    def _another(self, server: str, shown: ShownKey) -> ServerDecision:
        text = (
            f"{safe(server)} shows another key than the pinned one: "
            f"{_all_names(shown)}; pinned: {self._pinned()}. Nothing was sent; "
            f"{self._advice}"
        )
        return ServerDecision(False, "key-changed", text)


class PinOnFirstUse:
    """
    A server must have the key that it had the first time.

    Args:
        pins: Where keys are kept.
        run: How to call what waits for the disk; takes a function without arguments
            and returns its result or a Deferred of it. By default it is called at
            once.
    """

    authorities = None

    def __init__(
        self, pins: ServerPins, run: Callable[[Callable[[], Any]], Any] | None = None
    ) -> None:
        self.pins = pins
        self._run = run

    def judge(self, server: str, shown: ShownKey) -> ServerDecision:
        """The key that is kept, or any if none is."""
        try:
            known = self.pins.of(server)
        except (OSError, ValueError) as error:
            return self._unusable(error)
        if not known:
            text = f"no key of {safe(server)} was known; {shown.pin} is kept"
            return ServerDecision(True, "first-use", text, first_use=True)
        if shown.pin in known:
            return _trusted("stored", f"the key {shown.pin} is kept for {safe(server)}")
        text = (
            f"{safe(server)} shows another key than before: {_all_names(shown)}; "
            f"kept: {', '.join(known)}. Nothing was sent; if its key was changed on "
            f"purpose, remove its line in {self.pins.path}"
        )
        return ServerDecision(False, "key-changed", text)

    def keep(self, server: str, shown: ShownKey) -> Any:
        """Store the key of a server that none is known of."""
        decision = self.judge(server, shown)
        if not decision.first_use:
            return decision
        work = partial(self._keep, server, shown, decision)
        return work() if self._run is None else self._run(work)

    def _keep(
        self, server: str, shown: ShownKey, decision: ServerDecision
    ) -> ServerDecision:
        try:
            if self.pins.add_first(server, shown.pin):
                return decision
        except (OSError, ValueError) as error:
            return self._unusable(error)
        # Somebody else was first; perhaps with another key.
        return self.judge(server, shown)

    def _unusable(self, error: Exception) -> ServerDecision:
        text = f"the keys of servers cannot be read or kept: {error}"
        return ServerDecision(False, "store-unusable", text)


class NoneKnown:
    """
    Nothing is known of a server, so nothing is sent to it; but the key that it shows is
    told, so that somebody can compare it.

    Args:
        advice: What to do with it.
    """

    authorities = None

    def __init__(self, advice: str) -> None:
        self._advice = advice

    def judge(self, server: str, shown: ShownKey) -> ServerDecision:
        """No."""
        text = (
            f"no key of {safe(server)} is known, so nothing was sent. It shows "
            f"{_all_names(shown)}; {self._advice}"
        )
        return ServerDecision(False, "key-unknown", text)

    def keep(self, server: str, shown: ShownKey) -> ServerDecision:
        """No."""
        return self.judge(server, shown)


class AuthoritiesUnusable(Exception):  # noqa: N818
    """
    No certificate could be believed. The text names the file.
    """


class Authorities:
    """
    A server must have a certificate for its name, from an authority that is known.

    Args:
        file: The certificates of authorities, in PEM form; None: those of the system.

    Raises:
        AuthoritiesUnusable: There are none in the file.
    """

    def __init__(self, file: str | None = None) -> None:
        self.file = file
        # Found out now and not at the first connection.
        self.load(SSL.Context(SSL.TLS_CLIENT_METHOD))

    @property
    def authorities(self) -> Authorities:
        """These."""
        return self

    def load(self, context: SSL.Context) -> None:
        """
        Put them into a context.
        """
        if self.file is None:
            context.set_default_verify_paths()
            return
        try:
            with open(self.file, "rb"):
                # OpenSSL has no words for a file that is not there.
                pass
            context.load_verify_locations(self.file)
        except OSError as error:
            text = f"{self.file}: {error.strerror}"
            raise AuthoritiesUnusable(text) from error
        except SSL.Error as error:
            text = f"{self.file}: no certificates in PEM form"
            raise AuthoritiesUnusable(text) from error

    def judge(self, server: str, shown: ShownKey) -> ServerDecision:
        """Believed by OpenSSL, and for this name."""
        if shown.problem:
            text = (
                f"the certificate of {safe(server)} is not to be trusted: "
                f"{shown.problem}. Its key: {_all_names(shown)}"
            )
            return ServerDecision(False, "certificate", text)
        host = server.rpartition(":")[0].strip("[]")
        try:
            certificate = x509.load_der_x509_certificate(shown.certificate)
            if isIPAddress(host) or isIPv6Address(host):
                verify_certificate_ip_address(certificate, host)
            else:
                verify_certificate_hostname(certificate, host)
        except (VerificationError, NoNames, ValueError) as error:
            reason = "it has no names that can be read"
            if isinstance(error, VerificationError):
                reason = f"it is for other names than {host}"
            text = f"the certificate of {safe(server)} is not to be trusted: {reason}"
            return ServerDecision(False, "hostname", text)
        return _trusted("certificate", f"the certificate is for {host}")

    def keep(self, server: str, shown: ShownKey) -> ServerDecision:
        """Nothing is stored."""
        return self.judge(server, shown)


class Unchecked:
    """
    Any server will do. Whoever sits on the way can read passwords and inventories, and
    keep them; it warns once.

    Args:
        warn: Called with the warning; by default it is logged.
    """

    authorities = None

    _log = Logger("nodecomm.inventory")

    def __init__(self, warn: Callable[[str], object] | None = None) -> None:
        self._warn: Callable[[str], object] | None = warn or self._state

    def judge(self, server: str, shown: ShownKey) -> ServerDecision:
        """Yes."""
        return _trusted("unchecked", "its key is not checked")

    def keep(self, server: str, shown: ShownKey) -> ServerDecision:
        """Warn."""
        warn, self._warn = self._warn, None
        if warn is not None:
            warn(
                f"the key of {safe(server)} is not checked: anybody on the way can be "
                f"that server. It shows {_all_names(shown)}"
            )
        return self.judge(server, shown)

    def _state(self, text: str) -> None:
        self._log.warn("{text}", event="upstream.unchecked", text=text)


def parse_pin(text: str) -> str:
    """
    The one form of a key's name: `sha256//` and base64, `MD5=` or `SHA=` and
    hexadecimal digits in lower case.

    Raises:
        ValueError: It is none of them.
    """
    text = text.strip()
    if not text.startswith(_SHA256):
        try:
            return parse_digest(text)
        except ValueError:
            msg = (
                f"{safe(text[:80])!r} names no key: write sha256// and the digest in "
                "base64, MD5= and 32, or SHA= and 64 hexadecimal digits"
            )
            raise ValueError(msg) from None
    try:
        digest = base64.b64decode(text[len(_SHA256) :], validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    if len(digest) != _DIGEST_BYTES:
        msg = f"{safe(text[:80])!r} has no SHA-256 digest in base64 behind sha256//"
        raise ValueError(msg)
    return _pin_of(digest)


def parse_pins(text: str) -> tuple[str, ...]:
    """
    The names of one or several keys, with `;` between them, as curl and Rudder write
    those of a server that changes its key.

    Raises:
        ValueError: There is none, or one of them is none.
    """
    pins = tuple(parse_pin(part) for part in text.split(";") if part.strip())
    if not pins:
        raise ValueError("no key is named")
    return pins


def read_pins(data: bytes) -> tuple[str, ...]:
    """
    The names of the keys in a file: public keys and certificates in PEM form, or one
    name a line, remarks behind `#`.

    Raises:
        ValueError: There is none, or a block or a line is none.
    """
    blocks = list(_PEM.finditer(data))
    if not blocks:
        lines = data.decode("utf-8", "replace").splitlines()
        return parse_pins(";".join(line.partition("#")[0] for line in lines))
    return tuple(_pin_of_block(block[0], block[1]) for block in blocks)


def _pin_of_block(block: bytes, label: bytes) -> str:
    if label.endswith(b"PRIVATE KEY"):
        raise ValueError("this is a private key; a public one is wanted")
    try:
        if label == b"CERTIFICATE":
            encoded = subject_public_key(_decode_pem(block))
        else:
            encoded = serialization.load_pem_public_key(block).public_bytes(
                serialization.Encoding.DER,
                serialization.PublicFormat.SubjectPublicKeyInfo,
            )
    except (ValueError, UnsupportedAlgorithm) as error:
        name = label.decode("ascii")
        raise ValueError(f"the {name} cannot be read") from error
    return _pin_of(hashlib.sha256(encoded).digest())


def _decode_pem(block: bytes) -> bytes:
    return base64.b64decode(b"".join(block.splitlines()[1:-1]), validate=True)


def _pin_of(digest: bytes) -> str:
    return _SHA256 + base64.b64encode(digest).decode("ascii")


def _all_names(shown: ShownKey) -> str:
    return ", ".join(shown.names)


def _trusted(code: str, text: str) -> ServerDecision:
    return ServerDecision(True, code, text)


def problem_text(number: int) -> str:
    """
    Why OpenSSL does not believe a certificate, in words.
    """
    return _PROBLEMS.get(number, f"OpenSSL's reason is number {number}")
