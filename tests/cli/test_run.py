# SPDX-License-Identifier: MIT
"""
`nodecomm run`: its command line, and what it prints.
"""

from __future__ import annotations

import codecs
import io
import json
import re
import resource
import textwrap
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.python import usage

from nodecomm.cli.hosts import label, read_hosts, without_duplicates
from nodecomm.cli.main import run as nodecomm
from nodecomm.cli.run import Options, bounded
from nodecomm.cli.run_report import (
    JSONReport,
    Outcome,
    TextReport,
    fleet_status,
    line_text,
)
from nodecomm.cli.statuses import Status
from nodecomm.client.address import ServerAddress
from nodecomm.client.errors import (
    ConnectionBroken,
    Refused,
    Unreachable,
    UntrustedServer,
)
from nodecomm.client.executing import ExecutionDenied
from nodecomm.client.fleet import NodeResult
from nodecomm.identity.servers import ServerKeyStore, ServerTrust
from nodecomm.wire.execute import CLASS_DENIED
from nodecomm.wire.replies import REFUSAL
from nodecomm.wire.text import from_text
from tests.identity.sample import key

WEB, OTHER = ServerAddress("web"), ServerAddress("other", 5309)


def parse(*words: str) -> Options:
    """
    What these words say.
    """
    options = Options()
    options.parseOptions(list(words))
    return options


class TestOptions:
    """
    The command line.
    """

    def test_all_of_them(self, tmp_path: Path) -> None:
        """
        Everything that can be said, in any order.
        """
        hosts = tmp_path / "hosts"
        hosts.write_text("# all\nweb2\n\n  [::1]:5309  # six\n")
        words = "web -D a,b web1:1 -D c -s linux,x86.* --remote-bundles d,e"
        more = "--parallel 5 --max-duration 1h30m --output-limit 99 -t 7 -u root -i"
        others = tmp_path / "others"
        others.write_bytes(codecs.BOM_UTF8 + b"web3:2\r\nweb4\r\n")
        files = ["--hosts-from", str(hosts), "-f", str(others)]
        options = parse(*words.split(), *more.split(), *files)

        assert [str(server) for server in options.servers] == [
            "web:5308",
            "web1:1",
            "web2:5308",
            "[::1]:5309",
            "web3:2",
            "web4:5308",
        ]
        assert options.defined == [b"a", b"b", b"c"]
        assert options.selected == [b"linux", b"x86.*"]
        assert options.bundles == [b"d", b"e"]
        limits = (options.parallel, options.max_duration, options.output_limit)
        assert limits == (5, 5400.0, 99)
        assert (options.timeout, options.user) == (7.0, b"root")

    def test_defaults(self) -> None:
        """
        What is not said.
        """
        options = parse("web")

        assert (options.parallel, options.max_duration) == (300, 3600.0)
        assert (options.timeout, options.output_limit) == (300.0, 10 << 20)
        assert (options.defined, options.bundles, options.selected) == ([], [], [])

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            ([], "which HOST"),
            (["https://web"], "is a URL: write web or web:PORT"),
            (["[::1"], "is not [ADDRESS] or [ADDRESS]:PORT"),
            (["-H", "web"], "nodecomm run HOST"),
            (["-X", "web"], "option -X not recognized"),
            (["web:x"], "the port must be a number"),
            (["web", "-D", "a;b"], "a;b"),
            (["web", "-D", "a,,b"], "class to define"),
            (["web", "-D", ""], "class to define"),
            (["web", "--remote-bundles", "a b"], "bundle"),
            (["web", "-s", "a b"], "class to select"),
            (["web", "-s", "x" * 300], "255 bytes"),
            (["web", "-D", "x" * 5000], "fewer classes"),
            (["web", "--parallel", "0"], "--parallel"),
            (["web", "--parallel", "many"], "--parallel"),
            (["web", "--output-limit", "-1"], "--output-limit"),
            (["web", "--max-duration", "soon"], "--max-duration"),
            (["web", "--max-duration", "0s"], "--max-duration"),
            (["web", "--timeout", "0"], "--timeout"),
            (["web", "-i", "--trust-server"], "give one of the two"),
            (["web", "--protocol", "classic"], "speaks TLS only"),
            (["--hosts-from", "/nowhere"], "/nowhere: No such file"),
            (["--hosts-from", "/dev/null"], "--hosts-from names none"),
        ],
    )
    def test_mistakes(self, words: list[str], told: str) -> None:
        """
        What is wrong is told before anybody is called.
        """
        with pytest.raises(usage.UsageError) as raised:
            parse(*words)
        assert told in str(raised.value)

    def test_program(self) -> None:
        """
        A wrong command line is status 2 and one line, for programs too.
        """
        out, err = io.StringIO(), io.StringIO()

        assert nodecomm(["run", "--json", "web", "-D", "a b"], out, err) == 2
        assert json.loads(out.getvalue())["error"]["code"] == "usage"
        assert out.getvalue().count("\n") == 1
        assert err.getvalue().startswith("error: class to define 'a b': ")

    def test_no_key(self, tmp_path: Path) -> None:
        """
        Without a key of this machine's own nobody is called.
        """
        out, err = io.StringIO(), io.StringIO()
        words = ["run", "--json", "web", "--state-dir", str(tmp_path)]

        assert nodecomm(words, out, err) == 1
        assert json.loads(out.getvalue())["error"]["code"] == "own-key"
        assert "nodecomm key generate --state-dir" in err.getvalue()


