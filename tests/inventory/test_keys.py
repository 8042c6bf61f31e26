# SPDX-License-Identifier: MIT
"""
Keys and certificates that come in documents.
"""

from __future__ import annotations

import base64
import re

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from nodecomm.identity.keys import KeyPair, PublicKey
from nodecomm.inventory.document import read_document
from nodecomm.inventory.keys import (
    KeyRefused,
    pem_certificate,
    read_agent_key,
    read_certificate,
    read_public_key,
    same_node,
)
from nodecomm.inventory.model import Agent
from tests.identity import forgery
from tests.identity.sample import key, pair
from tests.inventory.documents import (
    DAY,
    NODE,
    OTHER_NODE,
    REAL,
    WRITTEN,
    certificate,
    real,
)

PEM = certificate(pair())


def agent(certificate: str | None = None, key: str | None = None) -> Agent:
    """
    An agent that brings these.
    """
    return Agent("cfengine-community", "8.3.1", certificate, key)


def code(found: Agent, node_id: str = NODE) -> str:
    """
    Why an agent's key is refused.
    """
    with pytest.raises(KeyRefused) as caught:
        read_agent_key(found, node_id)
    assert caught.value.refusal.element.startswith("RUDDER/AGENT/")
    return caught.value.refusal.code


def body(pem: str) -> str:
    """
    What is between the lines around a PEM block.
    """
    return "".join(line + "\n" for line in pem.splitlines() if "-----" not in line)


def spki(public: PublicKey) -> str:
    """
    A key as `BEGIN PUBLIC KEY`.
    """
    found = serialization.load_pem_public_key(public.to_pem())
    return found.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()


@pytest.mark.parametrize("name", REAL)
def test_real_keys(name: str) -> None:
    """
    Real certificates are read, name their node, and are signed with their own key;
    the key beside them is the same.
    """
    node_id, digest = REAL[name]
    found = read_document(real(name)[0])
    own = read_agent_key(found.agent, node_id.upper())

    assert own.key.md5 == digest
    assert own.certificate is not None
    assert own.certificate.node_ids == (node_id,)
    assert own.certificate.proves_possession()
    assert found.agent.key is not None
    assert read_public_key(found.agent.key) == own.key
    assert pem_certificate(found.agent.certificate or "").strip() == (
        found.agent.certificate
    )


@pytest.mark.parametrize(
    "text",
    [
        PEM,
        PEM.replace("\n", "\r\n"),
        PEM.replace("\n", " "),
        body(PEM),
        body(PEM).replace("\n", " "),
        f"some words\n{PEM}{certificate(pair(1))}",
        f"{PEM}-----BEGIN CERTIFICATE-----\nbroken",
    ],
)
def test_certificate_forms(text: str) -> None:
    """
    A certificate is read with the lines around it and without, the first of several.
    """
    found = read_agent_key(agent(text), NODE)

    assert found.key == key()
    assert pem_certificate(text) == PEM


@pytest.mark.parametrize("form", ["PKCS1", "SPKI"])
@pytest.mark.parametrize("change", ["none", "no lines around", "blanks", "CRLF"])
def test_key_forms(form: str, change: str) -> None:
    """
    A public key is read in both of its forms, with the lines around it and without.
    """
    pem = key().to_pem().decode() if form == "PKCS1" else spki(key())
    text = {
        "none": pem,
        "no lines around": body(pem),
        "blanks": pem.replace("\n", " "),
        "CRLF": pem.replace("\n", "\r\n"),
    }[change]
    found = read_agent_key(agent(key=text), NODE)

    assert found.key == key()
    assert found.certificate is None


def test_certificate_counts() -> None:
    """
    Where there is a certificate, a key beside it does not matter; and where it cannot
    be used, the key does not help.
    """
    other = key(1).to_pem().decode()

    assert read_agent_key(agent(PEM, other), NODE).key == key()
    assert code(agent("broken", other)) == "bad-certificate"


@pytest.mark.parametrize(
    "node_ids",
    [
        (None,),
        (OTHER_NODE,),
        (f'{NODE}" du',),
        (NODE[:-1],),
        ("",),
        (NODE, OTHER_NODE),
    ],
)
def test_wrong_subject(node_ids: tuple[str | None, ...]) -> None:
    """
    A certificate that does not name the node, or another one too, is refused.
    """
    first, *more = node_ids
    names = tuple((NameOID.USER_ID, str(x)) for x in more)
    if first == "":
        # Its subject has a name, but none of a node.
        first, names = None, ((NameOID.COMMON_NAME, NODE),)
    pem = certificate(pair(), first, names=names)

    assert code(agent(pem)) == "subject-mismatch"


@pytest.mark.parametrize("node_id", [NODE, NODE.upper(), f" {NODE} "])
def test_right_subject(node_id: str) -> None:
    """
    The case of the id and blanks around it make no difference, nor other names.
    """
    names = ((NameOID.COMMON_NAME, "node"), (NameOID.USER_ID, node_id.upper()))

    assert read_agent_key(agent(certificate(pair(), node_id, names=names)), NODE)
    assert same_node(node_id, NODE)
    assert not same_node(node_id, OTHER_NODE)


