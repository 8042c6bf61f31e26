# SPDX-License-Identifier: MIT
"""
Tests for `nodecomm.service.loading` and `nodecomm.service.positions`.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import attrs
from attrs import field, frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.access.compile import Resolved
from nodecomm.config.errors import (
    ConfigError,
    Origin,
    Problem,
    child_path,
    element_path,
    in_toml,
)
from nodecomm.config.fields import about
from nodecomm.config.model import Settings
from nodecomm.config.secrets import Secret
from nodecomm.identity.places import standard_state_dir
from nodecomm.service.loading import (
    Loaded,
    check_access,
    embedded_defaults,
    file_path,
    load,
    read_secrets,
    resolve_path,
)
from nodecomm.service.positions import find_positions, place_of_error

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]


class FolderCase(SynchronousTestCase):
    """
    A test with a folder of its own.
    """

    def setUp(self) -> None:
        """Make the folder."""
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir(parents=True)
        self.file = self.folder / "server.toml"

    def write(self, text: str | bytes, name: str = "server.toml") -> Path:
        """
        Write a file in the folder.
        """
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def load(self, **more: Any) -> Loaded:
        """
        Load server.toml, with an empty environment.
        """
        more.setdefault("environ", {})
        return load(self.file, **more)

    def said(self, loaded: Loaded) -> list[str]:
        """
        The problems, with file names as they are in the folder.
        """
        prefix = f"{self.folder}/"
        return [str(problem).replace(prefix, "") for problem in loaded.problems]


class LoadTests(FolderCase):
    def test_one_file(self) -> None:
        """What a file says is what the settings hold, each value with its place."""
        self.write('[server]\nlisten = ["tcp:1",\n  "tcp:2"]\n')
        loaded = self.load()
        self.assertEqual(loaded.problems, ())
        self.assertEqual(loaded.usable().server.listen, ("tcp:1", "tcp:2"))
        self.assertEqual(loaded.sources, (str(self.file),))
        self.assertEqual(loaded.description, str(self.file))
        self.assertEqual(
            loaded.usable().origin("server.listen[1]"),
            Origin(str(self.file), 3, 3, "server.listen[1]"),
        )
        self.assertIsNone(loaded.usable().origin("server.maxconnections"))

    def test_missing_file(self) -> None:
        """A file that was named and is not there is an error, never the defaults."""
        loaded = self.load()
        self.assertEqual(
            self.said(loaded),
            ["server.toml: error: cannot be read: No such file or directory"],
        )
        self.assertIsNone(loaded.settings)
        with self.assertRaisesRegex(ConfigError, "No such file"):
            loaded.usable()

    def test_not_a_file(self) -> None:
        """A folder, a fifo or a device is refused without waiting for it."""
        self.file.mkdir()
        self.assertEqual(
            self.said(self.load())[0],
            "server.toml: error: is a folder; name a file, in it or elsewhere",
        )
        self.file.rmdir()
        os.mkfifo(self.file)
        self.assertEqual(
            self.said(self.load()),
            ["server.toml: error: is not a regular file; name one that is"],
        )

    def test_endless_file(self) -> None:
        """A file of unreasonable length is not read into memory."""
        with self.file.open("wb") as file:
            file.truncate(2**40)
        (said,) = self.said(self.load())
        self.assertEqual(said, "server.toml: error: is longer than 16777216 bytes")

    def test_syntax_errors(self) -> None:
        """A file that is no TOML is refused with line and column."""
        table: list[tuple[str | bytes, str]] = [
            ("[server]\nlisten = [\n", "server.toml:3:1: error: not valid TOML: "),
            ("[server]\n  x == 1\n", "server.toml:2:6: error: not valid TOML: "),
            ("a = 1\na = 2\n", "server.toml:2:6: error: not valid TOML: "),
            ("a = '", "server.toml:1:"),
            (
                b"[server]\n# \xc3\xa9\xff\n",
                "server.toml:2:4: error: byte 0xff is not UTF-8; save the file as "
                "UTF-8",
            ),
            (
                b"\xef\xbb\xbf[server]\n",
                "server.toml:1:1: error: begins with a byte order mark; save the file "
                "as UTF-8 without one",
            ),
        ]
        for source, start in table:
            with self.subTest(source):
                self.write(source)
                (said,) = self.said(self.load())
                self.assertTrue(said.startswith(start), said)
                self.assertNotIn("(at ", said)

    def test_nesting_without_end(self) -> None:
        """Nesting that no reader survives is an error like any other."""
        self.write("a = " + "[" * 20000)
        loaded = self.load()
        self.assertIsNone(loaded.settings)
        self.assertEqual(len(loaded.problems), 1)

    def test_columns_count_characters(self) -> None:
        """Columns are those that an editor shows."""
        self.write('server = { "é" = 1, listen = [1] }\n')
        self.assertEqual(
            [said.partition(": ")[0] for said in self.said(self.load())],
            ["server.toml:1:12", "server.toml:1:31"],
        )

    def test_every_problem_with_its_place(self) -> None:
        """All that is wrong is said in one run, in the order of the file."""
        self.write(
            """\
