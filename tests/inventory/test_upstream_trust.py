# SPDX-License-Identifier: MIT
"""
Whether a server is the one that is meant; and that nothing of us gets to another one.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.python.failure import Failure

from nodecomm.identity.servers import ServerDecision
from nodecomm.inventory import https
from nodecomm.inventory.own import node_certificate
from nodecomm.inventory.pairs import Box
from nodecomm.inventory.upstream import ClientCertificate, Transient, UntrustedServer
from nodecomm.inventory.upstream_connecting import CheckedConnection, _Handshake
from nodecomm.inventory.upstream_pins import ServerPins
from nodecomm.inventory.upstream_trust import (
    Authorities,
    AuthoritiesUnusable,
    IServerCheck,
    PinnedKeys,
    PinOnFirstUse,
    ShownKey,
    Unchecked,
    parse_pin,
    parse_pins,
    read_pins,
)
from tests.identity.sample import pair
from tests.inventory.hub import (
    NOW,
    Hub,
    Script,
    authority,
    elliptic_context,
    hub_pair,
)
from tests.inventory.test_https import pin

NAMES = (x509.DNSName("hub.example.com"),)

OK = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """A network; in the end nothing is left of it."""
    hub = Hub(tmp_path)
    yield hub
    hub.end()


def yes(script: Script) -> None:
    """The file is there."""
    script.say(OK)


@pytest.fixture
def certificates(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The certificates of ours that servers see."""
    seen: list[Any] = []

    def see(_connection: Any, certificate: Any, *_: Any) -> bool:
        seen.append(certificate)
        return True

    monkeypatch.setattr(https, "_accept", see)
    return seen


def put(hub: Hub, check: IServerCheck, **more: Any) -> int:
    """Send something."""
    code: int = hub.result(hub.upstream(check, **more).put(Box.FIRST, "a.ocs", b"x"))
    return code


def refused(hub: Hub, check: IServerCheck, **more: Any) -> UntrustedServer:
    """Try to send something."""
    error = hub.failure(hub.upstream(check, **more).put(Box.FIRST, "a.ocs", b"x"))
    assert isinstance(error, UntrustedServer)
    assert isinstance(error, Transient)
    return error


def pem_file(folder: Path, *certificates: x509.Certificate) -> str:
    """A file with certificates."""
    path = folder / "authorities.pem"
    path.write_bytes(
        b"".join(each.public_bytes(serialization.Encoding.PEM) for each in certificates)
    )
    return str(path)


@pytest.mark.parametrize("form", ["key", "md5", "sha", "sha256", "upper", "second"])
def test_pinned(hub: Hub, form: str) -> None:
    """Every name of a key will do."""
    hub.scripted(on_request=yes)
    key = hub_pair().public
    forms: dict[str, list[Any]] = {
        "key": [key],
        "md5": [key.md5],
        "sha": [key.sha],
        "sha256": [pin(key)],
        "upper": ["md5=" + key.md5[4:].upper()],
        "second": [pair().public, pin(key)],
    }

    assert put(hub, PinnedKeys(forms[form])) == 201


@pytest.mark.parametrize("form", ["key", "md5", "sha", "sha256"])
def test_another_key(hub: Hub, certificates: list[Any], form: str) -> None:
    """A server with another key gets nothing: no password, no file, no certificate."""
    server = hub.scripted(on_request=yes)
    other = pair().public
    names: dict[str, Any] = {
        "key": other,
        "md5": other.md5,
        "sha": other.sha,
        "sha256": pin(other),
    }
    own = hub_pair()
    shown = ClientCertificate(node_certificate(own, "n1", NOW), own.private)

    error = refused(
        hub,
        PinnedKeys([names[form]], "write the new one as `x`"),
        certificate=shown,
    )

    key = hub_pair().public
    assert error.code == "key-changed"
    assert error.shown == (pin(key), key.md5, key.sha)
    for name in error.shown:
        assert name in error.reason
    assert "write the new one as `x`" in error.reason
    assert server.got == b""
    assert certificates == []


def test_a_key_that_is_not_rsa(hub: Hub) -> None:
    """A server whose certificate has a key of another kind is pinned by sha256//."""
    context, certificate = elliptic_context()
    hub.scripted(on_request=yes, context=context)
    encoded = certificate.public_bytes(serialization.Encoding.DER)
    name = ShownKey.from_certificate(encoded).pin

    assert put(hub, PinnedKeys([name])) == 201
    error = refused(hub, PinnedKeys([hub_pair().public]))
    assert error.code == "key-unusable"
    assert name in error.reason
    assert refused(hub, PinnedKeys([pin(hub_pair().public)])).code == "key-changed"


