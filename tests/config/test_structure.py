# SPDX-License-Identifier: MIT
"""
Tests for `nodecomm.config.structure`: from a tree to `Settings`, and every mistake.
"""

from __future__ import annotations

import sys
from datetime import date, datetime, timezone
from typing import Any

import attrs
from attrs import field, frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.config.errors import Origin, Problem
from nodecomm.config.fields import about, keys_of
from nodecomm.config.model import Settings, TrustWindowSettings
from nodecomm.config.secrets import Secret
from nodecomm.config.structure import structure, structure_partly, worth_telling
from nodecomm.config.tree import structure_tree

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

NOON = datetime(2026, 12, 1, 12, tzinfo=timezone.utc)


def messages(toml: str) -> list[str]:
    """
    What is said about a document, without the place.
    """
    result, problems = structure(tomllib.loads(toml))
    wrong = any(problem.is_error for problem in problems)
    assert (result is None) == wrong
    return [str(problem).removeprefix("configuration: ") for problem in problems]


class ReadingTests(SynchronousTestCase):
    def test_empty(self) -> None:
        """An empty file is the defaults."""
        self.assertEqual(structure({}), (Settings(), []))

    def test_every_kind_of_key(self) -> None:
        """What is written is what the settings hold, of the right types."""
        result, problems = structure(
            tomllib.loads(
                """
                [server]
                listen = ["tcp6:5308", "systemd:domain=INET6:name=nodecomm"]
                state_dir = "/srv/state"
                allowed_networks = ["10.0.0.0/8"]
                allowconnects = ["127.0.0.1", "::1", "@allowed_networks"]
                trustkeysfrom = [
                    { network = "10.1", until = 2026-12-01T12:00:00Z, count = 200 },
                    "10.2.0.1"]
                maxconnections = 5
                denybadclocks = false
                allowtlsversion = "1.3"
                [[access]]
                path = "/srv/masterfiles"
                shortcut = "masterfiles"
                admit_ips = ["@allowed_networks"]
                [[access]]
                path = "handle"
                resource_type = "literal"
                [limits]
                idle_timeout = 1.5
                stop_grace = 3
                [log]
                format = "json"
                audit = "/var/log/audit"
                [plugins]
                commands = ["x"]
                override = true
                """
            )
        )
        self.assertEqual(problems, [])
        assert result is not None
        server = result.server
        self.assertEqual(
            server.listen, ("tcp6:5308", "systemd:domain=INET6:name=nodecomm")
        )
        self.assertEqual(server.state_dir, "/srv/state")
        self.assertEqual(server.allowconnects, ("127.0.0.1", "::1", "10.0.0.0/8"))
        self.assertEqual(
            server.trustkeysfrom,
            (
                TrustWindowSettings(network="10.1", until=NOON, count=200),
                TrustWindowSettings(network="10.2.0.1"),
            ),
        )
        self.assertEqual((server.maxconnections, server.denybadclocks), (5, False))
        self.assertEqual(server.allowtlsversion, "1.3")
        self.assertEqual(result.access[0].admit_ips, ("10.0.0.0/8",))
        self.assertEqual(result.access[1].resource_type, "literal")
        self.assertEqual(
            (result.limits.idle_timeout, result.limits.stop_grace), (1.5, 3)
        )
        self.assertEqual((result.log.format, result.log.file), ("json", None))
        self.assertEqual(result.plugins.commands, ("x",))
        self.assertTrue(result.plugins.override)

    def test_origins_follow(self) -> None:
        """What was written has its origin under its key path, and only that."""
        origins = {
            "server.listen": Origin("f", 2, 1),
            "server.listen[0]": Origin("f", 2, 11),
            "server.trustkeysfrom[0]": Origin("f", 3, 5),
        }
        result, _ = structure(
            {"server": {"listen": ["tcp:1"], "trustkeysfrom": ["10.0.0.1"]}}, origins
        )
        assert result is not None
        self.assertEqual(
            result.origin("server.listen[0]"), Origin("f", 2, 11, "server.listen[0]")
        )
        self.assertEqual(str(result.origin("server.trustkeysfrom[0].network")), "f:3:5")
        self.assertIsNone(result.origin("server.state_dir"))