[server]
listen = "tcp:1"
trustkeysfrom = ["::1", { until = 2126-12-01T00:00:00Z }]
bogus = 1
[[access]]
shortcut = "a/b"
[[access]]
path = "/srv"
admit_ips = ["::1", 5]
"""
        )
        self.assertEqual(
            [said.split(": ")[:2] for said in self.said(self.load())],
            [
                ["server.toml:2:1", "error"],
                ["server.toml:3:25", "error"],
                ["server.toml:4:1", "error"],
                ["server.toml:5:1", "error"],
                ["server.toml:6:1", "error"],
                ["server.toml:9:21", "error"],
            ],
        )


class PartsTests(FolderCase):
    def test_parts_are_read_in_name_order(self) -> None:
        """Files beside it are read after it: tables merge, [[...]] add up."""
        self.write("[server]\nmaxconnections = 5\n[[access]]\npath = '/a'\n")
        self.write("[[access]]\npath = '/c'\n", "server.d/20-b.toml")
        self.write(
            "[server]\ntrustusers = ['x']\n[[access]]\npath = '/b'\n",
            "server.d/10-a.toml",
        )
        self.write("broken =", "server.d/.10-a.toml")
        self.write("broken =", "server.d/README")
        self.write("broken =", "other.d/10-a.toml")
        loaded = self.load()
        self.assertEqual(loaded.problems, ())
        result = loaded.usable()
        self.assertEqual(result.server.maxconnections, 5)
        self.assertEqual(result.server.trustusers, ("x",))
        self.assertEqual([rule.path for rule in result.access], ["/a", "/b", "/c"])
        names = ("server.toml", "server.d/10-a.toml", "server.d/20-b.toml")
        self.assertEqual(
            loaded.sources, tuple(str(self.folder / name) for name in names)
        )
        self.assertEqual(loaded.description, ", ".join(loaded.sources))
        self.assertEqual(
            result.origin("access[2].path"),
            Origin(str(self.folder / names[2]), 2, 1, "access[0].path"),
        )

    def test_second_value(self) -> None:
        """A second value for one key is an error with both values and places."""
        table = [
            ("maxconnections = 5", "maxconnections = 6", "5", "6"),
            ("allowusers = ['a']", "allowusers = ['b']", '["a"]', '["b"]'),
            ("listen = ['tcp:1']", "listen.x = 1", '["tcp:1"]', '{ x = "..." }'),
            ("listen.x = 1", "listen = ['tcp:1']", '{ x = "..." }', '["tcp:1"]'),
            (
                "trustkeysfrom = [{network = '::1'}]",
                "trustkeysfrom = [{network = '::2'}]",
                '[{ network = "..." }]',
                '[{ network = "..." }]',
            ),
        ]
        for first, second, before, value in table:
            key = "server." + re.split(r"[ .]", first)[0]
            with self.subTest(second):
                self.write(f"[server]\n{first}\n")
                self.write(f"# two\n[server]\n\n  {second}\n", "server.d/1.toml")
                said = self.said(self.load())
                wanted = (
                    "server.d/1.toml:4:3: error: "
                    f"{key} = {value}: this key already has the value {before} in "
                    "server.toml:2:1; keep one of the two"
                )
                self.assertIn(wanted, said)

    def test_arrays_of_tables_anywhere(self) -> None:
        """[[...]] adds up below other tables too."""
        text = "[[server.trustkeysfrom]]\nnetwork = '{}'\n"
        self.write(text.format("::1"))
        self.write(text.format("::2"), "server.d/1.toml")
        result = self.load().usable()
        self.assertEqual(
            [window.network for window in result.server.trustkeysfrom], ["::1", "::2"]
        )

    def test_problem_in_a_part(self) -> None:
        """A problem names the key as it reads in its own file."""
        self.write("[[access]]\npath = '/a'\n")
        self.write("[[access]]\npath = 5\n", "server.d/1.toml")
        self.assertEqual(
            self.said(self.load()),
            [
                "server.d/1.toml:2:1: error: access[0].path = 5: a whole number where "
                'a text belongs; write "5"'
            ],
        )

    def test_shortcut_taken_in_another_file(self) -> None:
        """Two rules in two files cannot have one shortcut; both are named."""
        rule = "[[access]]\npath = '/a'\nshortcut = 'x'\n"
        self.write(rule)
        self.write(rule, "server.d/1.toml")
        self.assertEqual(
            self.said(self.load()),
            [
                'server.d/1.toml:3:1: error: access[0].shortcut = "x": the name is '
                "taken by access[0].shortcut in server.toml:3:1; give each shortcut "
                "its own name"
            ],
        )

    def test_broken_part_does_not_hide_others(self) -> None:
        """What can be read is checked even when one file cannot."""
        self.write("server.listen = 5\n")
        self.write("x = [", "server.d/1.toml")
        self.write("[log]\nformat = 1\n", "server.d/2.toml")
        said = self.said(self.load())
        self.assertEqual(
            [line.partition(":")[0] for line in said],
            ["server.toml", "server.d/1.toml", "server.d/2.toml"],
        )

    def test_name_without_suffix(self) -> None:
        """The folder of a file that is not called .toml is its whole name and .d."""
        self.write("", "nodecomm.conf")
        self.write("plugins.override = true", "nodecomm.conf.d/1.toml")
        loaded = load(self.folder / "nodecomm.conf", environ={})
        self.assertTrue(loaded.usable().plugins.override)

    def test_folder_of_parts_is_a_file(self) -> None:
        """A file where the folder should be is said to be wrong."""
        self.write("")
        self.write("", "server.d")
        self.assertEqual(
            self.said(self.load()), ["server.d: error: cannot be read: Not a directory"]
        )


class DefaultsTests(FolderCase):
    def test_embedded_defaults(self) -> None:
        """Without any file there are defaults for trying it out, and it says so."""
        missing = self.folder / "etc" / "server.toml"
        loaded = load(None, state_dir=self.folder, environ={}, system_file=missing)
        self.assertEqual(loaded.problems, ())
        self.assertEqual(loaded.settings, embedded_defaults(self.folder))
        self.assertEqual(loaded.sources, ())
        self.assertEqual(
            loaded.description,
            f"embedded defaults for development ({missing} does not exist), state in "
            f"{self.folder}",
        )

    def test_what_they_are(self) -> None:
        """This machine alone is trusted and served, from the state folder."""
        result = embedded_defaults(Path("x"))
        state = str(Path("x").absolute())
        local = ("127.0.0.0/8", "::1")
        self.assertEqual(result.server.listen, ("tcp6:5308",))
        self.assertEqual(result.server.state_dir, state)
        self.assertEqual(result.server.allowconnects, local)
        self.assertEqual(
            tuple(window.network for window in result.server.trustkeysfrom), local
        )
        self.assertEqual(
            [(rule.shortcut, rule.path) for rule in result.access],
            [
                ("masterfiles", f"{state}/masterfiles/"),
                ("modules", f"{state}/modules/"),
            ],
        )
        for rule in result.access:
            self.assertEqual(rule.admit_ips, local)
        self.assertEqual(str(result.origin("server.state_dir")), "embedded defaults")

    def test_odd_state_folder(self) -> None:
        """The state folder may have any name; paths of settings are its text form."""
        folder = os.fsdecode(b"/tmp/a\\b\xff")
        result = embedded_defaults(Path(folder))
        self.assertEqual(result.server.state_dir, r"/tmp/a\\b\xff")
        self.assertEqual(file_path(result.server.state_dir), Path(folder))

    def test_system_file(self) -> None:
        """With no file named, the one of the system is read when it is there."""
        self.write("server.maxconnections = 7")
        loaded = load(None, environ={}, system_file=self.file)
        self.assertEqual(loaded.usable().server.maxconnections, 7)
        self.assertEqual(loaded.description, str(self.file))

    def test_only_parts(self) -> None:
        """Parts without the system's file are a configuration, too."""
        self.write("server.maxconnections = 7", "server.d/1.toml")
        loaded = load(None, environ={}, system_file=self.file)
        self.assertEqual(loaded.usable().server.maxconnections, 7)
        self.assertEqual(loaded.sources, (str(self.folder / "server.d/1.toml"),))

    def test_system_file_that_cannot_be_read(self) -> None:
        """A system's file that is there but unreadable never becomes the defaults."""
        self.file.symlink_to(self.file.name)
        loaded = load(None, environ={}, system_file=self.file)
        self.assertIsNone(loaded.settings)
        self.assertIn("cannot be read", self.said(loaded)[0])


