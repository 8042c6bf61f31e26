# SPDX-License-Identifier: MIT
"""
Tests for docs/configuration.rst: it says what the model says.
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from textwrap import dedent

from twisted.trial.unittest import SynchronousTestCase

from nodecomm.config.agent import AgentConfiguration
from nodecomm.config.fields import keys_of
from nodecomm.config.model import Settings
from nodecomm.config.reference import reference
from nodecomm.config.structure import structure

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

PAGE = Path(__file__).parents[2] / "docs" / "configuration.rst"


#: What the two lists of keys on the page are called in its comments.
LISTS: dict[str, type] = {"reference": Settings, "agent reference": AgentConfiguration}


def documented(name: str = "reference") -> tuple[str, str]:
    """
    The page before a list of keys, and that list.
    """
    before, _, rest = PAGE.read_text().partition(f".. begin {name}\n")
    listed, _, _ = rest.partition(f".. end {name}\n")
    return before, listed.strip() + "\n"


def every_key(cls: type, path: str = "") -> set[str]:
    """
    The name of each key of the model, below tables and lists of tables.
    """
    found = set()
    for key in keys_of(cls):
        name = f"{path}.{key.name}" if path else key.name
        if path:
            found.add(name)
        if key.element is not None:
            found |= every_key(key.element, name)
    return found


class ReferenceTests(SynchronousTestCase):
    def test_every_key_has_an_entry_and_every_entry_a_key(self) -> None:
        """The page lists exactly the keys that the server and the agent take."""
        for name, model in LISTS.items():
            _, listed = documented(name)
            entries = re.findall(r"^``([a-z_.]+)``$", listed, re.MULTILINE)
            self.assertEqual(len(entries), len(set(entries)))
            self.assertEqual(set(entries), every_key(model))

    def test_entries_say_what_the_model_says(self) -> None:
        """
        Types, units, defaults and meanings are those of the model. (After a change
        there: `python -m nodecomm.config.reference`, for the second list with `agent`
        behind it, prints the list of keys.)
        """
        for name, model in LISTS.items():
            self.assertEqual(documented(name)[1], reference(model))

    def test_entries_are_complete(self) -> None:
        """An entry has type, unit, bound, default, meaning, upstream's meaning."""
        _, listed = documented()
        start = listed.index("``server.maxconnections``")
        entry = " ".join(listed[start : listed.index("``server.deny", start)].split())
        self.assertRegex(
            entry,
            r"\*Whole number, in connections, at least 1\.\* Default: ``10000``\. "
            r"Connections held at a time\. .* In CFEngine: The default is 30",
        )

    def test_example(self) -> None:
        """The example of the page can be used as it stands."""
        before, _ = documented()
        (example,) = re.findall(r"\.\. code-block:: toml\n\n((?:   .*\n|\n)+)", before)
        result, problems = structure(tomllib.loads(dedent(example)))
        self.assertEqual(problems, [])
        assert result is not None
        self.assertEqual(result.access[0].admit_ips, ("10.0.0.0/8",))

    def test_messages_of_the_page(self) -> None:
        """The page's messages are those that the command gives."""
        # The command stands above this room; the page promises its words.
        from nodecomm.cli.config import Options, run  # noqa: PLC0415

        before, _ = documented()
        said = [
            line.strip() for line in before.splitlines() if line.startswith("   wrong")
        ]
        folder = Path(self.mktemp())
        folder.mkdir(parents=True)
        file = folder / "wrong.toml"
        file.write_text(
            '[server]\nmaxconnection = 500\nallowusers = "root"\n'
            '[[access]]\npath = "/"\nadmit_ips = ["10.0.0.0/8", "192.168."]\n'
        )
        options, out, errors = Options(), io.StringIO(), io.StringIO()
        options.parseOptions(["check", "-c", str(file)])
        status = run(options, out, errors)
        self.assertEqual(status, 1)
        told = (errors.getvalue() + out.getvalue()).replace(f"{folder}/", "")
        self.assertEqual(told.splitlines(), said)