class MistakeTests(SynchronousTestCase):
    """
    One mistake each: what is said, and that it is all that is said.
    """

    def check(self, toml: str, *said: str) -> None:
        """
        Compare what is said about *toml*.
        """
        self.assertEqual(messages(toml), list(said))

    def test_types(self) -> None:
        """A value of another type is never converted; the message says what fits."""
        table = [
            (
                'server.listen = "tcp6:5308"',
                'server.listen = "tcp6:5308": a text where a list of texts belongs; '
                'write ["tcp6:5308"]',
            ),
            (
                'server.allowconnects = "10.0.0.0/8, ::1"',
                'server.allowconnects = "10.0.0.0/8, ::1": a text where a list of '
                'texts belongs; write ["10.0.0.0/8", "::1"]',
            ),
            (
                "server.listen = [5308]",
                "server.listen[0] = 5308: a whole number where a text belongs; "
                'write "5308"',
            ),
            (
                'server.state_dir = ["/srv"]',
                'server.state_dir = ["/srv"]: a list where a text belongs; '
                'write "/srv"',
            ),
            (
                'server.maxconnections = "10"',
                'server.maxconnections = "10": a text where a whole number belongs; '
                "write 10 without quotes",
            ),
            (
                "server.maxconnections = 10.0",
                "server.maxconnections = 10.0: a number where a whole number belongs; "
                "write 10",
            ),
            (
                "server.maxconnections = true",
                "server.maxconnections = true: true or false where a whole number "
                "belongs; write digits without quotes, such as 100",
            ),
            (
                'server.denybadclocks = "true"',
                'server.denybadclocks = "true": a text where true or false belongs; '
                "write true without quotes",
            ),
            (
                "server.denybadclocks = 1",
                "server.denybadclocks = 1: a whole number where true or false belongs; "
                "write true or false",
            ),
            (
                'limits.idle_timeout = "1.5"',
                'limits.idle_timeout = "1.5": a text where a number belongs; write 1.5 '
                "without quotes",
            ),
            (
                "limits.idle_timeout = false",
                "limits.idle_timeout = false: true or false where a number "
                "belongs; write digits without quotes, such as 100",
            ),
            (
                "limits.idle_timeout = nan",
                "limits.idle_timeout = nan: not a finite number; write a number up "
                f"to {10**12}",
            ),
            (
                "limits.idle_timeout = inf",
                "limits.idle_timeout = inf: not a finite number; write a number up "
                f"to {10**12}",
            ),
            (
                "server.allowtlsversion = 1.2",
                "server.allowtlsversion = 1.2: not one of the values this key takes; "
                'write "1.2"',
            ),
            (
                'server.allowtlsversion = "1.1"',
                'server.allowtlsversion = "1.1": not one of the values this key takes; '
                'write one of "1.2", "1.3"',
            ),
            (
                'log.format = "jsn"',
                'log.format = "jsn": not one of the values this key takes; '
                'write "json"',
            ),
            (
                "server = 5",
                "server = 5: a whole number where a table belongs; write "
                "{ listen = ... }",
            ),
            (
                "[access]\npath = '/srv'",
                'access = { path = "..." }: a table where a list of tables belongs; '
                "write [[access]]",
            ),
            (
                "access = [5]",
                "access[0] = 5: a whole number where a table belongs; write "
                "{ path = ... }",
            ),
            (
                "server.listen = 5",
                "server.listen = 5: a whole number where a list of texts belongs; "
                'write ["..."]',
            ),
            (
                "server.trustkeysfrom = 5",
                "server.trustkeysfrom = 5: a whole number where a list of tables "
                "belongs; write [{ network = ... }], or a text, its network, alone: "
                '["..."]',
            ),
            (
                'server.maxconnections = "many"',
                'server.maxconnections = "many": a text where a whole number belongs; '
                "write digits without quotes, such as 100",
            ),
            (
                "limits.handshakes_at_once = true",
                "limits.handshakes_at_once = true: true or false where a whole number "
                "belongs; write digits without quotes, such as 100",
            ),
            (
                "limits.stop_grace = 'long'",
                'limits.stop_grace = "long": a text where a number belongs; write '
                "digits without quotes, such as 100",
            ),
            (
                "limits.first_byte_timeout = nan",
                "limits.first_byte_timeout = nan: not a finite number; write a number "
                f"up to {10**12}",
            ),
            (
                "limits.stop_grace = inf",
                "limits.stop_grace = inf: not a finite number; write a number up to "
                f"{10**12}",
            ),
            (
                "log.audit = { env = 'AUDIT' }",
                'log.audit = { env = "..." }: a table where a text belongs; write one '
                'text, "..."',
            ),
            (
                "log.audit = ['/a', '/b']",
                'log.audit = ["/a", "/b"]: a list where a text belongs; write one '
                'text, "..."',
            ),
        ]
        for toml, said in table:
            with self.subTest(toml):
                self.check(toml, "error: " + said)

    def test_bounds(self) -> None:
        """A number out of bounds is refused with the bound and its unit."""
        table = [
            (
                "server.maxconnections = 0",
                "server.maxconnections = 0: too small; write at least 1 connection",
            ),
            (
                "limits.disk_threads = 1000",
                "limits.disk_threads = 1000: too large; write at most 256 threads",
            ),
            (
                f"limits.connections_before_trust = {10**30}",
                f"limits.connections_before_trust = {10**30}: too large; write at most "
                f"{10**12} connections",
            ),
            (
                "limits.write_timeout = 0",
                "limits.write_timeout = 0: too small; write at least 0.001 seconds",
            ),
        ]
        for toml, said in table:
            with self.subTest(toml):
                self.check(toml, "error: " + said)

    def test_unknown_keys(self) -> None:
        """An unknown key is refused, with the one that was meant."""
        table = [
            ("maxconnection = 5", "server.maxconnection = 5", "maxconnections"),
            ("AllowConnects = []", "server.AllowConnects = []", "allowconnects"),
            ("allow-users = []", "server.allow-users = []", "allowusers"),
        ]
        for toml, shown, meant in table:
            with self.subTest(toml):
                self.check(
                    f"[server]\n{toml}",
                    f"error: {shown}: unknown key; did you mean {meant}?",
                )
        self.check(
            "[plugins]\n'x y' = 1",
            'error: plugins."x y" = 1: unknown key; known here: commands, override',
        )
        self.check("[acess]", "error: acess: unknown key; did you mean access?")
        self.check(
            "[[access]]\npaht = '/srv'",
            'error: access[0].paht = "/srv": unknown key; did you mean path?',
        )

    def test_model_attributes_that_are_no_keys(self) -> None:
        """The origins are no key of the file."""
        (said,) = messages("origins = {}")
        self.assertIn("unknown key", said)

    def test_endpoints(self) -> None:
        """Endpoint strings are checked for their shape."""
        table = [
            ("5308", 'a port alone is no endpoint; write "tcp6:5308"'),
            (
                "10.0.0.1:5308",
                'an address and a port are no endpoint; write "tcp:5308:interface='
                '10.0.0.1"',
            ),
            (
                "*:5308",
                'an address and a port are no endpoint; write "tcp:5308"',
            ),
            (
                "[::1]:5308",
                "an address and a port are no endpoint; write "
                r"'tcp6:5308:interface=\:\:1'",
            ),
            ("", 'not an endpoint string; write "tcp6:5308" or another NAME:ARGUMENTS'),
            (
                "tcp",
                'not an endpoint string; write "tcp6:5308" or another NAME:ARGUMENTS',
            ),
            (
                "tcp:",
                'not an endpoint string; write "tcp6:5308" or another NAME:ARGUMENTS',
            ),
            ("tcp:x", 'the endpoint names no port; write "tcp:5308"'),
            ("tcp6:interface=x", 'the endpoint names no port; write "tcp6:5308"'),
            ("tcp:70000", "no such port; write a port from 1 to 65535"),
            ("tcp4:5308", 'Twisted has no endpoint of this name; write "tcp:5308"'),
            (
                "ssl:5308",
                "this server speaks TLS itself; an endpoint that also does is not "
                'understood by any node; write "tcp6:5308"',
            ),
            (
                "ssl:443:privateKey=key.pem",
                "this server speaks TLS itself; an endpoint that also does is not "
                'understood by any node; write "tcp6:443"',
            ),
        ]
        for endpoint, said in table:
            with self.subTest(endpoint):
                self.check(
                    f"server.listen = ['{endpoint}']",
                    f'error: server.listen[0] = "{endpoint}": {said}',
                )

    def test_good_endpoints(self) -> None:
        """Endpoints of every kind pass, those of other packages too."""
        for endpoint in (
            "tcp6:5308",
            "tcp:port=5308:interface=10.0.0.1",
            r"tcp6:5308:interface=\:\:1",
            "tcp:0",
            "unix:/run/nodecomm",
            "systemd:domain=INET:index=0",
            "haproxy:tcp:5308",
        ):
            with self.subTest(endpoint):
                self.check(f"server.listen = ['{endpoint}']")

    def test_listening_nowhere(self) -> None:
        """A server that listens nowhere, or twice in one place, is a mistake."""
        self.check(
            "server.listen = []",
            "error: server.listen = []: the server would listen nowhere; "
            'write ["tcp6:5308"]',
        )
        self.check(
            'server.listen = ["tcp:1", "tcp:1"]',
            'error: server.listen[1] = "tcp:1": the same as server.listen[0] in '
            "configuration; leave one of them out",
        )

    def test_ciphers(self) -> None:
        """A list of cipher suites is one text without spaces."""
        for text in ("", "A, B"):
            with self.subTest(text):
                self.check(
                    f"server.allowciphers = '{text}'",
                    f'error: server.allowciphers = "{text}": not a list of cipher '
                    'suites; write names divided by ":", or leave the key out',
                )

    def test_users(self) -> None:
        """A user name is what a peer could send."""
        for text in ("", "a/b", r"a\b", "a b", "x" * 1024):
            with self.subTest(text):
                (said,) = messages(f"server.trustusers = ['{text}']")
                self.assertIn("server.trustusers[0] = ", said)
        self.check("server.trustusers = ['root', 'Jörg']")

    def test_names_of_lists(self) -> None:
        """Only the list that exists can be named, and not in itself."""
        self.check(
            "server.denyconnects = ['@allowed_network']",
            'error: server.denyconnects[0] = "@allowed_network": no list has this '
            'name; did you mean "@allowed_networks"?',
        )
        self.check(
            "[[access]]\npath = '/x'\nadmit_ips = ['::1', '@acl']",
            'error: access[0].admit_ips[1] = "@acl": no list has this name; the only '
            'name is "@allowed_networks"',
        )
        self.check(
            "server.allowed_networks = ['@allowed_networks']",
            'error: server.allowed_networks[0] = "@allowed_networks": no name can '
            "stand in the list that is named",
        )
        self.check(
            "server.trustkeysfrom = [{network = '@me'}]",
            'error: server.trustkeysfrom[0].network = "@me": no list has this name; '
            'the only name is "@allowed_networks"',
        )

    def test_empty_addresses(self) -> None:
        """An empty text is no address."""
        for key in ("allowconnects", "allowed_networks"):
            self.check(
                f"server.{key} = ['']",
                f'error: server.{key}[0] = "": an empty text is no address; leave it '
                "out",
            )

    def test_trust_windows(self) -> None:
        """A window needs a network, a moment and a number that can be reached."""
        table = [
            (
                "{until = 2026-12-01T00:00:00Z}",
                "server.trustkeysfrom[0]: network is missing; write network = ... "
                "(text)",
            ),
            (
                "{network = '::1', until = 2026-12-01T00:00:00}",
                "server.trustkeysfrom[0].until = 2026-12-01T00:00:00: a time without "
                "offset means another moment in each time zone; write "
                "2026-12-01T00:00:00Z for UTC or 2026-12-01T00:00:00+01:00",
            ),
            (
                "{network = '::1', until = 2026-12-01}",
                "server.trustkeysfrom[0].until = 2026-12-01: a date or time where a "
                "time with offset belongs; write 2026-12-01T00:00:00Z",
            ),
            (
                "{network = '::1', until = '2026-12-01T00:00:00Z'}",
                'server.trustkeysfrom[0].until = "2026-12-01T00:00:00Z": a text where '
                "a time with offset belongs; write 2026-12-01T00:00:00Z without quotes",
            ),
            (
                "{network = '::1', count = 0}",
                "server.trustkeysfrom[0].count = 0: too small; write at least 1 key",
            ),
            (
                "{network = ['::1']}",
                'server.trustkeysfrom[0].network = ["::1"]: a list where a text '
                'belongs; write "::1"',
            ),
            (
                "5",
                "server.trustkeysfrom[0] = 5: a whole number where a table belongs; "
                'write { network = ... }, or a text, its network, alone: "..."',
            ),
        ]
        for entry, said in table:
            with self.subTest(entry):
                self.check(f"server.trustkeysfrom = [{entry}]", "error: " + said)

    def test_keys_to_think_about(self) -> None:
        """The unprotected protocol is a warning where it is configured."""
        self.check(
            'server.allowlegacyconnects = ["::1"]',
            'warning: server.allowlegacyconnects = ["::1"]: the classic protocol does '
            "not protect what is sent: whoever is between node and server can read or "
            "change it; list only nodes that cannot speak TLS yet",
        )
        result, problems = structure({"server": {"allowlegacyconnects": []}})
        self.assertEqual(problems, [])
        self.assertIsNotNone(result)

    def test_counted_window_for_several_networks(self) -> None:
        """A count that would be taken once for each network is refused."""
        self.check(
            "[server]\nallowed_networks = ['::1', '::2']\n"
            "trustkeysfrom = [{network = '@allowed_networks', count = 1}]",
            'error: server.trustkeysfrom[0].network = "@allowed_networks": the name '
            "stands for 2 networks, and each would be counted by itself; write one "
            "table for each network, or leave out count",
        )

    def test_rules(self) -> None:
        """A rule says what it is about, in the way its kind does."""
        table = [
            (
                "",
                "access[0].path: neither path nor source is given; write path = "
                '"/..." for the file or folder that is served',
            ),
            (
                "source = 'x'",
                "access[0].path: the source has no path below which it answers; write "
                'path = "/x" or another absolute path',
            ),
            (
                "path = 'srv'",
                'access[0].path = "srv": not an absolute path; write the whole path,'
                " such as /var/lib/nodecomm/inputs",
            ),
            (
                "path = ''",
                'access[0].path = "": not an absolute path; write the whole path,'
                " such as /var/lib/nodecomm/inputs",
            ),
            (
                "path = '/a'\nshortcut = 'a/b/'",
                'access[0].shortcut = "a/b/": a slash cannot be part of this name; '
                'write "b"',
            ),
            (
                "path = '/a'\nshortcut = '..'",
                'access[0].shortcut = "..": this cannot be a name; write a name such '
                'as "masterfiles"',
            ),
            (
                "resource_type = 'literal'",
                "access[0].path: a literal rule without a handle or pattern; write "
                'path = "..." with the handle or pattern',
            ),
            (
                "resource_type = 'context'\npath = 'x'\nshortcut = 'y'",
                'access[0].shortcut = "y": this belongs to paths; the rule is about a '
                'context; leave it out, or resource_type = "path"',
            ),
        ]
        for toml, said in table:
            with self.subTest(toml):
                self.check(f"[[access]]\n{toml}", "error: " + said)

    def test_escapes_in_paths(self) -> None:
        """A path with a wrong escape is refused; a right one passes."""
        (said,) = messages(r"""
            [[access]]
            path = '/a\b'
        """)
        self.assertIn(r'access[0].path = "/a\\b": ', said)
        self.check("[[access]]\npath = '/a\\xff\\\\'")

    def test_variables_in_paths(self) -> None:
        """A variable that stands for nothing is a warning, for it may be a name."""
        self.check(
            "[[access]]\npath = '/a/$(connection.key)/$(sys.host)'",
            'warning: access[0].path = "/a/$(connection.key)/$(sys.host)": $(sys.host) '
            "stands for nothing and is taken as it is; known are $(connection.ip), "
            "$(connection.hostname), $(connection.key)",
        )

    def test_shortcuts_are_unique(self) -> None:
        """Two rules cannot have one shortcut; the message names the other one."""
        self.check(
            "[[access]]\npath = '/a'\nshortcut = 'x'\n"
            "[[access]]\npath = '/b'\nshortcut = 'x'",
            'error: access[1].shortcut = "x": the name is taken by access[0].shortcut '
            "in configuration; give each shortcut its own name",
        )

    def test_one_file_for_two_logs(self) -> None:
        """The log and the audit log cannot share a file."""
        self.check(
            "[log]\nfile = '/x'\naudit = '/x'",
            'error: log.audit = "/x": the log is written to the same file; give the '
            "audit log its own file",
        )

    def test_plugins_named_twice(self) -> None:
        """A plugin is named once."""
        self.check(
            "plugins.commands = ['a', 'b', 'a']",
            'error: plugins.commands[2] = "a": the same as plugins.commands[0] in '
            "configuration; leave one of them out",
        )