class StateDirTests(FolderCase):
    def test_precedence(self) -> None:
        """The option goes before the variable, that before the file."""
        self.write("server.state_dir = '/from/file'")
        table: list[tuple[Path | None, dict[str, str], str, str]] = [
            (None, {}, "/from/file", f"{self.file}:1:1"),
            (None, {"NODECOMM_STATE_DIR": "/v"}, "/v", "NODECOMM_STATE_DIR"),
            (Path("/o"), {"NODECOMM_STATE_DIR": "/v"}, "/o", "--state-dir"),
            (Path("o"), {}, os.path.abspath("o"), "--state-dir"),
        ]
        for option, environ, expected, origin in table:
            with self.subTest(origin):
                result = self.load(state_dir=option, environ=environ).usable()
                self.assertEqual(result.server.state_dir, expected)
                self.assertEqual(str(result.origin("server.state_dir")), origin)

    def test_nobody_says(self) -> None:
        """Without any word it is the standard folder, and that is a default."""
        self.write("")
        environ = {"XDG_STATE_HOME": "/xdg"}
        result = self.load(environ=environ).usable()
        expected = standard_state_dir(environ, os.geteuid())
        self.assertEqual(result.server.state_dir, str(expected))
        self.assertIsNone(result.origin("server.state_dir"))

    def test_standard_folders(self) -> None:
        """/var/lib for root, the XDG state folder for others."""
        home = Path("~/.local/state/nodecomm").expanduser()
        self.assertEqual(
            standard_state_dir({"XDG_STATE_HOME": "/x"}, 0), Path("/var/lib/nodecomm")
        )
        for environ, expected in (
            ({"XDG_STATE_HOME": "/x"}, Path("/x/nodecomm")),
            ({"XDG_STATE_HOME": "relative"}, home),
            ({"XDG_STATE_HOME": ""}, home),
            ({}, home),
        ):
            self.assertEqual(standard_state_dir(environ, 1000), expected)


