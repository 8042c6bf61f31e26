# SPDX-License-Identifier: MIT
"""
Tests for `nodecomm config check` and `nodecomm config show`.
"""

from __future__ import annotations

import io
import json
import sys
from datetime import datetime, timezone
from pathlib import Path

from attrs import field, frozen
from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.cli.config import Options, run
from nodecomm.config.errors import Origin
from nodecomm.config.fields import about
from nodecomm.config.model import ServerSettings, Settings, TrustWindowSettings
from nodecomm.config.secrets import Secret
from nodecomm.config.showing import as_toml, shown_values
from nodecomm.config.structure import structure

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

GOOD = """\
[server]
allowed_networks = ["10.0.0.0/8", "::1"]
allowconnects = ["127.0.0.1", "@allowed_networks"]
trustkeysfrom = [{ network = "10.1.0.0/16", until = 2126-12-01T00:00:00Z, count = 9 }]
[[access]]
path = "/"
shortcut = "root"
admit_ips = ["@allowed_networks"]
"""


class CommandCase(SynchronousTestCase):
    def setUp(self) -> None:
        """Make a folder with a good file."""
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir(parents=True)
        self.file = self.folder / "server.toml"
        self.file.write_text(GOOD)

    def run_command(self, *arguments: str) -> tuple[int, str, str]:
        """
        Run `nodecomm config ARGUMENTS`; status, output and errors.
        """
        options = Options()
        options.parseOptions(list(arguments))
        out, errors = io.StringIO(), io.StringIO()
        status = run(options, out, errors)
        prefix = f"{self.folder}/"
        return (
            status,
            out.getvalue().replace(prefix, ""),
            errors.getvalue().replace(prefix, ""),
        )

    def check(self, *more: str) -> tuple[int, str, str]:
        """
        `config check` of the file.
        """
        return self.run_command("check", "-c", str(self.file), *more)

    def show(self, *more: str) -> tuple[int, str, str]:
        """
        `config show` of the file.
        """
        return self.run_command("show", "-c", str(self.file), *more)