class TestHosts:
    """
    Lists of nodes.
    """

    def test_mistakes(self, tmp_path: Path) -> None:
        """
        Every wrong line is told with file and number; of very many the first.
        """
        path = tmp_path / "hosts"
        path.write_bytes(
            b"good\nbad host\nweb:99999\n\xff\n" + b"x" * 9000 + b"\nweb\n"
        )
        with pytest.raises(usage.UsageError) as raised:
            read_hosts(str(path))
        text = str(raised.value)
        for number in (2, 3, 5):
            assert f"{path}:{number}: " in text
        assert "write one a line" in text
        path.write_text("a b\n" * 1000)
        with pytest.raises(usage.UsageError) as raised:
            read_hosts(str(path))
        assert str(raised.value).count(str(path)) == 10

    def test_standard_input(self) -> None:
        """
        `-` is standard input.
        """
        stdin = io.TextIOWrapper(io.BytesIO(b"one\ntwo:1 # second\n"))
        with mock.patch("sys.stdin", stdin):
            assert read_hosts("-") == [ServerAddress("one"), ServerAddress("two", 1)]
        with mock.patch("sys.stdin", None), pytest.raises(usage.UsageError):
            read_hosts("-")

    def test_twice(self) -> None:
        """
        A node that is named twice is there once, where it came first.
        """
        once, twice = without_duplicates([WEB, OTHER, WEB, WEB])

        assert (once, twice) == ([WEB, OTHER], [WEB])

    def test_labels(self) -> None:
        """
        The usual port is not told.
        """
        labels = [label(WEB), label(OTHER), label(ServerAddress("::1"))]
        assert labels == ["web", "other:5309", "::1"]


class TestBounded:
    """
    How many at a time.
    """

    @pytest.mark.parametrize(
        ("soft", "hard", "parallel", "nodes", "found"),
        [
            (1024, 4096, 300, 1000, 300),
            (1024, 4096, 300, 10, 10),
            (256, 4096, 300, 1000, 300),
            (256, 256, 300, 1000, 96),
            (256, 464, 300, 1000, 200),
            (20, 20, 300, 1000, 1),
            (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 9999, 9999, 9999),
            (256, resource.RLIM_INFINITY, 9999, 9999, 9999),
        ],
    )
    def test_descriptors(
        self, soft: int, hard: int, parallel: int, nodes: int, found: int
    ) -> None:
        """
        As many as are wanted and there, and as there are descriptors for, of which
        more are taken when that is allowed.
        """
        with (
            mock.patch.object(resource, "getrlimit", return_value=(soft, hard)),
            mock.patch.object(resource, "setrlimit"),
        ):
            assert bounded(parallel, nodes) == found

    def test_not_more_descriptors(self) -> None:
        """
        Where they are refused all the same, those that are there count.
        """
        with (
            mock.patch.object(resource, "getrlimit", return_value=(256, 4096)),
            mock.patch.object(resource, "setrlimit", side_effect=ValueError),
        ):
            assert bounded(300, 1000) == 96


