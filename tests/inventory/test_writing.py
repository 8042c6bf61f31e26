# SPDX-License-Identifier: MIT
"""
Documents that are written, and documents of others that are completed.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from datetime import datetime, timedelta, timezone
from itertools import cycle
from typing import Any, TypeVar, cast

import pytest
from attrs import evolve, fields_dict
from hypothesis import given, settings
from hypothesis import strategies as st

from nodecomm.inventory.document import read_document
from nodecomm.inventory.limits import DocumentRefused
from nodecomm.inventory.model import (
    Address,
    Agent,
    Bios,
    Filesystem,
    Hardware,
    Interface,
    Inventory,
    MemorySlot,
    OperatingSystem,
    Processor,
    Software,
    SoftwareUpdate,
    Storage,
)
from nodecomm.inventory.writing import (
    IncompleteDocument,
    NodeSection,
    complete_document,
    plain,
    write_inventory,
)
from tests.inventory.documents import REAL, real

T = TypeVar("T")

NOW = datetime(2026, 3, 1, 12, 30, 15, tzinfo=timezone(timedelta(hours=1)))

SECTION = NodeSection(
    node_id="e6cc8e97-01de-48bc-8fee-8f28970116d3",
    hostname="web1.example.com",
    owner="nt authority\\system",
    policy_server_id="root",
    policy_server_hostname="hub.example.com:5309",
    agent=Agent(
        "cfengine-community", "1.0", "-----BEGIN X-----\nAAAA\n-----END X-----"
    ),
    capabilities=("curl", "xml"),
    roles=("rudder-web",),
    properties=({"datacenter": "Montréal  2", "racks": [1, 2.5, None]},),
)

#: What a program that knows nothing of nodes writes, in short.
FOREIGN = """\
<?xml version="1.0" encoding="UTF-8" ?>
<REQUEST>
  <CONTENT>
    <ACCESSLOG>
      <LOGDATE>2026-02-03 04:05:06</LOGDATE>
    </ACCESSLOG>
    <BIOS>
      <SSN></SSN>
    </BIOS>
    <OPERATINGSYSTEM>
      <FULL_NAME>Debian GNU/Linux 12 (bookworm)</FULL_NAME>
      <KERNEL_NAME>linux</KERNEL_NAME>
      <KERNEL_VERSION>6.1.0-13-amd64</KERNEL_VERSION>
      <TIMEZONE>
        <NAME>CET</NAME>
        <OFFSET>+0100</OFFSET>
      </TIMEZONE>
    </OPERATINGSYSTEM>
    <PROCESSES>
      <CMD>cat &lt;/CONTENT&gt; <!-- </CONTENT> --><![CDATA[</CONTENT>]]></CMD>
    </PROCESSES>
  </CONTENT>
  <DEVICEID>web1-2026-02-03-04-05-06</DEVICEID>
  <QUERY>INVENTORY</QUERY>