def test_pins_of_a_file(hub: Hub) -> None:
    """Keys and certificates in PEM form, and names a line."""
    key = hub_pair().public
    other = pair().public
    certificate = node_certificate(hub_pair(), "root", NOW)
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    public = hub_pair().private.public_key()
    spki = public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )

    for data in (pem, spki, key.to_pem(), b"text\n" + pem + b"\nmore"):
        assert read_pins(data) == (pin(key),)
    assert read_pins(other.to_pem() + pem) == (pin(other), pin(key))
    lines = f"# ours\n{key.md5}  # old\n\n{pin(other)}\n".encode()
    assert read_pins(lines) == (key.md5, pin(other))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"# nothing\n",
        b"nonsense",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        b"-----BEGIN NONSENSE-----\nAAAA\n-----END NONSENSE-----\n",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        b"\xff\xfe",
    ],
)
def test_no_pins(data: bytes) -> None:
    """What names no key."""
    with pytest.raises(ValueError, match=r"key|cannot be read"):
        read_pins(data)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "MD5=",
        "SHA=",
        "sha256//",
        "sha256//AAAA",
        "sha256//" + "A" * 43 + "*",
        "sha256//" + "A" * 44,
        "MD5=" + "g" * 32,
        "MD5=" + "0" * 31,
        "0" * 32,
        "SHA256//" + "A" * 43 + "=",
        "none",
    ],
)
def test_no_pin(text: str) -> None:
    """An empty or mangled digest is none; it would fit no key, or every one."""
    with pytest.raises(ValueError, match=r"key|sha256"):
        parse_pin(text)
    with pytest.raises(ValueError, match=r"key|sha256"):
        PinnedKeys([text])


def test_several_pins() -> None:
    """As curl and Rudder write them."""
    key, other = hub_pair().public, pair().public

    assert parse_pins(f" {pin(key)} ;{other.md5};") == (pin(key), other.md5)
    for text in ("", ";", f"{key.md5};x"):
        with pytest.raises(ValueError, match="key"):
            parse_pins(text)
    with pytest.raises(ValueError, match="no key is pinned"):
        PinnedKeys([])


def test_first_use(hub: Hub) -> None:
    """The key of the first time is kept, on disk, and no other is good then."""
    server = hub.scripted(on_request=yes)
    pins = ServerPins(hub.folder / "state" / "https-servers")
    key = hub_pair().public

    assert put(hub, PinOnFirstUse(pins)) == 201

    text = Path(pins.path).read_text()
    assert text == f"hub.example.com:443 {pin(key)}\n"
    assert os.stat(pins.path).st_mode & 0o077 == 0
    # It is known from now on.
    assert put(hub, PinOnFirstUse(ServerPins(pins.path))) == 201
    context, certificate = elliptic_context()
    before = server.got
    other = hub.scripted(on_request=yes, context=context)
    error = refused(hub, PinOnFirstUse(pins))
    assert error.code == "key-changed"
    assert pin(key) in error.reason
    assert pins.path in error.reason
    assert (server.got, other.got) == (before, b"")
    # An operator names the new one beside it.
    encoded = certificate.public_bytes(serialization.Encoding.DER)
    with open(pins.path, "a") as stream:
        stream.write(f"HUB.example.com:443 {ShownKey.from_certificate(encoded).pin}\n")
    assert put(hub, PinOnFirstUse(pins)) == 201


def test_first_use_is_once(hub: Hub) -> None:
    """Whoever comes second with another key at the same time is refused."""
    pins = ServerPins(hub.folder / "https-servers")
    key, other = hub_pair().public, pair().public
    shown = ShownKey(pin(key), key, b"")
    late = ShownKey(pin(other), other, b"")
    check = PinOnFirstUse(pins)

    assert check.judge("hub:443", shown)
    assert check.judge("hub:443", late)
    assert check.keep("hub:443", shown).first_use
    decision = check.keep("hub:443", late)
    assert not decision
    assert decision.code == "key-changed"
    # It holds for each server by itself.
    assert check.keep("hub:444", late).first_use
    assert pins.of("hub:443") == (pin(key),)


