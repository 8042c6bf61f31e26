# SPDX-License-Identifier: MIT
"""
`nodecomm run` with 300 nodes, of which many are in a bad way. What is looked at is the
order in which things happen, never how long they take.
"""

from __future__ import annotations

import getpass
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.forking import Forked
from tests.interop.crowd import address_of
from tests.interop.syncing import SyncAgent
from tests.ports import free_port

#: Each kind comes as often as this says, spread among the others.
KINDS = {"good": 240, "slow": 20, "refusing": 20, "dead": 15, "mute": 5}

#: Prints a line; a slow one then one more again and again until it may end, so that it
#: is not taken for silent.
COMMAND = """\
#!/bin/sh
echo begins
if [ "$1" = slow ]
then
    while [ ! -e "${0%/*}/go" ]; do echo waits; sleep 1; done
fi
echo ends
"""


#: `nodecomm run` that waits longer for the silent ones: however busy the machine is, it
#: is the interrupt that ends that.
ASK = """\
import sys
from nodecomm.cli import main, run
run._CONNECT = 600.0
sys.exit(main.main())
"""


@pytest.fixture
def crowd(tmp_path: Path) -> Iterator[dict[str, str]]:
    """
    300 nodes in a process; each with its kind.
    """
    command = tmp_path / "command"
    command.write_text(COMMAND)
    command.chmod(0o755)
    nodes = tmp_path / "nodes"
    nodes.mkdir()
    kinds = [kind for kind, count in KINDS.items() for _ in range(count)]
    # 7 has no divisor in common with their number, so that each comes once.
    kinds = [kinds[7 * number % len(kinds)] for number in range(len(kinds))]
    port = free_port()
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.interop.crowd", str(nodes), str(port)),
                *(str(command), getpass.getuser(), "0", *kinds),
            ],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        ) as process,
    ):
        assert process.stdout is not None
        listens = process.stdout.readline() == b"listening\n"
        assert listens, (tmp_path / "log").read_text()
        yield {f"{address_of(n)}:{port}": kind for n, kind in enumerate(kinds)}
        # What waits ends, and with it the threads that wait for it.
        (tmp_path / "go").touch()


def test_none_is_held_up_by_another(crowd: dict[str, str], tmp_path: Path) -> None:
    """
    300 nodes are asked at once. Those that do what they should have all ended, and
    those that refuse or are not there have all been told, while the slow ones still run
    and the silent ones still say nothing. The slow ones end well when they come to it;
    an interrupt ends the wait for the others, which are told too.
    """
    node = SyncAgent(tmp_path / "asking")
    process = Forked(
        [
            *(sys.executable, "-c", ASK, "run", "--json", "--timeout", "600"),
            *("--state-dir", str(node.state), "--trust-server", *crowd),
        ],
        env=node.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    ended: dict[str, dict[str, Any]] = {}
    lines: Counter[str] = Counter()
    summary: dict[str, Any] = {}
    with process:
        assert process.stdout is not None
        for text in process.stdout:
            fact = json.loads(text)
            if fact["event"] == "line":
                lines[fact["host"]] += 1
            elif fact["event"] == "end":
                ended[fact["host"]] = fact
                found = Counter(crowd[host] for host in ended)
                if not (tmp_path / "go").exists():
                    assert not found["slow"] and not found["mute"], fact
                quick = ("good", "refusing", "dead")
                if all(found[kind] == KINDS[kind] for kind in quick):
                    (tmp_path / "go").touch()
                if len(ended) == len(crowd) - KINDS["mute"]:
                    process.send_signal(signal.SIGINT)
            elif fact["event"] == "summary":
                summary = fact

    assert summary["nodes"] == len(crowd) == len(ended)
    assert summary["done"] == KINDS["good"] + KINDS["slow"]
    assert process.returncode == 130
    expected = {
        "good": {None},
        "slow": {None},
        "refusing": {"refused"},
        "dead": {"connection-refused"},
        "mute": {"interrupted"},
    }
    for kind, codes in expected.items():
        told = [end for host, end in ended.items() if crowd[host] == kind]
        assert {(end["error"] or {}).get("code") for end in told} == codes, kind
        assert {end["exit_code"] for end in told} == {None if codes - {None} else 0}
    for host, kind in crowd.items():
        assert lines[host] == ended[host]["lines"]
        assert lines[host] >= {"good": 2, "slow": 3}.get(kind, 0)