@frozen(kw_only=True)
class Service:
    token: Secret | None = field(default=None, metadata=about("A token."))


@frozen(kw_only=True)
class Services(Settings):
    services: tuple[Service, ...] = field(default=(), metadata=about("Several."))


class SecretsTests(FolderCase):
    def read(self, secret: Secret, **environ: str) -> tuple[str | None, list[str]]:
        """
        Read one secret; its text and what is said.
        """
        origin = Origin("f", 3, 4, "services[0].token")
        value = Services(
            services=(Service(token=secret),), origins={"services[0].token": origin}
        )
        result, problems = read_secrets(value, self.folder, environ)
        token = result.services[0].token
        assert token is not None
        text = token.reveal() if token.is_known else None
        return text, [str(p).replace(f"{self.folder}/", "") for p in problems]

    def test_from_a_file(self) -> None:
        """A secret is the file's text without the end of its last line."""
        for content in ("geheim é", "geheim é\n", "geheim é\r\n"):
            self.write(content, "token")
            self.assertEqual(self.read(Secret(file="token")), ("geheim é", []))
            absolute = str(self.folder / "token")
            self.assertEqual(self.read(Secret(file=absolute)), ("geheim é", []))

    def test_from_the_environment(self) -> None:
        """A secret can be a variable of the environment."""
        self.assertEqual(self.read(Secret(env="T"), T="geheim"), ("geheim", []))

    def test_in_place(self) -> None:
        """A secret that stands in the file is as it is."""
        self.assertEqual(self.read(Secret("geheim")), ("geheim", []))

    def test_cannot_be_read(self) -> None:
        """A secret that is not where it should be is an error with its place."""
        self.write("", "empty")
        self.write(b"\xff", "binary")
        (self.folder / "folder").mkdir()
        table = [
            (
                Secret(file="none"),
                "the secret's file none cannot be read: No such file",
            ),
            (Secret(file="empty"), "the secret's file empty is empty"),
            (Secret(file="binary"), "the secret's file binary is no text"),
            (Secret(file="folder"), "the secret's file folder is a folder"),
            (Secret(env="T"), "the environment variable T is not set; set it, or"),
        ]
        for secret, start in table:
            text, (said,) = self.read(secret)
            self.assertIsNone(text)
            prefix = "f:3:4: error: services[0].token: "
            self.assertTrue(said.startswith(prefix + start), said)


