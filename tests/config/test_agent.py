# SPDX-License-Identifier: MIT
"""
Tests for `nodecomm.config.agent` and `nodecomm.config.durations`.
"""

from __future__ import annotations

import sys
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.config.agent import AgentConfiguration, encloses_path
from nodecomm.config.durations import duration_text, parse_duration
from nodecomm.config.secrets import HIDDEN
from nodecomm.config.showing import as_toml, shown_values
from nodecomm.config.structure import Outcome, structure_agent_partly

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

GOOD = """
[agent]
policy_servers = ["hub.example.com:5308"]
interval = "5m"
after_update = ["/usr/bin/cf-agent", "-K"]

[[copy]]
source = "masterfiles"
destination = "/var/lib/nodecomm/inputs"
compare = "auto"
purge = true
"""


def read(text: str) -> Outcome[AgentConfiguration]:
    """What becomes of a file."""
    return structure_agent_partly(tomllib.loads(text))


def wrong(text: str) -> list[str]:
    """Key, message and hint of each problem of a file."""
    return [
        f"{p.severity} {p.key_path}: {p.message}; {p.hint}".removesuffix("; ")
        for p in read(text).problems
    ]


class AgentConfigurationTests(SynchronousTestCase):
    def test_good(self) -> None:
        """The example of the documentation is right, and the rest is the default."""
        outcome = read(GOOD)

        self.assertEqual(outcome.problems, ())
        agent = outcome.settings.agent
        self.assertEqual(agent.after_update, ("/usr/bin/cf-agent", "-K"))
        self.assertEqual(agent.interval, "5m")
        self.assertIsNone(agent.splay)
        self.assertFalse(agent.trust_server)
        self.assertEqual(agent.server_keys, ())
        (copy,) = outcome.settings.copy
        self.assertTrue(copy.purge)
        self.assertEqual((copy.compare, copy.replace), ("auto", "exchange"))

    def test_nothing(self) -> None:
        """An empty file says what is needed."""
        self.assertEqual(
            [line.split(":")[0] for line in wrong("")],
            ["error agent.policy_servers", "error copy"],
        )

    def test_every_mistake_in_one_run(self) -> None:
        """Unknown keys, wrong types, bounds: told together, with what is right."""
        said = wrong(
            """
            [agent]
            policy_server = ["hub"]
            interval = 300
            timeout = "2 minutes"
            splay = "45"
            max_duration = "0s"
            protocol = 1
            after_update = ["cf-agent", 3]
            user = "a b"
            [[copy]]
            source = ""
            destination = "inputs"
            compare = "digests"
            [[copy]]
            destination = "/b"
            exclude = ["/x", "//"]
            """
        )
        for expected in (
            "error agent.policy_server: unknown key; did you mean policy_servers?",
            'error agent.interval: a length of time needs a unit; write "300s"',
            'error agent.timeout: not a length of time; write a text such as "90s",'
            ' "5m", "1h30m"',
            'error agent.splay: not a length of time; write "45s"',
            'error agent.max_duration: too short; write at least "1s"',
            "error agent.protocol: not one of the values this key takes; write one of"
            ' 2, 3, "classic"',
            "error copy[0].destination: not an absolute path; write the"
            " whole path, such as /var/lib/nodecomm/inputs",
            "error copy[0].compare: not one of the values this key takes; write"
            ' "digest"',
            "error copy[1]: source is missing; write source = ... (text)",
            'error copy[1].exclude[0]: names are relative to the source; write "x"',
            "error copy[1].exclude[1]: this matches no name; leave it out",
        ):
            self.assertIn(expected, said)
        keys = {line.split(":")[0] for line in said}
        for key in ("agent.after_update", "agent.user", "copy[0].source"):
            self.assertIn(f"error {key}", keys)

    def test_after_update(self) -> None:
        """A text is warned about, a program without a path is an error."""
        line = 'after_update = ["/usr/bin/cf-agent", "-K"]'
        said = wrong(GOOD.replace(line, 'after_update = "cf-agent -K"'))
        self.assertEqual(len(said), 1)
        self.assertTrue(
            said[0].startswith(
                "warning agent.after_update: a text is given to /bin/sh -c; "
            )
        )
        said = wrong(GOOD.replace(line, 'after_update = ["cf-agent"]'))
        self.assertIn(
            "error agent.after_update[0]: the program is not named by", said[0]
        )
        self.assertEqual(wrong(GOOD.replace(line, "after_update = []")), [])
        said = wrong(GOOD.replace(line, 'after_update = " "'))
        self.assertIn("an empty text is no command", said[0])
        said = wrong(GOOD.replace(line, 'after_update = ["/a", "\\u0000"]'))
        self.assertIn("a NUL cannot be part of a command", said[0])
        said = wrong(GOOD.replace(line, "after_update = true"))
        self.assertIn("true or false where a list of texts belongs", said[0])

    def test_a_listener(self) -> None:
        """
        A listener with the node's own sync, or with a command, users, classes and
        bundles of its own, is right.
        """
        sync = 'listen = ["tcp6:5308"]\ncfruncommand = "sync"\n'
        outcome = read(GOOD.replace("[agent]", f"[agent]\n{sync}"))
        self.assertEqual((), outcome.problems)
        self.assertEqual(("root",), outcome.settings.agent.allowusers)
        command = (
            'listen = ["tcp6:5308"]\ncfruncommand = ["/usr/bin/cf-agent", "-K"]\n'
            'allowusers = ["root", "ops"]\ncfrunuser = "root"\n'
            f'run_keys = ["MD5={"a" * 32}", "/etc/hub.pub"]'
        )
        tables = """
            [[access]]
            path = "b.*"
            resource_type = "bundle"
            admit_keys = ["MD5=0123456789abcdef0123456789abcdef"]
            [[roles]]
            pattern = "c.*"
            authorize = ["ops"]
            [run]
            at_once = 2
            [log]
            audit = "/var/log/nodecomm/agent-audit.json"
            """
        outcome = read(GOOD.replace("[agent]", f"[agent]\n{command}") + tables)
        self.assertEqual((), outcome.problems)
        self.assertEqual("b.*", outcome.settings.access[0].path)
        self.assertEqual(("ops",), outcome.settings.roles[0].authorize)
        self.assertEqual(2, outcome.settings.run.at_once)

    def test_nothing_to_copy(self) -> None:
        """
        An agent that runs a program for others needs no copy; one that listens
        nowhere, or whose own sync is asked for, does.
        """
        hub = '[agent]\npolicy_servers = ["hub"]\n'
        listen, program = 'listen = ["tcp6:5308"]\n', 'cfruncommand = ["/x/y"]\n'
        self.assertEqual([], wrong(hub + listen + program))
        for text in ("", program, listen + 'cfruncommand = "sync"'):
            said = [line for line in wrong(hub + text) if line.startswith("error")]
            self.assertEqual(1, len(said))
            self.assertIn("error copy: nothing is to be copied", said[0])

    def test_a_listener_that_cannot_be(self) -> None:
        """
        What contradicts itself is an error, what has no effect a warning.
        """
        listen = 'listen = ["tcp6:5308"]'
        sync = 'cfruncommand = "sync"'
        cases = {
            listen: "error agent.listen: there is nothing that could be asked for here:"
            ' cfruncommand is not set; write cfruncommand = "sync" in [agent]',
            sync: "warning agent.cfruncommand: it has no effect: the agent listens"
            " nowhere",
            f'run_keys = ["MD5={"0" * 32}"]': "warning agent.run_keys: it has no"
            " effect",
            f'{listen}\n{sync}\ncfrunuser = "root"': "warning agent.cfrunuser: it has"
            " no effect: the sync is done by the agent itself",
            f"{listen}\n{sync}\nallowusers = []": "warning agent.allowusers: nobody may"
            " ask for a run",
            f'{listen}\ncfruncommand = ["cf-agent"]': "error agent.cfruncommand[0]: the"
            " program is not named by an absolute path",
            f'{listen}\ncfruncommand = "/usr/bin/cf-agent -K"': "warning"
            " agent.cfruncommand: a text is given to /bin/sh -c",
            f'{sync}\nlisten = ["tcp6:1", "tcp6:1"]': "error agent.listen[1]: the same"
            " as agent.listen[0]",
            f'{sync}\nlisten = ["5308"]': "error agent.listen[0]: ",
            f"{listen}\ncfruncommand = 3": "error agent.cfruncommand: ",
        }
        for lines, expected in cases.items():
            said = wrong(GOOD.replace("[agent]", f"[agent]\n{lines}"))
            self.assertEqual(1, len(said), (lines, said))
            self.assertIn(expected, said[0])

    def test_no_trust_on_first_use_for_callers(self) -> None:
        """
        `trustkeysfrom` is an error in whatever form, which says what to write.
        """
        for form in ('["10.0.0.0/8"]', '[{ network = "10.0.0.0/8" }]', '"0.0.0.0/0"'):
            (said,) = wrong(GOOD.replace("[agent]", f"[agent]\ntrustkeysfrom = {form}"))
            self.assertTrue(
                said.startswith(
                    "error agent.trustkeysfrom: an agent trusts nobody on first use"
                ),
                said,
            )
            self.assertIn("run_keys = [", said)

    def test_keys_of_a_server(self) -> None:
        """
        What says who may connect to a server, and its tables, are told with what an
        agent has in their place.
        """
        for lines in ('allowallconnects = ["::/0"]', 'trustusers = ["root"]'):
            (said,) = wrong(GOOD.replace("[agent]", f"[agent]\n{lines}"))
            self.assertIn("the key of whoever connects decides", said)
            self.assertIn("run_keys = [", said)
        for table in ("server", "limits"):
            (said,) = wrong(f"{GOOD}\n[{table}]\nx = 1\n")
            self.assertTrue(said.startswith(f"error {table}: "), said)
            self.assertIn("belongs to nodecomm-server", said)
        (said,) = wrong(f"{GOOD}\n[sever]\nx = 1\n")
        self.assertIn("unknown key", said)

    def test_only_bundles_are_served(self) -> None:
        """
        A rule about files, or about what only files have, is no rule of an agent.
        """
        start = GOOD.replace(
            "[agent]", '[agent]\nlisten = ["tcp6:5308"]\ncfruncommand = ["/x/y"]'
        )
        cases = {
            'path = "/srv"': "access[0]: resource_type is missing; write resource_type"
            ' = "bundle" if path names a bundle; for the program of cfruncommand no',
            'path = "/srv"\nresource_type = "path"': "access[0].resource_type: not one"
            ' of the values this key takes; write one of "bundle"',
            'resource_type = "bundle"': "access[0]: path is missing",
            'path = ""\nresource_type = "bundle"': "access[0].path: a bundle rule"
            " without a pattern",
            'path = "b"\nresource_type = "bundle"\nshortcut = "x"': "access[0]"
            ".shortcut: unknown key",
        }
        for lines, expected in cases.items():
            said = wrong(f"{start}\n[[access]]\n{lines}\n")
            self.assertEqual(1, len(said), (lines, said))
            self.assertIn(f"error {expected}", said[0])
        program = 'path = "/x/y"\nresource_type = "bundle"'
        (line,) = wrong(f"{start}\n[[access]]\n{program}\n")
        self.assertIn("warning access[0].path: no bundle has such a name", line)
        sync = start.replace('["/x/y"]', '"sync"')
        (line,) = wrong(f'{sync}\n[[access]]\npath = "b"\nresource_type = "bundle"\n')
        self.assertIn("warning access: they have no effect: the node's own", line)

    def test_the_protocol(self) -> None:
        """
        Two versions over TLS, by number, and classic by its name, which is warned
        about; to ask for encryption has a meaning there alone.
        """

        def said(*lines: str) -> list[str]:
            return wrong(GOOD.replace("[agent]", "\n".join(["[agent]", *lines])))

        classic = 'protocol = "classic"'
        warning = "warning agent.protocol: the classic protocol does not protect"
        for line, protocol in (
            ("protocol = 2", 2),
            ("protocol = 3", 3),
            (classic, "classic"),
        ):
            outcome = read(GOOD.replace("[agent]", f"[agent]\n{line}"))
            self.assertTrue(outcome.is_usable)
            self.assertEqual(outcome.settings.agent.protocol, protocol)
            self.assertIs(outcome.settings.agent.encrypt, False)
        self.assertEqual(said("protocol = 2", "encrypt = false"), [])
        for lines in ((classic,), (classic, "encrypt = true")):
            (line,) = said(*lines)
            self.assertTrue(line.startswith(warning), line)
        for lines in (("encrypt = true",), ("protocol = 3", "encrypt = true")):
            (line,) = said(*lines)
            self.assertTrue(line.startswith("error agent.encrypt: it is about the"))
        # What is right beside the wrong word is not judged by it.
        (line,) = said('protocol = "clasic"', "encrypt = true")
        self.assertTrue(line.endswith('write "classic"'), line)
        for wrong_value in ("true", '"2"', "2.0", "4", "[2]"):
            (line,) = said(f"protocol = {wrong_value}")
            self.assertTrue(line.startswith("error agent.protocol: not one of"), line)

    def test_overlapping_destinations(self) -> None:
        """No two copies work on one folder, however its name is written."""
        for second, word in (
            ("/var/lib/nodecomm/inputs", "the same as"),
            ("//var/lib/nodecomm//inputs/", "the same as"),
            ("/var/lib/nodecomm/inputs/sub", "inside"),
            ("/var/lib", "around"),
        ):
            said = wrong(f'{GOOD}[[copy]]\nsource = "x"\ndestination = "{second}"\n')
            self.assertEqual(len(said), 1, second)
            self.assertIn(f"error copy[1].destination: this is {word} ", said[0])
        for apart in ("/var/lib/nodecomm/inputs2", "/var/lib/nodecomm/modules"):
            text = f'{GOOD}[[copy]]\nsource = "x"\ndestination = "{apart}"\n'
            self.assertEqual(wrong(text), [])

    def test_impossible_destinations(self) -> None:
        """The root, and what goes up."""
        for path, message in (
            ("/", "the root folder"),
            ("//", "the root folder"),
            ("/a/../b", "cannot go up"),
        ):
            said = wrong(GOOD.replace("/var/lib/nodecomm/inputs", path))
            self.assertIn(message, said[0])

    def test_twice_the_same(self) -> None:
        """A server or a key that is named twice is a mistake."""
        text = GOOD.replace(
            '["hub.example.com:5308"]', '["a", "b", "a"]\nserver_keys = ["/k", "/k"]'
        )
        self.assertEqual(
            [line.split(":")[0] for line in wrong(text)],
            ["error agent.policy_servers[2]", "error agent.server_keys[1]"],
        )

    def test_showing(self) -> None:
        """What is shown is a file that means the same, but for its secrets."""
        configuration = read(GOOD).settings
        text = as_toml(configuration)
        self.assertEqual(text.count(HIDDEN), 1)
        again = read(text.replace(HIDDEN, "rudder"))

        self.assertEqual(again.problems, ())
        self.assertEqual(again.settings, configuration)
        shown = {value.key_path: value.value for value in shown_values(configuration)}
        self.assertEqual(shown["agent.after_update"], ("/usr/bin/cf-agent", "-K"))
        self.assertEqual(shown["copy[0].purge"], True)