class Printed:
    """
    A printer that keeps what it is given.
    """

    def __init__(self) -> None:
        self.text = ""
        self.shown: list[str] = []

    def put(self, owner: object, text: str) -> Deferred[None] | None:
        """Kept."""
        del owner
        self.text += text
        return None

    def status(self, text: str) -> None:
        """Kept."""
        self.shown.append(text)


def denied(code: str) -> ExecutionDenied:
    """
    What a node says that runs nothing.
    """
    return ExecutionDenied(code, b"EXEC denied", ())


RESULTS: list[tuple[NodeResult, str, int]] = [
    (NodeResult(WEB, exit_code=0), "", 0),
    (NodeResult(WEB, exit_code=3), "exit-code", 1),
    (NodeResult(WEB), "no-exit-code", 1),
    (NodeResult(WEB, cut=True), "output-limit", 1),
    (NodeResult(WEB, stopped=True), "interrupted", 1),
    (NodeResult(WEB, error=Unreachable("no-route", "x")), "no-route", 3),
    (NodeResult(WEB, error=ConnectionBroken("timeout", "x")), "timeout", 3),
    (NodeResult(WEB, error=ConnectionBroken("duration", "x")), "duration", 3),
    (
        NodeResult(WEB, error=UntrustedServer("key-unknown", "x", WEB, None)),
        "key-unknown",
        4,
    ),
    (NodeResult(WEB, error=Refused("refused", b"EXEC", REFUSAL)), "refused", 5),
    (
        NodeResult(WEB, error=ExecutionDenied("class-match", CLASS_DENIED, ())),
        "class-match",
        5,
    ),
    (NodeResult(WEB, error=denied("role")), "role", 5),
    (NodeResult(WEB, error=OSError(28, "No space left")), "io", 1),
]


class TestDocs:
    """
    The page about remote runs.
    """

    PAGE = Path(__file__).parents[2] / "docs" / "remote-run.rst"

    def test_configurations(self, tmp_path: Path) -> None:
        """
        The configurations on the page can be used.
        """
        found = re.findall(
            r"\.\. code-block:: toml\n\n((?:   .*\n|\n)+)", self.PAGE.read_text()
        )
        for number, text in enumerate(found):
            path = tmp_path / f"{number}.toml"
            path.write_text(textwrap.dedent(text))
            out, err = io.StringIO(), io.StringIO()

            assert nodecomm(["config", "check", str(path)], out, err) == 0
        assert len(found) == 2

    def test_codes(self) -> None:
        """
        Each word for why there is no exit code that only this command has is told.
        """
        page = self.PAGE.read_text()
        for _, code, _ in RESULTS:
            if code not in ("", "exit-code", "no-route", "io"):
                assert f"``{code}``" in page
        for code in ("role", "bundle", "arguments", "not-selected"):
            assert f"``{code}``" in page