class AccessTests(FolderCase):
    def check(self, text: str) -> list[str]:
        """
        What loading and the rules say together.
        """
        self.write(text)
        snapshot, loaded = check_access(self.load(), resolve=self.resolve)
        self.assertEqual(snapshot is None, loaded.settings is None)
        return self.said(loaded)

    @staticmethod
    def resolve(path: bytes) -> Resolved | None:
        """
        Every path is a folder.
        """
        return Resolved(path, True)

    def test_good(self) -> None:
        """A good configuration gives a snapshot."""
        said = self.check("[[access]]\npath = '/a'\nadmit_ips = ['10.0.0.0/8']\n")
        self.assertEqual(said, [])

    def test_entries_that_match_nothing(self) -> None:
        """An address that could never match is an error at its place."""
        for key, line in (
            ("[server]\nallowconnects", 2),
            ("[server]\ntrustkeysfrom", 2),
            ("[[access]]\npath = '/a'\nadmit_ips", 3),
        ):
            said = self.check(f"{key} = ['127.0.0.1', '192.168.']\n")
            self.assertEqual(len(said), 1, said)
            self.assertIn(f"server.toml:{line}:", said[0])
            self.assertIn('[1] = "192.168.": ', said[0])
            self.assertIn("192.168.0.0/16", said[0])

    def test_nothing_is_an_error_in_every_list(self) -> None:
        """
        An entry that can match nothing is an error in admit and deny lists alike; an
        old expression without a counterpart is one that cannot be evaluated.
        """
        rule = "[[access]]\npath = '/a'\nadmit_ips = ['::1']\n"
        for name, entry in (
            ("", "foo bar"),
            ("_hostnames", "ex ample"),
            ("_keys", "abc"),
            ("_ips", "fe80::1-zz"),
        ):
            for kind in ("admit", "deny"):
                if kind + name == "admit_ips":
                    continue
                (said,) = self.check(f"{rule}{kind}{name} = ['{entry}']\n")
                self.assertIn(f": error: access[0].{kind}{name}[0] = ", said)
        (said,) = self.check(rule + "admit = ['x.*y']\n")
        self.assertIn(": warning: ", said)
        (said,) = self.check(rule + "deny = ['x.*y']\n")
        self.assertIn(": error: ", said)

    def test_parts_of_addresses(self) -> None:
        """A part that no address has is an error that says what to write."""
        for entry, hint in (
            ("fe80::1-zz", "write one, such as 10.1.2.3"),
            ("fe80::1-12345", "write one to four hexadecimal digits"),
            ("10.0.0.1-09", "write a number from 0 to 255"),
        ):
            (said,) = self.check(f"[server]\nallowconnects = ['{entry}']\n")
            self.assertIn(f'= "{entry}": ', said)
            self.assertIn(f"; {hint}", said)

    def test_deny_stops_and_admit_warns(self) -> None:
        """What cannot be evaluated exactly: an error in deny lists, else a warning."""
        rule = "[[access]]\npath = '/a'\nadmit_keys = ['SHA=" + "0" * 64 + "']\n"
        (said,) = self.check(rule + "deny_ips = ['10(?=x)']\n")
        self.assertIn("server.toml:4:13: error: access[0].deny_ips[0]", said)
        (said,) = self.check(rule + "admit_ips = ['10(?=x)']\n")
        self.assertIn("server.toml:4:14: warning: access[0].admit_ips[0]", said)

    def test_wrong_types_hide_no_rules(self) -> None:
        """Both kinds of problem are told in one run, in the order of the file."""
        said = self.check(
            "[server]\nlisten = 5\n[[access]]\npath = '/a'\nadmit_ips = ['1.']\n"
            "[[access]]\npath = 6\n"
        )
        self.assertEqual(
            [line.partition(": ")[0] for line in said],
            ["server.toml:2:1", "server.toml:5:14", "server.toml:7:1"],
        )

    def test_said_once(self) -> None:
        """What loading has said about a rule is not said again."""
        for rule in ("", "path = 'a'", "path = '/a'\nshortcut = 'x/y'"):
            said = self.check(f"[[access]]\n{rule}\nadmit_ips = ['::1']\n")
            self.assertEqual(len(said), 1, said)

    def test_networks_by_name_are_told_where_they_stand(self) -> None:
        """An entry of the named list is told once, at its own place."""
        said = self.check(
            "[server]\nallowed_networks = ['1.']\n"
            "allowconnects = ['@allowed_networks']\n"
            "trustkeysfrom = ['@allowed_networks']\n"
            "[[access]]\npath = '/a'\nadmit_ips = ['@allowed_networks']\n"
        )
        places = {line.partition(": ")[0] for line in said}
        self.assertEqual(places, {"server.toml:2:21"})

    def test_resolving(self) -> None:
        """A path is what is there now, links followed."""
        (self.folder / "folder").mkdir()
        (self.folder / "link").symlink_to("folder")
        self.write("", "file")
        real = os.path.realpath(os.fsencode(self.folder))
        base = os.fsencode(self.folder)
        self.assertEqual(
            resolve_path(base + b"/link"), Resolved(real + b"/folder", True)
        )
        self.assertEqual(
            resolve_path(base + b"/file"), Resolved(real + b"/file", False)
        )
        self.assertIsNone(resolve_path(base + b"/none"))
        self.assertIsNone(resolve_path(base + b"/file/x"))