class AllAtOnceTests(SynchronousTestCase):
    def test_all_problems_in_one_run(self) -> None:
        """Wrong types do not hide what is wrong elsewhere, or with what is left."""
        said = messages(
            """
            [server]
            listen = "tcp:1"
            maxconnection = 5
            allowconnects = [5, "ok", "@x"]
            trustkeysfrom = [5, { network = 6 }, { network = "@y" }]
            [[access]]
            path = 5
            [[access]]
            admit_ips = [1, 2]
            [[access]]
            pth = "/x"
            [[access]]
            path = "x"
            [limits]
            idle_timeout = nan
            """
        )
        keys = [line.removeprefix("error: ").partition(" = ")[0] for line in said]
        self.assertEqual(
            sorted(key.partition(": ")[0] for key in keys),
            [
                "access[0].path",
                "access[1].admit_ips[0]",
                "access[1].admit_ips[1]",
                "access[1].path",
                "access[2].pth",
                "access[3].path",
                "limits.idle_timeout",
                "server.allowconnects[0]",
                "server.allowconnects[2]",
                "server.listen",
                "server.maxconnection",
                "server.trustkeysfrom[0]",
                "server.trustkeysfrom[1].network",
                "server.trustkeysfrom[2].network",
            ],
        )

    def test_right_parts_are_kept(self) -> None:
        """What was right can be checked further; what was wrong is known."""
        outcome = structure_partly(
            tomllib.loads(
                "[server]\nmaxconnections = 7\nallowconnects = [1, '::1']\n"
                "[[access]]\npath = 3\nadmit_ips = ['::1']\n[[access]]\npath = 'x'\n"
            )
        )
        self.assertFalse(outcome.is_usable)
        self.assertEqual(outcome.settings.server.maxconnections, 7)
        self.assertEqual(outcome.settings.server.allowconnects, ("::1",))
        self.assertEqual(outcome.settings.access[0].admit_ips, ("::1",))
        origin = outcome.settings.origin("server.allowconnects[0]")
        assert origin is not None
        self.assertEqual(origin.key_path, "server.allowconnects[1]")
        self.assertEqual(
            outcome.dropped,
            {"server.allowconnects", "access[0].path", "access[1].path"},
        )

    def test_what_is_worth_telling(self) -> None:
        """A complaint about what was left out, or about what held it, is no news."""
        told = worth_telling(
            [
                Problem(path, "m")
                for path in ("access[0].path", "access[0]", "access[0].x", "access[01]")
            ],
            {"access[0].path"},
        )
        self.assertEqual([p.key_path for p in told], ["access[0].x", "access[01]"])

    def test_one_entry_is_told_once(self) -> None:
        """What is wrong in a named list is not said for every list it is used in."""
        _, problems = structure(
            {
                "server": {
                    "allowed_networks": ["@x"],
                    "allowconnects": ["@allowed_networks"],
                    "denyconnects": ["@allowed_networks"],
                }
            }
        )
        self.assertEqual(len(problems), 1)