class DurationTests(SynchronousTestCase):
    def test_table(self) -> None:
        """What people write."""
        for text, seconds in (
            ("90s", 90),
            ("5m", 300),
            ("1h30m", 5400),
            ("2d", 172800),
            ("1d1s", 86401),
            ("0s", 0),
        ):
            self.assertEqual(parse_duration(text), seconds)

    def test_wrong(self) -> None:
        """Everything else is refused."""
        for text in ("", "5", "m", "5 m", "1m1h", "5M", "-5m", "1.5h", "٣m", "5m\n"):
            self.assertRaises(ValueError, parse_duration, text)

    @settings(max_examples=100)
    @given(st.integers(0, 10**8))
    def test_text(self, seconds: int) -> None:
        """The text can be read again; it is right to a part in some hundred."""
        again = parse_duration(duration_text(seconds))
        self.assertLessEqual(again, seconds)
        self.assertLessEqual(seconds - again, max(seconds // 24, 0))
        if seconds < 3600:
            self.assertEqual(again, seconds)


class PathTests(SynchronousTestCase):
    def test_enclosing(self) -> None:
        """By whole parts of the name."""
        cases: list[tuple[Any, ...]] = [
            ("/a", "/a", True),
            ("/a/", "/a/b", True),
            ("/a", "/ab", False),
            ("/", "/x", True),
            ("/a/b", "/a", False),
        ]
        for outer, inner, expected in cases:
            self.assertIs(encloses_path(outer, inner), expected)
