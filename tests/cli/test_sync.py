# SPDX-License-Identifier: MIT
"""
`nodecomm sync`: its command line, and what it prints.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.cli import sync
from nodecomm.cli.progress import ProgressLine, amount, progress_text
from nodecomm.sync.errors import LocalError
from nodecomm.sync.model import Change, Phase, Progress, SyncRequest, SyncResult

REQUEST = SyncRequest(source=b"share", destination=b"/dest", new=True)
RESULT = SyncResult(
    changed=True,
    checked=398,
    fetched=2,
    removed=1,
    bytes_received=1_234_567,
    bytes_fetched=999,
    round_trips=1,
    connections=1,
    seconds=0.42,
    changes=(
        Change(b"", "attributes"),
        Change(b"a\x1b[2J", "added"),
        Change(b"b\xff", "removed"),
    ),
    warnings=("the server lists x\x1b and does not describe it",),
    refused=(b"x\x1b",),
)


def parsed(*words: str) -> sync.Options:
    """
    The options of `nodecomm sync WORDS`.
    """
    options = sync.Options()
    options.parseOptions(words)
    return options


class OptionsTests(SynchronousTestCase):
    """
    What is asked for.
    """

    def test_defaults(self) -> None:
        """
        Without options nothing is removed and nothing but modes is preserved. Whoever
        types this wants what the server has now.
        """
        self.assertEqual(REQUEST, parsed("hub:share", "/dest").request())

    def test_each_option(self) -> None:
        """
        Each option has its place in the request, wherever it stands.
        """
        options = parsed(
            "--purge",
            "hub:5309:/a\\xff",
            "-n",
            "/dest/",
            "--preserve",
            "--compare=digest",
            "--replace",
            "files",
            "--exclude",
            "*.bak",
            "-x",
            "a\\\\b/",
            "--lock-wait",
            "0",
        )
        self.assertEqual(
            SyncRequest(
                source=b"/a\xff",
                destination=b"/dest",
                compare="digest",
                purge=True,
                preserve=True,
                exclude=(b"*.bak", b"a\\b/"),
                replace="files",
                dry_run=True,
                new=True,
            ),
            options.request(),
        )
        self.assertEqual("hub:5309", str(options["target"].server))
        self.assertEqual(0.0, options["lock-wait"])

    def test_wrong_ones(self) -> None:
        """
        What cannot be meant is told before anything is asked.
        """
        table: list[tuple[list[str], str]] = [
            (["h:s"], "which DEST?"),
            (["h:s", "/"], "root of all files"),
            (["h:s", "//"], "root of all files"),
            (["h:s", "/.."], "root of all files"),
            (["h:s", ""], "DEST is empty"),
            (["h:s", "/x", "/y"], "too many arguments"),
            (["h:s", "/x", "--compare", "often"], "--compare takes auto, digest"),
            (["h:s", "/x", "--replace", "it"], "--replace takes exchange, symlink"),
            (["h:s", "/x", "--exclude", "\\z"], "--exclude"),
            (["h:s", "/x", "--lock-wait", "-1"], "--lock-wait takes seconds"),
            (["h:s", "/x", "--lock-wait", "inf"], "--lock-wait takes seconds"),
            (["s", "/x"], "names no server"),
        ]
        for words, part in table:
            error = self.assertRaises(usage.UsageError, parsed, *words)
            self.assertIn(part, str(error), words)

    def test_the_destination(self) -> None:
        """
        It becomes absolute; folders on the way are resolved, a link that it is itself
        is not.
        """
        folder = os.path.realpath(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        Path(folder, "real").mkdir()
        Path(folder, "link").symlink_to("real")
        before = Path.cwd()
        self.addCleanup(os.chdir, before)
        os.chdir(Path(folder, "real"))
        table = {
            "x": "real/x",
            "../link/": "link",
            "../link/x": "real/x",
            ".": "real",
            "./": "real",
            "../link/..": ".",
            f"{folder}//y": "y",
        }
        for text, expected in table.items():
            wanted = os.path.normpath(os.path.join(folder, expected))
            self.assertEqual(os.fsencode(wanted), sync.destination(text), text)


class OutputTests(SynchronousTestCase):
    """
    What is printed.
    """

    def run_line(
        self, words: Sequence[str], result: SyncResult | Exception = RESULT
    ) -> tuple[int, str, str]:
        """
        Status, output and errors of `nodecomm sync WORDS` with this result.
        """

        async def update(*_arguments: object) -> SyncResult:
            if isinstance(result, Exception):
                raise result
            return result

        def run_now(work: Any) -> Any:
            coroutine = work(None)
            try:
                coroutine.send(None)
            except StopIteration as stopped:
                return stopped.value
            raise AssertionError

        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.object(sync, "update", update),
            mock.patch("nodecomm.cli.connecting.run_until_done", run_now),
        ):
            status = sync.run(parsed("hub:share", "/dest", *words), out, err)
        return status, out.getvalue(), err.getvalue()

    def test_the_last_line(self) -> None:
        """
        The last line says files checked, fetched and removed, bytes, round trips and
        seconds.
        """
        status, out, err = self.run_line([])
        self.assertEqual(0, status)
        self.assertEqual(
            "/dest updated: 398 files checked, 2 fetched (999 B), 1 removed; "
            "1.2 MB received, 1 round trip, 0.42 s\n",
            out,
        )
        self.assertEqual(
            "warning: the server lists x\\x1b and does not describe it\n", err
        )

    def test_the_changes(self) -> None:
        """
        With `-v`, and in a dry run, each change has a line.
        """
        lines = ["attributes  .", "added       a\\x1b[2J", "removed     b\\xff"]
        for words, said in ((["-v"], "updated"), (["--dry-run"], "would change")):
            _, out, _ = self.run_line(words)
            self.assertEqual(lines, out.splitlines()[:-1])
            self.assertIn(f"/dest {said}: ", out.splitlines()[-1])

    def test_quiet(self) -> None:
        """
        With `-q` there are only warnings and errors.
        """
        status, out, err = self.run_line(["-q"])
        self.assertEqual((0, ""), (status, out))
        self.assertTrue(err.startswith("warning: "))

    def test_json(self) -> None:
        """
        `--json` tells everything, and an error too.
        """
        _, out, _ = self.run_line(["--json"])
        facts = json.loads(out)
        self.assertEqual("/dest", facts["destination"])
        self.assertEqual({"name": "a\\x1b[2J", "what": "added"}, facts["changes"][1])
        names = {name for name in dir(RESULT) if not name.startswith("_")}
        self.assertEqual(set(), names - set(facts))
        error = LocalError("locked", "process 12 holds it")
        status, out, err = self.run_line(["--json"], error)
        self.assertEqual((1, "error: process 12 holds it\n"), (status, err))
        self.assertEqual("locked", json.loads(out)["error"]["code"])


class Terminal(io.StringIO):
    """
    A terminal.
    """

    def isatty(self) -> bool:
        """Yes."""
        return True


class ProgressTests(SynchronousTestCase):
    """
    The line on a terminal.
    """

    def test_only_on_a_terminal(self) -> None:
        """
        A file, a pipe and a terminal that cannot go back have none.
        """
        with mock.patch.dict(os.environ, TERM="xterm"):
            self.assertIsNone(ProgressLine.on(io.StringIO()))
            self.assertIsNotNone(ProgressLine.on(Terminal()))
        for term in ({"TERM": "dumb"}, {}):
            with mock.patch.dict(os.environ, term, clear=True):
                self.assertIsNone(ProgressLine.on(Terminal()))

    def test_one_line_that_goes_away(self) -> None:
        """
        What is shown stands in one line, cut to its width, and is gone in the end.
        """
        stream = Terminal()
        line = ProgressLine(stream)
        with mock.patch.dict(os.environ, COLUMNS="30"):
            line.show(Progress(Phase.FETCHING, 1, 3, 500, 2_000_000))
            line.show(Progress(Phase.FETCHING, 1, 3, 500, 2_000_000))
            line.show(Progress(Phase.PLACING))
        line.clear()
        line.clear()
        text = stream.getvalue()
        self.assertNotIn("\n", text)
        self.assertNotIn("\x1b", text)
        self.assertEqual(["", "fetching  1 of 3 files  500 B"], text.split("\r")[:2])
        self.assertEqual("putting in place".ljust(29), text.split("\r")[2])
        self.assertRegex(text, re.compile(r"\r +\r\Z"))

    def test_the_words(self) -> None:
        """
        Totals are told when they are known.
        """
        table = [
            (Progress(Phase.CONNECTING), "connecting"),
            (Progress(Phase.LISTING, 12), "listing  12 files"),
            (
                Progress(Phase.FETCHING, 1, 2, 1500, 3000),
                "fetching  1 of 2 files  1.5 kB of 3.0 kB  [##########..........]",
            ),
            (
                # A total may be passed for a moment.
                Progress(Phase.FETCHING, 2, 2, 4000, 3000),
                "fetching  2 of 2 files  4.0 kB of 3.0 kB  [####################]",
            ),
        ]
        for progress, text in table:
            self.assertEqual(text, progress_text(progress))

    def test_amounts(self) -> None:
        """
        Bytes are told in steps of 1000.
        """
        table = {
            0: "0 B",
            999: "999 B",
            1000: "1.0 kB",
            999_949: "999.9 kB",
            999_950: "1.0 MB",
            10**12: "1.0 TB",
            10**19: "10000.0 PB",
        }
        self.assertEqual(table, {size: amount(size) for size in table})