def test_first_use_in_a_thread(hub: Hub) -> None:
    """What waits for the disk is done elsewhere; the server waits for it."""
    server = hub.scripted(on_request=yes)
    jobs: list[Any] = []

    def run(work: Any) -> Any:
        from twisted.internet.defer import Deferred  # noqa: PLC0415

        done: Any = Deferred()
        jobs.append(lambda: done.callback(work()))
        return done

    check = PinOnFirstUse(ServerPins(hub.folder / "pins"), run)
    sending = hub.upstream(check).put(Box.FIRST, "a.ocs", b"x")
    hub.network.pump()

    assert server.got == b""
    jobs.pop()()
    assert hub.result(sending) == 201


@pytest.mark.parametrize(
    "content", [b"nonsense\n", b"hub.example.com:443 MD5=00\n", None]
)
def test_pins_that_cannot_be_read(hub: Hub, content: bytes | None) -> None:
    """Nothing is taken for unknown because it cannot be read."""
    server = hub.scripted(on_request=yes)
    path = hub.folder / "pins"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)

    error = refused(hub, PinOnFirstUse(ServerPins(path)))

    assert error.code == "store-unusable"
    assert str(path) in error.reason
    assert server.got == b""


def test_pins_that_cannot_be_kept(hub: Hub) -> None:
    """Nothing is sent if the key could not be kept."""
    server = hub.scripted(on_request=yes)
    (hub.folder / "file").write_bytes(b"")

    error = refused(hub, PinOnFirstUse(ServerPins(hub.folder / "file" / "pins")))

    assert error.code == "store-unusable"
    assert server.got == b""


def test_our_certificate(hub: Hub, certificates: list[Any]) -> None:
    """It is shown to the server that is meant."""
    hub.scripted(on_request=yes)
    own = hub_pair()
    shown = ClientCertificate(node_certificate(own, "n1", NOW), own.private)

    assert put(hub, PinnedKeys([own.public]), certificate=shown) == 201

    assert certificates


def test_an_authority(hub: Hub) -> None:
    """A certificate for the name of the server, from an authority that is known."""
    context, _ = elliptic_context(authority(), names=NAMES)
    hub.scripted(on_request=yes, context=context)

    assert put(hub, Authorities(pem_file(hub.folder, authority()[1]))) == 201


def test_an_address(hub: Hub) -> None:
    """One for an address, for a server that is called by it."""
    address = x509.IPAddress(ipaddress.ip_address("2001:db8::1"))
    context, _ = elliptic_context(authority(), names=(address,))
    hub.scripted(on_request=yes, context=context)
    check = Authorities(pem_file(hub.folder, authority()[1]))

    assert put(hub, check, url="https://[2001:db8::1]/") == 201
    assert refused(hub, check, url="https://[2001:db8::2]/").code == "hostname"
    assert refused(hub, check).code == "hostname"


def test_our_key_is_too_small(hub: Hub, certificates: list[Any]) -> None:
    """It is not shown then; a password does."""
    context, _ = elliptic_context(authority(), names=NAMES)
    hub.scripted(on_request=yes, context=context)
    shown = ClientCertificate(node_certificate(pair(), "n1", NOW), pair().private)
    check = Authorities(pem_file(hub.folder, authority()[1]))

    assert put(hub, check, certificate=shown) == 201
    assert certificates == []


DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("code", "words", "more"),
    [
        ("hostname", "no names", {}),
        ("hostname", "other names", {"names": (x509.DNSName("other.example.com"),)}),
        ("hostname", "other names", {"names": (x509.DNSName("example.com"),)}),
        ("hostname", "other names", {"names": (x509.DNSName("*.hub.example.com"),)}),
        ("certificate", "expired", {"names": NAMES, "until": NOW - DAY / 2}),
        ("certificate", "not valid yet", {"names": NAMES, "since": NOW + DAY / 2}),
        ("certificate", "issuer", {"names": NAMES, "issuer": "Another"}),
        ("certificate", "issuer", {"names": NAMES, "issued_by": "hub"}),
        ("certificate", "by itself", {"names": NAMES, "issued_by": "self"}),
    ],
)
def test_other_certificates(
    hub: Hub, certificates: list[Any], code: str, words: str, more: Any
) -> None:
    """What is not to be believed: nothing is sent, not even our own certificate."""
    key, certificate = authority()
    by = more.pop("issued_by", None)
    if by == "self":
        context, _ = elliptic_context(None, issuer="hub", **more)
    else:
        signer = hub_pair().private if by == "hub" else key
        context, _ = elliptic_context((signer, certificate), **more)
    server = hub.scripted(on_request=yes, context=context)
    own = hub_pair()
    shown = ClientCertificate(node_certificate(own, "n1", NOW), own.private)

    error = refused(
        hub, Authorities(pem_file(hub.folder, certificate)), certificate=shown
    )

    assert error.code == code
    assert words in error.reason
    assert server.got == b""
    assert certificates == []