def paths_of(value: object, path: str = "") -> set[str]:
    """
    Every key path in a tree.
    """
    found = {path} if path else set()
    if isinstance(value, dict):
        for name, inner in value.items():
            found |= paths_of(inner, child_path(path, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            found |= paths_of(inner, element_path(path, index))
    return found


_names = st.text("ab.é \"\\\n'", max_size=3) | st.sampled_from(["a", "b", "c"])
_values = st.recursive(
    st.integers() | st.booleans() | st.text(max_size=4),
    lambda below: (
        st.lists(below, max_size=3) | st.dictionaries(_names, below, max_size=3)
    ),
    max_leaves=6,
)


def _document(tables: list[tuple[list[str], bool, dict[str, object]]]) -> str:
    lines = []
    for names, is_array, pairs in tables:
        header = ".".join(map(in_toml, names))
        lines.append(f"[[{header}]]" if is_array else f"[{header}]  # x")
        lines += [
            f"{in_toml(name)} = {in_toml(value)}" for name, value in pairs.items()
        ]
    return "\n".join(lines)


class PositionTests(SynchronousTestCase):
    DOCUMENT = """\
# é
top.'x y' = [ 1, # one
  { a = [2] }, '''
x''' ]
[server]
"li\\u0073ten" = ["é", "b"]
sub = { one = 1, two.three = 3 }
[[access]]
path = "a"
[access.inner]
x = 1
[[access]]
  path = "b"
[[access.deep]]
y = 1
"""

    def test_places(self) -> None:
        """Every key and element has its line and column."""
        source = self.DOCUMENT.encode()
        found = find_positions(source, "f")
        places = {path: (o.line, o.column) for path, o in found.origins.items()}
        self.assertEqual(
            places,
            {
                "top": (2, 1),
                'top."x y"': (2, 1),
                'top."x y"[0]': (2, 15),
                'top."x y"[1]': (3, 3),
                'top."x y"[1].a': (3, 5),
                'top."x y"[1].a[0]': (3, 10),
                'top."x y"[2]': (3, 16),
                "server": (5, 1),
                "server.listen": (6, 1),
                "server.listen[0]": (6, 18),
                "server.listen[1]": (6, 23),
                "server.sub": (7, 1),
                "server.sub.one": (7, 9),
                "server.sub.two": (7, 18),
                "server.sub.two.three": (7, 18),
                "access": (8, 1),
                "access[0]": (8, 1),
                "access[0].path": (9, 1),
                "access[0].inner": (10, 1),
                "access[0].inner.x": (11, 1),
                "access[1]": (12, 1),
                "access[1].path": (13, 3),
                "access[1].deep": (14, 1),
                "access[1].deep[0]": (14, 1),
                "access[1].deep[0].y": (15, 1),
            },
        )
        self.assertEqual(found.table_arrays, {"access", "access[1].deep"})
        self.assertEqual(set(places), paths_of(tomllib.loads(self.DOCUMENT)))

    def test_line_ends(self) -> None:
        """Files with carriage returns have the same places."""
        plain = find_positions(self.DOCUMENT.encode(), "f")
        other = find_positions(self.DOCUMENT.replace("\n", "\r\n").encode(), "f")
        self.assertEqual(plain, other)

    @settings(max_examples=100, deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.lists(_names, min_size=1, max_size=3),
                st.booleans(),
                st.dictionaries(_names, _values, max_size=3),
            ),
            max_size=4,
        )
    )
    def test_same_paths_as_the_reader(
        self, tables: list[tuple[list[str], bool, dict[str, object]]]
    ) -> None:
        """Whatever the document, the places are those of what the reader gives."""
        text = _document(tables)
        try:
            tree = tomllib.loads(text)
        except tomllib.TOMLDecodeError:
            # Tables that cannot stand together; with an empty document it is valid.
            tree, text = {}, ""
        found = find_positions(text.encode(), "f")
        self.assertEqual(set(found.origins), paths_of(tree))

    @settings(max_examples=100, deadline=None)
    @given(st.binary(max_size=60) | st.text('[]{}="\n.a1#', max_size=30))
    def test_any_bytes(self, source: bytes | str) -> None:
        """Nothing that is no TOML breaks the search for places."""
        raw = source.encode() if isinstance(source, str) else source
        for origin in find_positions(raw, "f").origins.values():
            self.assertGreaterEqual(origin.line, 1)
            self.assertGreaterEqual(origin.column, 1)

    def test_place_of_an_error(self) -> None:
        """The reader's own words, and its place apart."""
        table = [
            ("a = ", 1, 5),
            ("x = 1\ny = @", 2, 5),
            ("a = [1,\n  2", 2, 4),
        ]
        for text, line, column in table:
            with self.assertRaises(tomllib.TOMLDecodeError) as caught:
                tomllib.loads(text)
            message, *place = place_of_error(caught.exception, text)
            self.assertEqual(place, [line, column], text)
            self.assertNotIn("(", message)

    def test_error_without_a_place(self) -> None:
        """An error that names no place has none."""
        self.assertEqual(place_of_error(ValueError("Odd"), "x"), ("Odd", 0, 0))


class LoadedTests(SynchronousTestCase):
    def test_later_warning(self) -> None:
        """A warning found later leaves the configuration usable."""
        loaded = Loaded(Settings(), (), (), Settings())
        warned = loaded.with_problems([Problem("a", "m", severity="warning")])
        self.assertIsNotNone(warned.settings)
        failed = loaded.with_problems([Problem("a", "m")])
        self.assertIsNone(failed.settings)
        hidden = attrs.evolve(loaded, dropped=frozenset({"a.b"}))
        self.assertEqual(hidden.with_problems([Problem("a", "m")]).problems, ())
