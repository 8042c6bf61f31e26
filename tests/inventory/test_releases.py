# SPDX-License-Identifier: MIT
"""
Documents and signatures as the agents of several releases make them.

Source: the RUDDER sections, dates and signature files of Rudder 6.0 to 9.0, on Linux
and on Windows.
"""

from __future__ import annotations

from datetime import timedelta

import pytest

from nodecomm.identity.keys import PublicKey
from nodecomm.inventory.judgement import Outcome, judge_files
from nodecomm.inventory.model import AGENT_COMMUNITY, AGENT_WINDOWS
from nodecomm.inventory.signature import sign
from tests.identity.sample import key, pair
from tests.inventory.documents import (
    NODE,
    WRITTEN,
    agent,
    certificate,
    document,
    rudder,
)

LINUX = (
    "<ARCH>x86_64</ARCH><FQDN>node1..</FQDN><FULL_NAME>CentOS Linux 7</FULL_NAME>"
    "<KERNEL_NAME>linux</KERNEL_NAME><KERNEL_VERSION>3.10.0-862</KERNEL_VERSION>"
    "<NAME>CentOS</NAME><TIMEZONE>\n  <NAME>CET</NAME>\n  <OFFSET>+0100</OFFSET>\n"
    "</TIMEZONE><VERSION>7.5</VERSION>"
)

WINDOWS = (
    "<ARCH>64-bit</ARCH>\n      <DNS_DOMAIN>WORKGROUP</DNS_DOMAIN>\n"
    "      <FQDN>agent1</FQDN>\n      <FULL_NAME>Microsoft Windows Server 2025"
    " Datacenter Evaluation</FULL_NAME>\n      <KERNEL_NAME>MSWin32</KERNEL_NAME>\n"
    "      <KERNEL_VERSION>10.0.26100</KERNEL_VERSION>\n      <NAME>Windows</NAME>\n"
    "      <SERVICE_PACK />  <SSH_KEY>ssh-rsa AAAA</SSH_KEY>\n      <TIMEZONE>\n"
    "        <NAME>America/Los_Angeles</NAME>\n        <OFFSET>-0800</OFFSET>\n"
    "      </TIMEZONE>\n      <VERSION>2009</VERSION>"
)

#: What tells the agent's release before there is an element for it.
PACKAGES = {
    AGENT_COMMUNITY: ("rudder-agent", "6.0.4.release-1.EL.7"),
    AGENT_WINDOWS: ("<![CDATA[Rudder Agent (DSC)]]>", "8.2.2"),
}


def one_line(pem: str) -> str:
    """
    A certificate's base64 alone, in lines of another length.
    """
    body = "".join(pem.split("\n")[1:-2])
    return "\n".join(body[at : at + 80] for at in range(0, len(body), 80))


@pytest.mark.parametrize(
    ("kind", "pem", "own", "version", "hours"),
    [
        ("cfengine-community", None, key(), None, 1),  # a key alone
        ("cfengine-community", certificate(pair()), key(), None, 1),  # 6.0
        ("cfengine-community", certificate(pair()), None, None, 1),  # 6.0
        ("cfengine-community", certificate(pair()), key(), "7.3.4", None),  # 8.0
        ("cfengine-community", certificate(pair()), key(), "9.0.0", 1),
        ("dsc", certificate(pair(), NODE.upper()), "", None, -8),  # 8.2
        ("dsc", one_line(certificate(pair())), "", "8.3.1", -8),
    ],
)
def test_releases(
    kind: str,
    pem: str | None,
    own: PublicKey | str | None,
    version: str | None,
    hours: int | None,
) -> None:
    """
    Each is read and believed, with its key, its date and the agent's release.
    """
    windows = kind == "dsc"
    name, packaged = PACKAGES[AGENT_WINDOWS if windows else AGENT_COMMUNITY]
    owner = "nt authority\\system" if windows else "root"
    hostname = "" if windows else "node1.example.com"
    system = WINDOWS if windows else LINUX
    zone = timedelta(hours=hours or 0)
    data = document(
        "<NETWORKS>\n  <DESCRIPTION>eth0</DESCRIPTION>\n  <IPADDRESS>192.0.2.7"
        "</IPADDRESS>\n  <SPEED>1000</SPEED>\n</NETWORKS>",
        rudder(
            agent(name=kind, certificate=pem, key=own, owner=owner),
            hostname=hostname,
            version=version,
            more="<AGENT_CAPABILITIES><AGENT_CAPABILITY>curl</AGENT_CAPABILITY>"
            "</AGENT_CAPABILITIES><CUSTOM_PROPERTIES>[]</CUSTOM_PROPERTIES>",
        ),
        f"<SOFTWARES><NAME>{name}</NAME><VERSION>{packaged}</VERSION></SOFTWARES>",
        "<VERSIONPROVIDER><COMMENTS>a</COMMENTS><COMMENTS>b</COMMENTS>"
        "</VERSIONPROVIDER>",
        system=system if hours else system.replace("OFFSET", "NOTHING"),
        written=WRITTEN + zone,
    )
    signature = sign(data, pair(), hostname="NODE")
    if windows:
        data = data.replace(b"\n", b"\r\n")
        signature = sign(
            data, pair(), key_date="2025-03-12 05:19:37.7738616 -07:00"
        ).removesuffix(b"\n") + (b"\r\n")

    found = judge_files(data, signature, lambda _: None, WRITTEN)

    assert found.refusal is None
    assert found.outcome is Outcome.TAKEN
    assert found.key is not None
    assert (found.key.key, found.signer) == (key(), key())
    assert found.inventory is not None
    made = found.inventory.agent
    assert made.version == (version or packaged)
    assert made.name == (AGENT_WINDOWS if windows else AGENT_COMMUNITY)
    assert found.inventory.owner == owner
    assert found.inventory.hostname == ("agent1" if windows else hostname)
    assert found.inventory.written == WRITTEN