def test_authorities_of_the_system(hub: Hub) -> None:
    """They have not issued this one."""
    context, _ = elliptic_context(authority(), names=NAMES)
    hub.scripted(on_request=yes, context=context)

    assert refused(hub, Authorities()).code == "certificate"


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_no_authorities(hub: Hub, content: bytes | None) -> None:
    """Told at once, with the name of the file."""
    path = hub.folder / "ca.pem"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(AuthoritiesUnusable, match=str(path)):
        Authorities(str(path))


def test_unchecked(hub: Hub) -> None:
    """Any server will do, with one warning."""
    hub.scripted(on_request=yes)
    warnings: list[str] = []
    check = Unchecked(warnings.append)
    upstream = hub.upstream(check)

    for number in range(2):
        assert hub.result(upstream.put(Box.FIRST, f"{number}.ocs", b"x")) == 201

    (warning,) = warnings
    assert "is not checked" in warning
    assert pin(hub_pair().public) in warning


def test_unchecked_is_logged(hub: Hub) -> None:
    """By default the warning is in the log."""
    hub.scripted(on_request=yes)
    with capturedLogs() as events:
        put(hub, Unchecked())

    (event,) = [each for each in events if each.get("event") == "upstream.unchecked"]
    assert event["log_level"] is LogLevel.warn
    assert "hub.example.com:443" in event["text"]


class Broken:
    """A decision that fails."""

    authorities = None

    def judge(self, server: str, shown: ShownKey) -> ServerDecision:
        """Fail."""
        raise RuntimeError("a mistake")

    def keep(self, server: str, shown: ShownKey) -> ServerDecision:
        """Not asked."""
        raise AssertionError


def test_a_decision_that_fails(hub: Hub) -> None:
    """Is none: nothing is sent."""
    server = hub.scripted(on_request=yes)
    with capturedLogs() as events:
        error = refused(hub, Broken())

    assert error.code == "check-failed"
    assert server.got == b""
    assert [each for each in events if "log_failure" in each]


class Late(PinnedKeys):
    """Cannot keep what it has to."""

    def keep(self, server: str, shown: ShownKey) -> ServerDecision:
        """Fail."""
        raise OSError(28, "No space left on device")


def test_a_key_that_cannot_be_kept(hub: Hub) -> None:
    """Nothing is sent before it is kept."""
    server = hub.scripted(on_request=yes)

    error = hub.failure(
        hub.upstream(Late([hub_pair().public])).put(Box.FIRST, "a.ocs", b"x")
    )

    assert type(error) is Transient
    assert "No space left" in error.reason
    assert server.got == b""


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        ("tlsv1 alert unknown ca", True),
        ("sslv3 alert bad certificate", True),
        ("tlsv13 alert certificate required", True),
        ("tlsv1 alert internal error", False),
    ],
)
def test_the_server_does_not_take_our_certificate(words: str, ours: bool) -> None:
    """
    When the right server ends the handshake over a certificate, it is this node's own.
    """
    error = Failure(SSL.Error([("SSL routines", "", words)]))
    for trusted in (True, None):
        decision = ServerDecision(True, "known", "") if trusted else None
        handshake = _Handshake(
            PinnedKeys([pin(pair().public)]), "hub", decision=decision
        )
        connection = CheckedConnection(handshake, Clock())
        waiting = connection.wait(1)
        connection.connectionLost(error)
        text = failed(waiting)
        assert words in text
        assert ("this node's own certificate" in text) == bool(ours and trusted)


def failed(waiting: Deferred[None]) -> str:
    """What a Deferred has failed with."""
    errors: list[Failure] = []
    waiting.addErrback(errors.append)
    (error,) = errors
    return str(error.value)