class NamedListTests(SynchronousTestCase):
    def test_expanded_everywhere(self) -> None:
        """The name can stand in every list of addresses, anywhere in it."""
        lists = ("allowconnects", "denyconnects", "allowallconnects")
        rules = ("admit_ips", "deny_ips", "admit", "deny", "maproot")
        written = ["1.1.1.1", "@allowed_networks", "2.2.2.2"]
        result, problems = structure(
            {
                "server": {
                    "allowed_networks": ["a", "b"],
                    "trustkeysfrom": ["@allowed_networks", {"network": "9"}],
                    "allowlegacyconnects": written,
                    **dict.fromkeys(lists, written),
                },
                "access": [{"path": "/x", **dict.fromkeys(rules, written)}],
            }
        )
        self.assertEqual(
            ["server.allowlegacyconnects"], [problem.key_path for problem in problems]
        )
        assert result is not None
        expected = ("1.1.1.1", "a", "b", "2.2.2.2")
        for name in (*lists, "allowlegacyconnects"):
            self.assertEqual(getattr(result.server, name), expected)
        for name in rules:
            self.assertEqual(getattr(result.access[0], name), expected)
        networks = [window.network for window in result.server.trustkeysfrom]
        self.assertEqual(networks, ["a", "b", "9"])

    def test_every_address_key_is_covered(self) -> None:
        """No other key takes the name: as text elsewhere it is what it says."""
        result, problems = structure(
            {"access": [{"path": "/x", "admit_hostnames": ["@allowed_networks"]}]}
        )
        self.assertEqual(problems, [])
        assert result is not None
        self.assertEqual(result.access[0].admit_hostnames, ("@allowed_networks",))

    def test_windows_keep_their_end(self) -> None:
        """Each network that came by name has the window's end."""
        result, _ = structure(
            {
                "server": {
                    "allowed_networks": ["a", "b"],
                    "trustkeysfrom": [{"network": "@allowed_networks", "until": NOON}],
                }
            }
        )
        assert result is not None
        self.assertEqual(
            result.server.trustkeysfrom,
            (
                TrustWindowSettings(network="a", until=NOON),
                TrustWindowSettings(network="b", until=NOON),
            ),
        )

    def test_origin_of_expanded_entries(self) -> None:
        """An address that came by name stands where the named list has it."""
        tree = {
            "server": {
                "allowed_networks": ["a", "b"],
                "allowconnects": ["@allowed_networks", "c"],
                "trustkeysfrom": ["@allowed_networks"],
            }
        }
        places = (
            "server.allowed_networks[0]",
            "server.allowed_networks[1]",
            "server.allowconnects[0]",
            "server.allowconnects[1]",
            "server.trustkeysfrom[0]",
        )
        origins = {path: Origin("f", n, 1) for n, path in enumerate(places, 1)}
        result, _ = structure(tree, origins)
        assert result is not None
        for path, line in (
            ("server.allowconnects[0]", 1),
            ("server.allowconnects[1]", 2),
            ("server.allowconnects[2]", 4),
            ("server.trustkeysfrom[1].network", 2),
            ("server.trustkeysfrom[1]", 5),
        ):
            origin = result.origin(path)
            assert origin is not None
            self.assertEqual(origin.line, line, path)


