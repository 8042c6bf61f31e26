# SPDX-License-Identifier: MIT
"""
`nodecomm SUBCOMMAND`: how it finds a subcommand, and what a person sees of errors.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import subprocess
import sys
from contextlib import redirect_stdout
from types import ModuleType
from typing import IO, TextIO
from unittest import mock

import pytest
from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase

from nodecomm import __version__
from nodecomm.cli import main
from nodecomm.cli.options import CommandOptions, StateOptions


class _ListOptions(usage.Options):
    pass


class _NamedOptions(CommandOptions):
    subjects = (("name", "NAME"),)

    def opt_long(self, text: str) -> None:
        """
        a text of two lines,
        the second of which is indented as methods are
        """


class _SampleOptions(StateOptions):
    subCommands = [
        ["list", None, _ListOptions, "list them"],
        ["named", None, _NamedOptions, "one of them"],
    ]

    def parseArgs(self, *names: str) -> None:
        self["names"] = names


def _command(run: object) -> ModuleType:
    module = ModuleType("sample_command")
    module.Options = _SampleOptions  # type: ignore[attr-defined]
    module.run = run  # type: ignore[attr-defined]
    return module


class RunTests(SynchronousTestCase):
    """
    The dispatcher with a subcommand of the test's own.
    """

    def run_line(self, line: list[str], run: object = None) -> tuple[int, str, str]:
        """
        Status, standard output and standard error of `nodecomm LINE`.
        """
        commands = (
            ("sample", "sample_command", "a sample"),
            ("absent", "nodecomm.cli.there_is_no_such_module", "never imported"),
        )
        out, err = io.StringIO(), io.StringIO()
        modules = {"sample_command": _command(run)}
        with mock.patch.dict(sys.modules, modules), redirect_stdout(out):
            try:
                status = main.run(line, out, err, commands)
            except SystemExit as stopped:
                assert isinstance(stopped.code, int)
                status = stopped.code
        return status, out.getvalue(), err.getvalue()

    def test_the_subcommand_runs_with_its_options(self) -> None:
        """
        The subcommand gets its own parsed options, and its status is the program's.
        """
        seen: list[tuple[str, bool]] = []

        def run(options: _SampleOptions, stdout: TextIO, stderr: TextIO) -> int:
            seen.append((str(options.state_dir), bool(options["json"])))
            stdout.write("done\n")
            return 1

        status, out, err = self.run_line(["sample", "--state-dir", "/x", "--json"], run)

        self.assertEqual((1, "done\n", ""), (status, out, err))
        self.assertEqual([("/x", True)], seen)

    def test_no_subcommand_teaches(self) -> None:
        """
        Without a subcommand the help is shown as an error of usage.
        """
        status, out, err = self.run_line([])

        self.assertEqual((2, ""), (status, out))
        self.assertIn("nodecomm key generate", err)
        self.assertIn("a sample", err)

    def test_help_has_commands_and_examples(self) -> None:
        """
        `--help` lists each command with its line, and whole example lines.
        """
        for flag in ("--help", "-h"):
            status, out, err = self.run_line([flag])

            self.assertEqual((0, ""), (status, err))
            self.assertIn("a sample", out)
            self.assertIn("nodecomm access explain -c server.toml --ip", out)

    def test_version(self) -> None:
        """
        `--version` tells nodecomm's version, before and after the subcommand.
        """
        for line in (["--version"], ["sample", "--version"]):
            self.assertEqual((0, f"nodecomm {__version__}\n", ""), self.run_line(line))

    def test_wrong_command_lines(self) -> None:
        """
        What is wrong with a command line is one line, and the next names the help
        that would have answered it.
        """
        table = [
            (["sampel"], "unknown command 'sampel' (did you mean 'sample'?)", ""),
            (["zzz"], "unknown command 'zzz' (known: sample, absent)", ""),
            (["\x1b[2J\udc80"], "unknown command '\\x1b[2J", ""),
            (["sample", "lst"], "unknown command 'lst' (did you mean 'list'?)", "sam"),
            (["--jsn"], "option --jsn not recognized", ""),
            (
                ["sample", "--jsn"],
                "option --jsn not recognized, did you mean --json?",
                " sample",
            ),
            (["sample", "--zzz"], "option --zzz not recognized", " sample"),
            (
                ["sample", "--state-dir"],
                "option --state-dir needs a value behind it",
                " sample",
            ),
            (
                ["sample", "named", "x", "--state-dri=/x"],
                "option --state-dri not recognized, did you mean --state-dir?",
                " sample named",
            ),
            (
                ["sample", "named", "x", "--state-dir"],
                "option --state-dir needs a value behind it",
                " sample named",
            ),
            (
                ["sample", "named", "x", "y"],
                "too many arguments: 'y'",
                " sample named",
            ),
            (["sample", "list", "x"], "Wrong number of arguments.", " sample list"),
        ]
        for line, message, where in table:
            status, out, err = self.run_line(line)

            self.assertEqual((2, ""), (status, out), line)
            first, second = err.splitlines()
            self.assertTrue(first.startswith(f"error: {message}"), first)
            self.assertTrue(second.startswith("`nodecomm"), second)
            self.assertIn(where, second)
            self.assertNotIn("\x1b", err)

    def test_wrong_command_lines_for_programs(self) -> None:
        """
        With `--json` before what ends the options, a program gets the same as facts.
        """
        text = "unknown command 'lst' (did you mean 'list'?)"
        status, out, err = self.run_line(["sample", "--json", "lst"])

        self.assertEqual(2, status)
        error = {"code": "usage", "text": text, "status": 2}
        self.assertEqual({"error": error}, json.loads(out))
        self.assertIn(f"error: {text}\n", err)
        status, out, _ = self.run_line(["sample", "named", "--", "x", "--json"])
        self.assertEqual((2, ""), (status, out))

    def test_errors_of_the_system(self) -> None:
        """
        What the system says of a file is one line; with `--json` a program gets it as
        facts. Nothing more is printed where the output itself may be in the way.
        """

        def denied(options: object, stdout: TextIO, stderr: TextIO) -> int:
            raise PermissionError(errno.EACCES, "Permission denied", "/x/nodes")

        def full(options: object, stdout: TextIO, stderr: TextIO) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        text = "Permission denied: /x/nodes"
        self.assertEqual((1, "", f"error: {text}\n"), self.run_line(["sample"], denied))
        status, out, err = self.run_line(["sample", "--json"], denied)
        self.assertEqual((1, f"error: {text}\n"), (status, err))
        error = {"code": "local", "text": text, "status": 1}
        self.assertEqual({"error": error}, json.loads(out))
        self.assertEqual(
            (1, "", "error: No space left on device\n"),
            self.run_line(["sample", "--json"], full),
        )

    def test_help_has_no_holes(self) -> None:
        """
        The text of an option that a method takes is wrapped as all others are.
        """
        _, out, _ = self.run_line(["sample", "named", "--help"])

        self.assertIn("a text of two lines, the second of", out)
        told = [line.strip() for line in out.splitlines() if "--" in line]
        self.assertTrue(told)
        for line in told:
            self.assertNotIn("  ", re.sub(r"^(-., )?--\S+ +", "", line))

    def test_a_usage_error_of_the_run_is_one_too(self) -> None:
        """
        A subcommand may find only while it runs that its options contradict.
        """

        def run(options: object, stdout: TextIO, stderr: TextIO) -> int:
            raise usage.UsageError("--a without --b")

        status, _, err = self.run_line(["sample"], run)

        self.assertEqual(2, status)
        self.assertIn("error: --a without --b\n", err)

    def test_errors_of_the_system_are_one_line(self) -> None:
        """
        An operating system error names the reason and the file, without a traceback.
        """
        table: list[tuple[BaseException, str]] = [
            (
                PermissionError(13, "Permission denied", "/etc/x\x1b"),
                "error: Permission denied: /etc/x\\x1b\n",
            ),
            (FileNotFoundError(2, "No such file", b"/a\xff"), "No such file: /a\\xff"),
            (OSError("no number"), "error: no number\n"),
            (TimeoutError(), "error: TimeoutError\n"),
            (
                BrokenPipeError(32, "Broken pipe"),
                "error: the output was closed before all of it was written\n",
            ),
            (KeyboardInterrupt(), "error: interrupted\n"),
        ]
        for error, message in table:

            def run(
                options: object,
                stdout: TextIO,
                stderr: TextIO,
                error: BaseException = error,
            ) -> int:
                raise error

            status, out, err = self.run_line(["sample"], run)

            # An interrupt is numbered as shells number it.
            expected = 130 if isinstance(error, KeyboardInterrupt) else 1
            self.assertEqual((expected, ""), (status, out))
            self.assertEqual(1, err.count("\n"))
            self.assertIn(message, err)

    def test_a_bug_shows_itself(self) -> None:
        """
        An exception that is nobody's error of use is not hidden.
        """

        def run(options: object, stdout: TextIO, stderr: TextIO) -> int:
            raise ValueError("a bug")

        self.assertRaises(ValueError, self.run_line, ["sample"], run)


class ProgramTests(SynchronousTestCase):
    """
    The program as a process.
    """

    def start(self, *words: str, stdout: int | IO[bytes]) -> subprocess.Popen[bytes]:
        """
        `nodecomm WORDS` with its standard error captured.
        """
        code = "import sys; from nodecomm.cli.main import main; sys.exit(main())"
        environment = dict(os.environ, NODECOMM_STATE_DIR="/nonexistent/nodecomm")
        return subprocess.Popen(
            [sys.executable, "-c", code, *words],
            stdout=stdout,
            stderr=subprocess.PIPE,
            env=environment,
        )

    @pytest.mark.programs
    def test_each_subcommand_loads(self) -> None:
        """
        Every command in the table has a module whose `--help` works, in a process
        that has loaded no other command.
        """
        code = (
            "import os, sys\n"
            "from nodecomm.cli import main\n"
            "for name, module, _ in main.COMMANDS:\n"
            "    assert module not in sys.modules, module\n"
            "    if (pid := os.fork()) == 0:\n"
            "        sys.argv[1:] = [name, '--help']\n"
            "        sys.exit(main.main())\n"
            "    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])\n"
            "    print('ended with', status, flush=True)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            timeout=600,
            check=True,
            env=dict(os.environ, NODECOMM_STATE_DIR="/nonexistent/nodecomm"),
        )

        told = done.stdout.split(b"ended with ")
        self.assertEqual(b"", done.stderr)
        self.assertEqual(len(main.COMMANDS), len(told) - 1)
        for (name, _, _), help_of, behind in zip(
            main.COMMANDS, told, told[1:], strict=False
        ):
            self.assertTrue(behind.startswith(b"0\n"), name)
            self.assertIn(f"nodecomm {name}".encode(), help_of)

    def test_a_mistake_ends_the_program(self) -> None:
        """
        It is told as Python does, and threads that are left do not keep the process.
        """
        code = (
            "import sys, threading\n"
            "from nodecomm.cli import main\n"
            "def run(*_):\n"
            "    threading.Thread(target=threading.Event().wait).start()\n"
            "    raise ZeroDivisionError\n"
            "main.run = run\n"
            "sys.exit(main.main())\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, timeout=60, check=False
        )

        self.assertEqual(1, done.returncode)
        self.assertIn(b"ZeroDivisionError", done.stderr)

    def test_help_of_each(self) -> None:
        """
        The help of each command begins with its own command line, once, and tells of
        our version.
        """
        for words in (
            ["key"],
            ["key", "trust"],
            ["config"],
            ["config", "check"],
            ["access"],
            ["access", "explain"],
            ["plugins"],
            ["plugins", "list"],
        ):
            shown = []
            for flag in ("--help", "-h"):
                output = io.StringIO()
                with redirect_stdout(output), self.assertRaises(SystemExit):
                    main.run([*words, flag], sys.stdout, sys.stderr)
                shown.append(output.getvalue())
            out, short = shown

            self.assertEqual(out, short)
            self.assertTrue(out.startswith(f"Usage: nodecomm {' '.join(words)} "), out)
            self.assertEqual(1, out.count("Usage:"))
            self.assertIn("[options]", out.splitlines()[0])
            self.assertIn("Print the version and exit.", out)
            self.assertNotIn("Twisted", out)

    def test_help_imports_no_subcommand(self) -> None:
        """
        A subcommand is imported only when it is asked for.
        """
        code = (
            "import sys\n"
            "from nodecomm.cli import main\n"
            "try:\n    main.run(['--help'], sys.stdout, sys.stderr)\n"
            "except SystemExit:\n    pass\n"
            "loaded = [m for _, m, _ in main.COMMANDS if m in sys.modules]\n"
            "sys.exit(len(loaded))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False
        )

        self.assertEqual(0, done.returncode)

    @pytest.mark.programs
    def test_a_full_disk_is_told(self) -> None:
        """
        Output that cannot be written gives a failing status and no traceback, also
        when Python flushes for the last time.
        """
        for line in (["plugins", "list"], ["--help"], ["key", "--help"]):
            with open("/dev/full", "wb") as full:
                process = self.start(*line, stdout=full)
                _, err = process.communicate(timeout=60)

            self.assertEqual(1, process.returncode)
            self.assertEqual(b"error: No space left on device\n", err)

    @pytest.mark.programs
    def test_closed_streams(self) -> None:
        """
        A program that was started without streams does its work and ends.
        """
        code = "import sys; from nodecomm.cli.main import main; sys.exit(main())"
        for closed in (">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"):
            done = subprocess.run(
                [
                    *("/bin/sh", "-c", f'exec "$@" {closed}', "sh", sys.executable),
                    *("-c", code, "plugins", "list"),
                ],
                capture_output=True,
                timeout=60,
                check=False,
            )

            self.assertEqual((done.returncode, done.stderr), (0, b""), closed)