</REQUEST>
"""

INVENTORY = Inventory(
    node_id=SECTION.node_id,
    device_id="web1-1",
    hostname=SECTION.hostname,
    owner=SECTION.owner,
    policy_server_id="root",
    agent=SECTION.agent,
    os=OperatingSystem(kernel_version="6.1", kernel_name="linux", offset="+0100"),
    written=NOW,
)


def text_of(document: bytes, path: str) -> list[str | None]:
    """
    The texts of the elements at a path below the root.
    """
    return [found.text for found in ET.fromstring(document).findall(path)]


#: What a document can carry, and what nobody should put into one.
anything = st.text(max_size=8)


class Drawn:
    """
    An inventory whose texts and numbers come round and round from a few drawn ones, so
    that each of them gets everywhere.
    """

    def __init__(self, texts: list[str], numbers: list[int]) -> None:
        self._texts = cycle(texts)
        self._numbers = cycle(numbers)

    def text(self) -> str | None:
        return plain(next(self._texts)) or None

    def number(self) -> int | None:
        found = next(self._numbers)
        return found if found >= 0 else None

    def word(self, start: str = "x") -> str:
        return plain(f"{start}{next(self._texts)}")

    def filled(self, value: T, *kept: str) -> T:
        """
        The value with every optional attribute filled, but those *kept*.
        """
        new = {
            name: self.number() if "int" in str(each.type) else self.text()
            for name, each in fields_dict(cast(Any, type(value))).items()
            if each.default is None and name not in kept
        }
        return cast(T, evolve(cast(Any, value), **new))

    def address(self, address: str, gateway: str | None) -> Address:
        return self.filled(Address(address, gateway=gateway), "gateway")

    def inventory(self, offset: str | None, quantity: int) -> Inventory:
        agent = Agent("cfengine-community", self.word(), self.word(), self.text())
        system = OperatingSystem(
            kernel_version=self.word(), kernel_name="linux", offset=offset
        )
        interfaces = (
            self.filled(
                Interface(
                    "eth0",
                    (
                        self.address("192.0.2.2", "192.0.2.1"),
                        self.address("fd00::2", None),
                    ),
                )
            ),
            self.filled(Interface(self.word("lo"))),
        )
        cpu = Processor(self.word(), quantity=quantity)
        value = self.word()
        return Inventory(
            node_id="A-1",
            device_id=self.word(),
            hostname="web1",
            owner=self.word(),
            policy_server_id=self.word(),
            agent=agent,
            os=self.filled(system, "kernel_name", "offset"),
            written=NOW,
            policy_server_hostname=self.text(),
            capabilities=("xml", "curl"),
            roles=(self.word("a"), self.word("b")),
            properties=({next(self._texts): [next(self._texts), {}]}, {"a": value}),
            hardware=self.filled(Hardware()),
            bios=self.filled(Bios()),
            interfaces=interfaces,
            processors=(self.filled(cpu), self.filled(Processor(self.word("y")))),
            filesystems=(
                self.filled(Filesystem(mount=self.word()), "mount"),
                self.filled(Filesystem(letter=self.word()), "letter"),
            ),
            storages=(self.filled(Storage(name=self.word()), "name"),),
            memories=(self.filled(MemorySlot(slot=self.word()), "slot"),),
            software=(
                self.filled(Software(self.word("a"))),
                self.filled(Software(self.word("b"))),
            ),
            updates=(self.filled(SoftwareUpdate(self.word())),),
            users=(self.word("a"), self.word("b")),
            client=self.text(),
        )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(anything, min_size=1, max_size=7),
    st.lists(st.integers(-1, 2**40), min_size=1, max_size=3),
    st.sampled_from([None, "+0100", "-0330", "+0000", "+9999", "odd"]),
    st.integers(1, 3),
)
def test_what_is_written_is_read(
    texts: list[str], numbers: list[int], offset: str | None, quantity: int
) -> None:
    """
    The reader finds what the writer was given, whatever the texts hold.
    """
    inventory = Drawn(texts, numbers).inventory(offset, quantity)

    assert read_document(write_inventory(inventory)) == inventory


@settings(max_examples=60, deadline=None)
@given(anything)
def test_any_text_is_carried(text: str) -> None:
    """
    Whatever a text holds, the document is XML and carries its plain form.
    """
    document = write_inventory(evolve(INVENTORY, device_id=f"x{text}"))

    assert text_of(document, "DEVICEID")[0] == plain(f"x{text}")
    assert plain(plain(text)) == plain(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a  b\t\tc", "a b c"),
        (" a \n", "a"),
        ("a\nb\r\nc", "a\nb\r\nc"),
        ("a\0b\x1bc", "a\\x00b\\x1bc"),
        ("caf\udce9", "caf\\xe9"),
        ("\ufffe", "\\xef\\xbf\\xbe"),
        ("nt authority\\system", "nt authority\\system"),
        ("\U0001f600 é", "\U0001f600 é"),
    ],
)
def test_texts_become_plain(text: str, shown: str) -> None:
    """
    Blanks are folded and what XML cannot carry is spelled; the rest stays.
    """
    assert plain(text) == shown


@pytest.mark.parametrize("name", REAL)
def test_real_documents_are_written_again(name: str) -> None:
    """
    What a server reads in a real document, it reads in what is written of that.
    """
    inventory = read_document(real(name)[0])

    assert read_document(write_inventory(inventory)) == inventory


@pytest.mark.parametrize("name", REAL)
def test_real_documents_are_completed(name: str) -> None:
    """
    A real document that has lost its section, and gets it again, says the same.
    """
    whole = real(name)[0]
    start = whole.index(b"    <RUDDER>")
    end = whole.index(b"</RUDDER>\n") + len(b"</RUDDER>\n")
    inventory = read_document(whole)

    completed = complete_document(
        whole[:start] + whole[end:], NodeSection.of(inventory), NOW
    )

    assert read_document(completed) == inventory


def test_empty_parts_are_left_out() -> None:
    """
    There is no element for what is not known.
    """
    document = write_inventory(INVENTORY)

    names = [each.tag for each in ET.fromstring(document).findall("CONTENT/*")]
    assert names == ["ACCESSLOG", "OPERATINGSYSTEM", "RUDDER"]


@pytest.mark.parametrize(
    ("offset", "date"),
    [
        ("+0100", "2026-03-01 12:30:15"),
        ("-0330", "2026-03-01 08:00:15"),
        (None, "2026-03-01 11:30:15"),
        ("nonsense", "2026-03-01 11:30:15"),
    ],
)
def test_the_date_is_in_the_zone_of_the_document(offset: str | None, date: str) -> None:
    """
    The date has no zone of its own: it is in the one that the document names, else UTC.
    """
    system = evolve(INVENTORY.os, offset=offset)

    document = write_inventory(evolve(INVENTORY, os=system))

    assert text_of(document, "CONTENT/ACCESSLOG/LOGDATE") == [date]


def test_a_replaced_name_is_not_written_as_the_own_one() -> None:
    """
    HOSTNAME is the machine's own name; the other one stands in the property.
    """
    properties = ({"rudder_override_hostname": "shop.example.com"},)
    inventory = evolve(
        INVENTORY,
        hostname="shop.example.com",
        original_hostname="web1",
        properties=properties,
    )

    document = write_inventory(inventory)

    assert text_of(document, "CONTENT/RUDDER/HOSTNAME") == ["web1"]
    assert read_document(document) == inventory


def test_properties_survive_readers_that_fold_blanks() -> None:
    """
    The JSON text of properties has no two blanks side by side, and says the same.
    """
    properties = ({"motto": "two  blanks,   three\tand a tab"},)

    document = write_inventory(evolve(INVENTORY, properties=properties))

    (text,) = text_of(document, "CONTENT/RUDDER/CUSTOM_PROPERTIES")
    assert text is not None
    assert text == plain(text)
    assert tuple(json.loads(text)) == properties


def test_a_foreign_document_is_completed() -> None:
    """
    The section is put at the end of CONTENT; nothing else changes.
    """
    document = FOREIGN.encode()

    completed = complete_document(document, SECTION, NOW)

    start = completed.index(b"    <RUDDER>")
    end = completed.index(b"</RUDDER>\n") + len(b"</RUDDER>\n")
    assert completed[:start] + completed[end:] == document
    assert completed[end:].startswith(b"  </CONTENT>\n  <DEVICEID>")
    found = read_document(completed)
    assert NodeSection.of(found) == SECTION
    assert found.written == datetime(2026, 2, 3, 3, 5, 6, tzinfo=timezone.utc)
    assert found.device_id == "web1-2026-02-03-04-05-06"


@pytest.mark.parametrize(
    ("encoding", "declared"), [("utf-8", "UTF-8"), ("iso-8859-1", "ISO-8859-1")]
)
def test_encodings(encoding: str, declared: str) -> None:
    """
    What is added is right in each encoding that has the letters of ASCII.
    """
    foreign = FOREIGN.replace("UTF-8", declared).replace("web1-2026", "Zoë-2026")

    found = read_document(complete_document(foreign.encode(encoding), SECTION, NOW))

    assert found.device_id == "Zoë-2026-02-03-04-05-06"
    assert found.properties == SECTION.properties


def test_line_ends_are_kept() -> None:
    """
    A document in lines that end in CR LF stays one.
    """
    document = FOREIGN.replace("\n", "\r\n").encode()

    completed = complete_document(document, SECTION, NOW)

    assert completed.count(b"\n") == completed.count(b"\r\n")
    assert NodeSection.of(read_document(completed)) == SECTION


@pytest.mark.parametrize("has_zone", [True, False])
def test_a_missing_date_is_added(has_zone: bool) -> None:
    """
    A document without a date gets one: in its zone if it names one, else in UTC.
    """
    document = FOREIGN.replace("<LOGDATE>2026-02-03 04:05:06</LOGDATE>", "")
    if not has_zone:
        document = document.replace("<OFFSET>+0100</OFFSET>", "")

    completed = complete_document(document.encode(), SECTION, NOW)

    date = "2026-03-01 12:30:15" if has_zone else "2026-03-01 11:30:15"
    assert text_of(completed, "CONTENT/ACCESSLOG/LOGDATE") == [date]


COMPLETE = complete_document(FOREIGN.encode(), SECTION, NOW).decode()


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ("", "no XML"),
        ("<REQUEST>", "no XML"),
        ("<html/>", "no one element REQUEST/CONTENT"),
        ("<REQUEST><CONTENT/></REQUEST>", "is empty"),
        (
            "<REQUEST><CONTENT>a</CONTENT><CONTENT>b</CONTENT></REQUEST>",
            "no one element REQUEST/CONTENT",
        ),
        (COMPLETE, "has a section RUDDER already"),
        (
            FOREIGN.replace("<BIOS>", "<BIOS><RUDDER/>"),
            "has a section RUDDER already",
        ),
        ("<!DOCTYPE REQUEST []>" + FOREIGN.partition("\n")[2], "document type"),
        (FOREIGN.replace("UTF-8", "UTF-16"), "UTF-16"),
        (FOREIGN.replace("UTF-8", "Shift_JIS"), "Shift_JIS"),
        ("<a>" * 65 + "</a>" * 65, "more than 64 elements"),
    ],
)
def test_documents_that_cannot_be_completed(document: str, reason: str) -> None:
    """
    What is no document of a machine, or is one of a node already, is refused.
    """
    with pytest.raises(IncompleteDocument, match=reason):
        complete_document(document.encode(), SECTION, NOW)


def test_utf_16_is_refused() -> None:
    """
    What would be added in other bytes than the rest is not added.
    """
    with pytest.raises(IncompleteDocument, match="UTF-16"):
        complete_document(FOREIGN.encode("utf-16"), SECTION, NOW)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60), st.integers(0, len(FOREIGN)), st.integers(0, 60))
def test_damaged_documents(rubbish: bytes, at: int, cut: int) -> None:
    """
    A damaged document is refused, or what comes out has the one section.
    """
    whole = FOREIGN.encode()
    document = whole[:at] + rubbish + whole[at + cut :]
    try:
        completed = complete_document(document, SECTION, NOW)
    except IncompleteDocument:
        return
    try:
        assert NodeSection.of(read_document(completed)) == SECTION
    except DocumentRefused as error:
        assert error.refusal.code != "not-xml"
        assert "RUDDER" not in error.refusal.element