@frozen(kw_only=True)
class Upstream:
    token: Secret | None = field(default=None, metadata=about("Who we are."))
    name: str = field(default="x", metadata=about("Its name."))


@frozen(kw_only=True)
class LaterSettings(Settings):
    upstream: Upstream = field(factory=Upstream, metadata=about("Another table."))


class LaterKeysTests(SynchronousTestCase):
    """
    A class of the model that does not exist yet: nothing but its attributes is
    needed.
    """

    def read(self, table: dict[str, Any]) -> tuple[Upstream, list[str]]:
        """
        One `[upstream]` and what is said about it.
        """
        done = structure_tree(LaterSettings, {"upstream": table}, {})
        return done.value.upstream, [str(problem) for problem in done.problems]

    def test_secrets(self) -> None:
        """A secret is a text, or names a file or a variable."""
        for written, secret in (
            ("hunter2", Secret("hunter2")),
            ({"file": "/etc/token"}, Secret(file="/etc/token")),
            ({"env": "TOKEN"}, Secret(env="TOKEN")),
        ):
            self.assertEqual(
                self.read({"token": written}), (Upstream(token=secret), [])
            )

    def test_wrong_secrets_are_not_shown(self) -> None:
        """What stands in a secret's place is in no message, whatever is wrong."""
        hint = 'write { file = "/path" } or { env = "NAME" }'
        for written in (
            5309,
            "",
            ["hunter2"],
            {"fil": "hunter2"},
            {"file": "hunter2", "env": "hunter2"},
            {"file": 5309},
            {"env": ""},
        ):
            value, said = self.read({"token": written})
            self.assertIsNone(value.token)
            self.assertEqual(len(said), 1, said)
            self.assertIn("error: upstream.token: ", said[0])
            self.assertIn(hint, said[0])
            self.assertNotIn("hunter2", said[0])
            self.assertNotIn("5309", said[0])

    def test_misspelt_secret_is_not_shown(self) -> None:
        """A misspelt key may hold the secret."""
        _, said = self.read({"tokn": "hunter2"})
        self.assertEqual(
            said,
            [
                "configuration: error: upstream.tokn: unknown key; did you mean token?",
            ],
        )

    def test_misplaced_secrets_are_not_shown(self) -> None:
        """A secret under a wrong table, or where its table belongs, is not shown."""
        for tree in (
            {"token": "hunter2"},
            {"Tokens": ["hunter2"]},
            {"upstrem": [{"token": "hunter2"}]},
            {"upstrem": {"token": "hunter2"}},
            {"upstream": "hunter2"},
            {"log": {"token": "hunter2"}},
            {"log": {"format": {"token": "hunter2"}}},
        ):
            done = structure_tree(LaterSettings, tree, {})
            (problem,) = done.problems
            self.assertNotIn("hunter2", repr(problem))
            self.assertNotIn("hunter2", str(problem))

    def test_inherited_tables_still_work(self) -> None:
        """The tables of the model are read as before."""
        done = structure_tree(LaterSettings, {"log": {"format": "json"}}, {})
        self.assertEqual(done.value.log.format, "json")
        self.assertEqual(done.problems, ())