class CheckTests(CommandCase):
    def test_good(self) -> None:
        """A good file: one line, status 0."""
        self.assertEqual(self.check(), (0, "server.toml: can be used\n", ""))

    def test_the_file_as_an_argument(self) -> None:
        """It may be named without -c, but not twice."""
        name = str(self.file)

        self.assertEqual(
            (0, "server.toml: can be used\n", ""), self.run_command("check", name)
        )
        self.assertEqual(self.show(), self.run_command("show", "--", name))
        with self.assertRaisesRegex(usage.UsageError, "which file"):
            self.run_command("check", name, "-c", name)

    def test_warnings_are_no_errors(self) -> None:
        """Warnings are shown and leave the status 0."""
        self.file.write_text(GOOD + "[[access]]\npath = '/'\n")
        status, out, errors = self.check()
        self.assertEqual((status, out), (0, "server.toml: can be used (1 warning)\n"))
        self.assertIn("server.toml:9:1: warning: access[1]: ", errors)

    def test_a_window_that_is_over(self) -> None:
        """It trusts nobody, which is said with its line and column."""
        self.file.write_text(GOOD.replace("2126-12-01", "2020-12-01"))

        status, out, errors = self.check()

        self.assertEqual(0, status)
        self.assertEqual("server.toml: can be used (1 warning)\n", out)
        self.assertEqual(
            "server.toml:4:45: warning: server.trustkeysfrom[0].until ="
            " 2020-12-01T00:00:00Z: this window is over, it trusts nobody; take it"
            " out, or write a later time\n",
            errors,
        )

    def test_all_problems(self) -> None:
        """Everything that is wrong, of every kind, in the order of the file."""
        self.file.write_text(
            """\
[server]
listen = "tcp6:5308"
denyconnects = ["192.168."]
maxconnection = 5
allowciphers = "NONE-SUCH"
[[access]]
path = "/"
admit_ips = ["10.0.0.1", "192.168."]
deny_ips = ["10(?=1)"]
source = "no such plugin"
[[access]]
admit_ips = ["::1"]
[plugins]
commands = ["nobody"]
"""
        )
        status, out, errors = self.check()
        self.assertEqual((status, out), (1, "server.toml: cannot be used (9 errors)\n"))
        lines = errors.splitlines()
        self.assertEqual(
            [line.partition(" error: ")[0] for line in lines],
            [
                f"server.toml:{place}:"
                for place in (
                    "2:1",
                    "3:17",
                    "4:1",
                    "5:1",
                    "8:26",
                    "9:13",
                    "10:1",
                    "11:1",
                    "14:13",
                )
            ],
            errors,
        )
        self.assertRegex(
            lines[4],
            r'\Aserver.toml:8:26: error: access\[0\]\.admit_ips\[1\] = "192\.168\.": '
            r".*; write .192\.168. or .192\.168\.0\.0/16.\Z",
        )

    def test_json(self) -> None:
        """The same facts for programs."""
        self.file.write_text("[server]\n  listen = 5\n")
        status, out, errors = self.check("--json")
        self.assertEqual((status, errors), (1, ""))
        self.assertEqual(
            json.loads(out),
            {
                "usable": False,
                "description": "server.toml",
                "sources": ["server.toml"],
                "problems": [
                    {
                        "severity": "error",
                        "key": "server.listen",
                        "value": 5,
                        "message": "a whole number where a list of texts belongs",
                        "hint": 'write ["..."]',
                        "origin": {"file": "server.toml", "line": 2, "column": 3},
                    }
                ],
            },
        )

    def test_json_of_odd_values(self) -> None:
        """Values that JSON does not have are texts."""
        self.file.write_text(
            "limits.idle_timeout = nan\nserver.allowusers = 2026-01-01T00:00:00Z\n"
        )
        _, out, _ = self.check("--json")
        problems = json.loads(out, parse_constant=self.fail)["problems"]
        self.assertEqual(
            [problem["value"] for problem in problems],
            ["nan", "2026-01-01T00:00:00+00:00"],
        )

    def test_missing_file(self) -> None:
        """A file that is not there: said, status 1."""
        status, out, errors = self.run_command("check", "-c", str(self.folder / "no"))
        self.assertEqual(status, 1)
        self.assertEqual(out, "no: cannot be used (1 error)\n")
        self.assertEqual(
            errors, "no: error: cannot be read: No such file or directory\n"
        )

    def test_what_to_do_must_be_named(self) -> None:
        """`nodecomm config` alone, or with too much, is a wrong command line."""
        for arguments in ([], ["check", "a.toml", "b.toml"], ["chek"]):
            with self.assertRaises(usage.UsageError):
                self.run_command(*arguments)


