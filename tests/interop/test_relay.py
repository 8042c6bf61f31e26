# SPDX-License-Identifier: MIT
"""
The relay sees what the real programs say, and changes nothing of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from scripts.record_exchange import (
    CASES,
    CLASSIC_CASES,
    RUN_CASES,
    record,
    record_classic,
    record_run,
)
from tests.interop.harness import RealAgent, Server
from tests.interop.prepared import public_folder
from tests.interop.relay import Relay
from tests.interop.trees import described
from tests.recorded import Record, load
from tests.recorded.opened import Opened, opened, opened_exchange


@pytest.mark.parametrize("protocol", [2, 3])
def test_the_wished_version_is_spoken(
    server: Server,
    scratch: tuple[Path, str],
    agent: RealAgent,
    tmp_path: Path,
    protocol: int,
) -> None:
    """
    The server announces version 3; an agent whose policy says 2 speaks 2, and its
    copy is whole.
    """
    tree, name = scratch
    (tree / "file").write_bytes(b"file\n")
    with Relay("127.0.0.1", server.port) as relay:
        done = agent.copy(
            "127.0.0.1",
            relay.port,
            name,
            tmp_path / "copy",
            protocol_version=str(protocol),
        )

    assert described(tmp_path / "copy") == described(tree), done.output
    (records,) = relay.connections
    assert records[0].sender == "server"
    assert records[0].data.startswith(b"CFE_v3 ")
    assert records[1].data.startswith(b"CFE_v%d cf-agent" % protocol)


def test_what_was_recorded_is_still_so(tmp_path: Path) -> None:
    """
    The installed programs still say what the recorded exchange says.
    """
    again = record(CASES["net-get"], tmp_path)
    before = load("net-get")

    def steady(records: Sequence[Record]) -> list[tuple[str, bytes]]:
        # Times and the file system's own numbers differ, and with them lengths.
        return [(r.sender, re.sub(rb"\d+\0*", b"#", r.data)) for r in records]

    assert steady(again.records) == steady(before.records)


def test_what_was_recorded_of_a_run_is_still_so(tmp_path: Path) -> None:
    """
    The installed programs still ask for runs, and answer, as was recorded.
    """
    again = record_run(RUN_CASES["both"], tmp_path)
    before = load("exec/both")

    def steady(records: Sequence[Record]) -> list[tuple[str, bytes]]:
        # The command is in another folder, which may have a longer name.
        return [
            (r.sender, re.sub(rb"/\S+/run/|^t \d+\0+", b"", r.data)) for r in records
        ]

    assert steady(again.records) == steady(before.records)


@pytest.mark.parametrize("name", ["copy-n", "copy-encrypted-y", "untrusted-client"])
def test_what_was_recorded_of_the_classic_protocol_is_still_so(name: str) -> None:
    """
    The installed programs still do in the classic protocol what they did.
    """
    with public_folder() as folder:
        again = opened_exchange(record_classic(CLASSIC_CASES[name], folder))
    before = opened(f"classic/{name}")

    def steady(found: Opened) -> tuple[object, ...]:
        # A folder has no order, and the client's time differs.
        asked = [found.clear(request) for request in found.requests]
        return (
            found.form,
            [len(payload) for payload in found.dialog],
            found.answers[:1],
            [len(answer) for answer in found.answers],
            sorted(re.sub(rb"SYNCH \d+", b"SYNCH", request) for request in asked),
        )

    assert steady(again) == steady(before)