class TestReports:
    """
    What is printed.
    """

    def text(self, **options: Any) -> tuple[TextReport, Printed]:
        """
        A report for people.
        """
        printed: Any = Printed()
        return TextReport(printed, 2, 1000, **options), printed

    def test_lines(self) -> None:
        """
        Each line has its node before it, and nothing in it that a terminal acts on.
        """
        report, printed = self.text()
        report.line(WEB, b"plain \xc3\xa4\tb")
        report.line(OTHER, b"\x1b[2J\r\x07 \xff\xc2\x9b \\ \xe2\x80\xae")
        report.line(WEB, b"")

        assert printed.text == (
            "web: plain \u00e4\tb\n"
            "other:5309: \\x1b[2J\\x0d\\x07 \\xff\\xc2\\x9b \\\\ \\xe2\\x80\\xae\n"
            "web: \n"
        )

    @given(st.binary(max_size=60))
    def test_any_line(self, data: bytes) -> None:
        """
        Whatever a node prints is shown in one line, and the way back is exact.
        """
        text = line_text(data)

        assert text.replace("\t", "").isprintable() or not text
        assert from_text(text) == data

    def test_table(self) -> None:
        """
        The table has a line for each node: exit code, seconds, or why there is no
        exit code, with a reason that several share told once.
        """
        report, printed = self.text()
        refused = "connection refused; nothing listens on port 5308"
        dead = [ServerAddress(f"dead{number}") for number in range(3)]
        report.summary(
            [
                NodeResult(WEB, exit_code=0, seconds=1.25),
                NodeResult(OTHER, exit_code=3, seconds=100),
                *[
                    NodeResult(
                        each,
                        error=Unreachable("connection-refused", f"{each}: {refused}"),
                    )
                    for each in dead
                ],
            ]
        )

        assert printed.text.splitlines() == [
            "HOST        EXIT   SECONDS",
            "web            0       1.2",
            "other:5309     3     100.0",
            f"dead0          -       0.0  connection-refused: {refused}",
            "dead1          -       0.0  connection-refused: as dead0",
            "dead2          -       0.0  connection-refused: as dead0",
            "5 nodes: 1 done, 1 failed, 3 without an exit code",
        ]

    def test_keys_of_many(self, tmp_path: Path) -> None:
        """
        Of many nodes with unknown keys each has its digest in the table, and what to
        do is told once.
        """
        trust = ServerTrust(ServerKeyStore(tmp_path))
        servers = [ServerAddress(f"web{number}", 5000 + number) for number in range(3)]
        results = []
        for number, server in enumerate(servers):
            said = trust.check(str(server), key(number))
            error = UntrustedServer(said.code, said.text, server, key(number))
            results.append(NodeResult(server, error=error))
        report, printed = self.text()
        report.summary(results)

        assert printed.text.count("accept") == 1
        assert printed.text.splitlines()[2:4] == [
            f"web{number}:{5000 + number}     -       0.0  key-unknown: as web0:5000,"
            f" with the key {key(number).md5}"
            for number in (1, 2)
        ]

    @pytest.mark.parametrize(("result", "code", "status"), RESULTS)
    def test_each_outcome(self, result: NodeResult, code: str, status: int) -> None:
        """
        Each way in which a run ends has a word for programs and an exit status.
        """
        report, _ = self.text()
        outcome = report.outcome(result)

        assert ("" if outcome is None else outcome.code) == code
        assert fleet_status([outcome]) == status

    @pytest.mark.parametrize(
        ("statuses", "found"),
        [
            ([], 0),
            ([0, 0], 0),
            ([0, 3, 3], 3),
            ([5], 5),
            ([3, 4], 1),
            ([1, 3], 1),
            ([0, 1], 1),
        ],
    )
    def test_status(self, statuses: list[int], found: int) -> None:
        """
        0 only if every run was 0; what all failures have in common; else 1.
        """
        outcomes = [
            Outcome("x", "x", Status(each)) if each else None for each in statuses
        ]
        assert fleet_status(outcomes) == found

    def test_nodes_that_are_not_selected(self) -> None:
        """
        A node that -s does not select has failed at nothing: it has a word of its own,
        and the exit status is that of the others. Its remarks say nothing new.
        """
        lacking = NodeResult(OTHER, error=denied("class-match"), remarks=("Hello",))
        good = NodeResult(WEB, exit_code=0)
        for others, status, count in (
            ([good], 0, "1 done, 0 failed, 0 without an exit code, 1 not selected"),
            ([NodeResult(WEB, exit_code=2)], 1, "0 done, 1 failed, 0 without"),
            ([NodeResult(WEB, error=Unreachable("no-route", "x"))], 3, "0 done, 0"),
        ):
            report, printed = self.text(selecting=True)
            results = [lacking, *others]
            for each in results:
                report.ended(each)
            report.summary(results)

            assert fleet_status([report.outcome(each) for each in results]) == status
            lines = printed.text.splitlines()
            assert lines[1] == "other:5309     -       0.0  not selected"
            assert lines[-1].startswith(f"2 nodes: {count}")

    def test_no_node_is_selected(self) -> None:
        """
        Where -s selects no node at all nothing has run, which is no success and told.
        """
        lacking = denied("class-match")
        results = [NodeResult(each, error=lacking) for each in (WEB, OTHER)]
        report, printed = self.text(selecting=True)
        report.summary(results)

        assert fleet_status([report.outcome(each) for each in results]) == 1
        assert printed.text.splitlines()[-2:] == [
            "2 nodes: 0 done, 0 failed, 0 without an exit code, 2 not selected",
            "nothing has run: no node has a class of --select-class",
        ]
        shown: Any = Printed()
        JSONReport(shown, 2, 1000, selecting=True).summary(results)
        *ends, summary = [json.loads(line) for line in shown.text.splitlines()]
        errors = [(end["error"]["code"], end["error"]["status"]) for end in ends]
        assert errors == [("not-selected", 0)] * 2
        assert (summary["not_selected"], summary["without_exit_code"]) == (2, 0)
        assert summary["status"] == 1

    def test_what_to_do(self) -> None:
        """
        A refusal is told with what the node needs, and the folder that was named is in
        what shall be typed here.
        """
        report, printed = self.text(state_dir=Path("/state"))
        refused = Refused("refused", b"EXEC", REFUSAL)
        unknown = "see `nodecomm server-key accept web`"
        report.summary(
            [
                NodeResult(WEB, error=refused),
                NodeResult(
                    OTHER, error=UntrustedServer("key-unknown", unknown, OTHER, None)
                ),
            ]
        )
        for word in ("cfruncommand", "allowusers", "access explain --exec"):
            assert word in printed.text
        for code in ("role", "bundle"):
            outcome = report.outcome(NodeResult(WEB, error=denied(code)))
            assert outcome is not None
            assert "its own sync takes none" in outcome.text
        assert "`nodecomm server-key accept web --state-dir /state`" in printed.text

    def test_progress(self) -> None:
        """
        How far it is, in the words of the table: nodes that have ended, failed, ended
        without an exit code, run, and are being connected to.
        """
        report, printed = self.text()
        report.calling(WEB)
        report.calling(OTHER)
        report.running(WEB, b"/bin/agent")
        report.ended(NodeResult(OTHER, error=Unreachable("no-route", "x")))
        report.ended(NodeResult(WEB, exit_code=0))

        assert printed.shown == [
            f"{ended} of 2 ended  0 failed  {without} without an exit code  {rest}"
            for ended, without, rest in (
                (0, 0, "0 running  1 connecting"),
                (0, 0, "0 running  2 connecting"),
                (0, 0, "1 running  1 connecting"),
                (1, 1, "1 running  0 connecting"),
                (2, 1, "0 running  0 connecting"),
            )
        ]

    def test_remarks(self) -> None:
        """
        What a node says besides is a line of its own.
        """
        report, printed = self.text()
        report.ended(NodeResult(WEB, remarks=("Hello", "a\\x1b")))

        assert printed.text == "web: Hello\nweb: a\\x1b\n"

    def test_json(self) -> None:
        """
        For programs: an object a line for the beginning, each line and the end of each
        node, and one for all.
        """
        printed: Any = Printed()
        report = JSONReport(printed, 2, 1000)
        good = NodeResult(WEB, exit_code=0, seconds=1.5, lines=1, size=4)
        bad = NodeResult(OTHER, error=Unreachable("no-route", "no way"))
        report.calling(WEB)
        report.running(WEB, b"/bin/agent\x1b")
        report.line(WEB, b"\xff\x1b\\")
        report.ended(good)
        report.ended(bad)
        report.summary([good, bad])
        found = [json.loads(line) for line in printed.text.splitlines()]

        assert found == [
            {"event": "begin", "host": "web:5308", "command": "/bin/agent\\x1b"},
            {"event": "line", "host": "web:5308", "text": "\\xff\\x1b\\\\"},
            {
                "event": "end",
                "host": "web:5308",
                "exit_code": 0,
                "seconds": 1.5,
                "lines": 1,
                "bytes": 4,
                "remarks": [],
                "error": None,
            },
            {
                "event": "end",
                "host": "other:5309",
                "exit_code": None,
                "seconds": 0.0,
                "lines": 0,
                "bytes": 0,
                "remarks": [],
                "error": {"code": "no-route", "text": "no way", "status": 3},
            },
            {
                "event": "summary",
                "nodes": 2,
                "done": 1,
                "failed": 0,
                "without_exit_code": 1,
                "not_selected": 0,
                "status": 3,
            },
        ]

    def test_json_of_who_was_never_called(self) -> None:
        """
        There is an end for each node, also when all was ended before it was called.
        """
        printed: Any = Printed()
        report = JSONReport(printed, 1, 1000)
        report.summary([NodeResult(WEB, stopped=True)])
        end, summary = [json.loads(line) for line in printed.text.splitlines()]

        assert (end["event"], end["error"]["code"]) == ("end", "interrupted")
        assert (summary["without_exit_code"], summary["status"]) == (1, None)