def _trees() -> st.SearchStrategy[dict[str, Any]]:
    names = [key.name for key in keys_of(Settings)]
    inner = [
        key.name
        for outer in keys_of(Settings)
        if outer.element is not None
        for key in keys_of(outer.element)
    ]
    leaves = (
        st.text(max_size=8)
        | st.sampled_from(["@allowed_networks", "@x", "/a", "path", "literal", "1.2"])
        | st.integers()
        | st.booleans()
        | st.floats()
        | st.datetimes()
        | st.just(date(2026, 1, 1))
    )
    keys = st.sampled_from([*names, *inner, "network", "until", "count", "x", "$"])
    values = st.recursive(
        leaves,
        lambda below: (
            st.lists(below, max_size=3)
            | st.dictionaries(keys | st.text(max_size=3), below, max_size=4)
        ),
        max_leaves=12,
    )
    tables = st.dictionaries(keys, values, max_size=5)
    return st.fixed_dictionaries(
        {},
        optional={
            name: tables | st.lists(tables, max_size=3) | values
            for name in [*names, "x"]
        },
    )


class PropertyTests(SynchronousTestCase):
    @settings(max_examples=100, deadline=None)
    @given(_trees())
    def test_any_tree(self, tree: dict[str, Any]) -> None:
        """Any tree gives settings or errors, never anything else, never a change."""
        before = repr(tree)
        outcome = structure_partly(tree)
        result, problems = structure(tree)
        self.assertEqual(repr(tree), before)
        self.assertEqual(result is None, any(p.is_error for p in problems))
        self.assertIsInstance(outcome.settings, Settings)
        for problem in problems:
            self.assertTrue(str(problem).isprintable())
        for key in keys_of(Settings):
            value = getattr(outcome.settings, key.name)
            for one in value if key.is_list else [value]:
                # A table without which something is not done at all.
                missing = one is None and key.default is None
                self.assertTrue(missing or attrs.has(type(one)))

    @settings(max_examples=100, deadline=None)
    @given(_trees())
    def test_what_is_left_is_right(self, tree: dict[str, Any]) -> None:
        """Nothing that was dropped is needed: the rest has no wrong type in it."""
        outcome = structure_partly(tree)
        again, problems = structure(_as_tree(outcome.settings))
        types = ("belongs", "unknown key", "too small", "too large", "not one of")
        for problem in problems:
            for word in types:
                self.assertNotIn(word, problem.message)
        if again is not None:
            self.assertEqual(again, outcome.settings)


def _as_tree(value: Any) -> Any:
    if attrs.has(type(value)):
        return {
            key.name: _as_tree(getattr(value, key.name))
            for key in keys_of(value.__class__)
            if getattr(value, key.name) is not None
        }
    if isinstance(value, tuple):
        return [_as_tree(one) for one in value]
    return value