class ShowTests(CommandCase):
    def test_result_is_a_configuration(self) -> None:
        """What is shown means the same when it is read again."""
        status, out, errors = self.show("--state-dir", "/state")
        self.assertEqual((status, errors), (0, ""))
        original, _ = structure(tomllib.loads(GOOD))
        shown, problems = structure(tomllib.loads(out))
        self.assertEqual(problems, [])
        assert original is not None
        assert shown is not None
        self.assertEqual(shown.server.allowconnects, original.server.allowconnects)
        self.assertEqual(shown.server.trustkeysfrom, original.server.trustkeysfrom)
        self.assertEqual(shown.access, original.access)
        self.assertEqual(shown.limits, original.limits)
        self.assertEqual(shown.server.state_dir, "/state")

    def test_origins(self) -> None:
        """Each value says where it comes from, through names and files."""
        parts = self.folder / "server.d"
        parts.mkdir()
        (parts / "1.toml").write_text("[limits]\nidle_timeout = 5\n")
        _, out, _ = self.show("--state-dir", "/state")
        for line in (
            '    "127.0.0.1",  # server.toml:3:18',
            '    "10.0.0.0/8",  # server.toml:2:21',
            'state_dir = "/state"  # --state-dir',
            "maxconnections = 10000  # default",
            "idle_timeout = 5  # server.d/1.toml:2:1",
            "[[access]]  # server.toml:5:1",
            'shortcut = "root"  # server.toml:7:1',
            "# audit is not set",
        ):
            self.assertIn(f"\n{line}\n", out)
        self.assertTrue(out.startswith("# server.toml, server.d/1.toml\n"))

    def test_json(self) -> None:
        """The values with their origins for programs; --json stands anywhere."""
        _, out, _ = self.run_command("--json", "show", "-c", str(self.file))
        shown = json.loads(out)["values"]
        values = {one["key"]: (one["value"], one["origin"]) for one in shown}
        window = "server.trustkeysfrom[0]"
        self.assertEqual(
            values[f"{window}.network"],
            ("10.1.0.0/16", {"file": "server.toml", "line": 4, "column": 20}),
        )
        self.assertEqual(
            values[f"{window}.until"],
            (
                "2126-12-01T00:00:00+00:00",
                {"file": "server.toml", "line": 4, "column": 45},
            ),
        )
        self.assertEqual(values["server.denyconnects"], ([], None))
        self.assertEqual(values["log.audit"], (None, None))
        self.assertEqual(
            values["access[0].admit_ips[1]"],
            ("::1", {"file": "server.toml", "line": 2, "column": 35}),
        )

    def test_errors(self) -> None:
        """What cannot be used is not shown; the problems are."""
        self.file.write_text("x = 1\n")
        status, out, errors = self.show()
        self.assertEqual((status, out), (1, ""))
        self.assertIn("server.toml:1:1: error: x = 1: unknown key", errors)

    def test_nothing_reaches_the_terminal(self) -> None:
        """Names in the file cannot act on the terminal."""
        self.file.write_text(GOOD + '[plugins]\n"a\\u001b[2J\\u202e" = 1\n')
        _, out, errors = self.show()
        for line in (out + errors).splitlines():
            self.assertTrue(line.isprintable(), repr(line))


@frozen(kw_only=True)
class Upstream:
    plain: Secret | None = field(default=None, metadata=about("One."))
    file: Secret | None = field(default=None, metadata=about("Two."))
    env: Secret | None = field(default=None, metadata=about("Three."))
    none: Secret | None = field(default=None, metadata=about("Four."))


@frozen(kw_only=True)
class LaterSettings(Settings):
    upstream: Upstream = field(factory=Upstream, metadata=about("A table."))
    upstreams: tuple[Upstream, ...] = field(default=(), metadata=about("Tables."))


class HidingTests(SynchronousTestCase):
    upstream = Upstream(
        plain=Secret("hunter2"),
        file=Secret("hunter2", file="/etc/token"),
        env=Secret("hunter2", env="TOKEN"),
    )
    settings = LaterSettings(upstream=upstream, upstreams=(upstream,))

    def test_secrets_are_hidden(self) -> None:
        """Where a secret comes from is shown, the secret is not."""
        text = as_toml(self.settings)
        self.assertNotIn("hunter2", text)
        table = [
            'plain = "(secret)"  # default',
            'file = { file = "/etc/token" }  # default',
            'env = { env = "TOKEN" }  # default',
        ]
        for line in table:
            self.assertEqual(text.count(line), 2, text)
        self.assertIn("# none is not set", text)

    def test_secrets_are_hidden_from_programs(self) -> None:
        """The same for the values one by one."""
        shown = {s.key_path: s.value for s in shown_values(self.settings)}
        self.assertNotIn("hunter2", repr(shown))
        self.assertEqual(shown["upstream.plain"], "(secret)")
        self.assertEqual(shown["upstreams[0].file"], {"file": "/etc/token"})
        self.assertIsNone(shown["upstream.none"])

    def test_odd_origins(self) -> None:
        """The name of a file cannot break out of its comment."""
        until = datetime(2026, 12, 1, tzinfo=timezone.utc)
        window = TrustWindowSettings(network="::1", until=until)
        text = as_toml(
            Settings(
                server=ServerSettings(trustkeysfrom=(window,), allowusers=("a\nb",)),
                origins={"server.allowusers[0]": Origin("a\nx = 1", 1, 1)},
            )
        )
        result, problems = structure(tomllib.loads(text))
        self.assertEqual([p.key_path for p in problems], ["server.allowusers[0]"])
        self.assertIsNone(result)
        self.assertIn('{ network = "::1", until = 2026-12-01T00:00:00Z },', text)
