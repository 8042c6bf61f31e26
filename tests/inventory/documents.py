# SPDX-License-Identifier: MIT
"""
Documents to test with: small ones, each as odd as a test needs it; and real ones.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from nodecomm.identity.keys import KeyPair, PublicKey

SAMPLES = Path(__file__).parent / "samples"

#: The real documents, each with its signature beside it, and what is known of them.
REAL = {
    "6.0/dev-www-2bb4e01b-be7e-4c9e-9c30-177aada44869.ocs": (
        "2bb4e01b-be7e-4c9e-9c30-177aada44869",
        "MD5=0633fcfe721944ef852ba909e53e016e",
    ),
    "8.0/debian12.ocs": (
        "e6cc8e97-01de-48bc-8fee-8f28970116d3",
        "MD5=5c4876aae15e937232263f2d440735ac",
    ),
}

NODE = "b9a71482-5030-4699-984d-b03d28bbbf36"
OTHER_NODE = "0a0f4a80-3c0d-4f7d-8a35-7e2d6b8a1c11"

#: When the small documents are written, unless a test says otherwise.
WRITTEN = datetime(2024, 3, 21, 16, 7, 29, tzinfo=timezone.utc)

DAY = timedelta(days=1)


def real(name: str) -> tuple[bytes, bytes]:
    """
    A real document and its signature's file. Source archives have none.
    """
    path = SAMPLES / name
    if not path.exists():
        pytest.skip("the real samples are not in source archives")
    return path.read_bytes(), path.with_name(path.name + ".sign").read_bytes()


def certificate(
    pair: KeyPair,
    node_id: str | None = NODE,
    *,
    signer: KeyPair | None = None,
    algorithm: hashes.SHA256 | hashes.SHA512 | None = None,
    names: tuple[tuple[x509.ObjectIdentifier, str], ...] = (),
) -> str:
    """
    A node's certificate in PEM form.

    Args:
        pair: Its key.
        node_id: The UID of its subject; None for none.
        signer: Whose signature it has, its own by default.
        algorithm: The hash of that signature.
        names: What else is in the subject.
    """
    own = () if node_id is None else ((NameOID.USER_ID, node_id),)
    subject = x509.Name([x509.NameAttribute(*x) for x in (*own, *names)])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .serial_number(1)
        .not_valid_before(WRITTEN - 9000 * DAY)
        .not_valid_after(WRITTEN - 8000 * DAY)
        .public_key(pair.private.public_key())
        .sign((signer or pair).private, algorithm or hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM).decode()


def element(name: str, *content: str | None) -> str:
    """
    An element with this content, which is XML already; nothing for None.
    """
    if None in content:
        return ""
    return f"<{name}>{''.join(map(str, content))}</{name}>"


def agent(
    *,
    name: str | None = "cfengine-community",
    certificate: str | None = None,
    key: PublicKey | str | None = None,
    owner: str | None = "root",
    server: str | None = "root",
    more: str = "",
) -> str:
    """
    An AGENT. None leaves an element out.
    """
    pem = key.to_pem().decode() if isinstance(key, PublicKey) else key
    parts = {
        "AGENT_NAME": name,
        "AGENT_CERT": certificate,
        "CFENGINE_KEY": pem,
        "OWNER": owner,
        "POLICY_SERVER_UUID": server,
    }
    inside = (element(x, escape(text)) for x, text in parts.items() if text is not None)
    return element("AGENT", *inside, more)


def rudder(
    *agents: str,
    node_id: str | None = NODE,
    hostname: str | None = "node.example.com",
    version: str | None = "8.3.1",
    more: str = "",
) -> str:
    """
    A RUDDER section, with an agent that has no usable key unless agents are given.
    """
    return element(
        "RUDDER",
        *(agents or (agent(certificate="none"),)),
        element("AGENT_VERSION", version),
        element("HOSTNAME", hostname),
        element("UUID", node_id),
        more,
    )


SYSTEM = (
    "<FULL_NAME>Debian GNU/Linux 12 (bookworm)</FULL_NAME><KERNEL_NAME>linux"
    "</KERNEL_NAME><KERNEL_VERSION>6.1.0-13-amd64</KERNEL_VERSION><NAME>Debian</NAME>"
)


def document(
    *sections: str,
    system: str | None = SYSTEM,
    written: datetime | str | None = WRITTEN,
    device_id: str | None = "node-2024-03-21-16-07-29",
    head: str = '<?xml version="1.0" encoding="UTF-8" ?>\n',
    more: str = "",
) -> bytes:
    """
    A document with these sections, by default one RUDDER as `rudder` makes it.
    """
    date = written
    if isinstance(written, datetime):
        date = written.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
    log = None if date is None else element("LOGDATE", str(date))
    content = element(
        "CONTENT",
        element("ACCESSLOG", log),
        element("OPERATINGSYSTEM", system),
        *(sections or (rudder(),)),
    )
    device = element("DEVICEID", device_id)
    text = element("REQUEST", content, device, "<QUERY>INVENTORY</QUERY>", more)
    return (head + text + "\n").encode()


def node_document(
    pair: KeyPair,
    written: datetime = WRITTEN,
    *,
    node_id: str = NODE,
    key_alone: bool = False,
    pem: str | None = None,
    more: str = "",
) -> bytes:
    """
    The document of a node with a key, in a certificate unless *key_alone*.
    """
    if key_alone:
        own = agent(key=pair.public)
    else:
        own = agent(certificate=pem or certificate(pair, node_id))
    return document(rudder(own, node_id=node_id, more=more), written=written)