def test_possession() -> None:
    """
    Only a certificate that its own key has signed, with a hash that is still good,
    proves that someone has this key.
    """
    own = read_certificate(PEM)
    others = read_certificate(certificate(pair(), signer=pair(1)))
    better = read_certificate(certificate(pair(), algorithm=hashes.SHA512()))
    # The algorithm of the signature is SHA-1 where it said SHA-256.
    oid = bytes.fromhex("2a864886f70d01010b")
    weak = own.der.replace(oid, oid[:-1] + b"\x05")
    changed = own.der[:-1] + bytes([own.der[-1] ^ 1])

    assert own.proves_possession()
    assert better.proves_possession()
    assert not others.proves_possession()
    assert others.key == key()
    for der in (weak, changed):
        found = read_certificate(base64.b64encode(der).decode())
        assert not found.proves_possession()


def test_two_algorithms() -> None:
    """
    A certificate that names its signature's algorithm in two ways is none.
    """
    der = read_certificate(PEM).der
    oid = bytes.fromhex("2a864886f70d01010b")
    inner, outer = der.index(oid), der.rindex(oid)
    assert inner < outer

    for at in (inner, outer):
        changed = bytearray(der)
        changed[at + len(oid) - 1] += 1
        assert code(agent(base64.b64encode(changed).decode())) == "bad-certificate"


def test_a_signature_of_bits() -> None:
    """
    A certificate whose signature is no whole number of bytes is none.
    """
    own = read_certificate(PEM)
    changed = bytearray(own.der)
    changed[-len(own.signature) - 1] = 1

    assert code(agent(base64.b64encode(changed).decode())) == "bad-certificate"


def certificate_of(key: PublicKey) -> str:
    """
    A certificate of this node with any key, signed by another one.
    """
    name = x509.Name([x509.NameAttribute(NameOID.USER_ID, NODE)])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .serial_number(1)
        .not_valid_before(WRITTEN)
        .not_valid_after(WRITTEN + DAY)
        .public_key(rsa.RSAPublicNumbers(key.exponent, key.modulus).public_key())
        .sign(pair().private, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM).decode()


def test_insane_keys() -> None:
    """
    A key that could share its digest with another one is refused in both containers.
    """
    victim = KeyPair.load((forgery.KEYS / "plain.priv").read_bytes()).public
    forged = forgery.split(forgery.joined(victim), forgery.CUT)
    small = PublicKey((1 << 511) | 1, 3)

    for found in (forged, small):
        assert code(agent(key=found.to_pem().decode())) == "insane-key"
        assert code(agent(certificate_of(found))) == "insane-key"
    real_der = read_certificate(PEM).der
    even = real_der.replace(b"\x02\x03\x01\x00\x01", b"\x02\x03\x01\x00\x02")
    assert code(agent(base64.b64encode(even).decode())) in (
        "insane-key",
        "bad-certificate",
    )


def test_exponent_35() -> None:
    """
    Older programs make keys with the exponent 35.
    """
    old = PublicKey(key().modulus, 35)

    assert read_public_key(old.to_pem().decode()) == old


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no base64!",
        "AAAA",
        "-----BEGIN RSA PUBLIC KEY-----plop-----END RSA PUBLIC KEY-----",
        "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----",
        "\u2028\udcff",
        "-----BEGIN CERTIFICATE-----\n" * 2000,
        PEM.partition("-----END")[0],
        PEM.replace("A", "\u0410", 1),
    ],
)
def test_no_key_at_all(text: str) -> None:
    """
    What is no key is refused as such.
    """
    assert code(agent(key=text)) == "bad-key"
    assert code(agent(text or "x")) == "bad-certificate"


def test_one_for_the_other() -> None:
    """
    A key is no certificate and a certificate no key, nor is a key of another kind.
    """
    curve = ec.generate_private_key(ec.SECP256R1()).public_key()
    pem = curve.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()

    assert code(agent(key().to_pem().decode())) == "bad-certificate"
    assert code(agent(key=PEM)) == "bad-key"
    assert code(agent(key=pem)) == "bad-key"


@given(data=st.data())
@settings(max_examples=100)
def test_damaged_certificates(data: st.DataObject) -> None:
    """
    A changed certificate is read or refused, never another exception.
    """
    der = bytearray(read_certificate(PEM).der)
    for _ in range(data.draw(st.integers(1, 4))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(der)) | st.just(len(der)))
    text = base64.b64encode(der[:end]).decode()
    try:
        found = read_certificate(text)
    except KeyRefused as error:
        assert re.fullmatch("bad-certificate|insane-key", error.refusal.code)
    else:
        found.proves_possession()
        found.is_of(NODE)
