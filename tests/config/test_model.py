# SPDX-License-Identifier: MIT
"""
Tests for `nodecomm.config.model`, `fields`, `errors` and `secrets`.
"""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import attrs
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.config.errors import (
    ConfigError,
    Origin,
    Problem,
    child_path,
    element_path,
    encloses,
    in_toml,
)
from nodecomm.config.fields import ABOUT, keys_of
from nodecomm.config.model import (
    AccessSettings,
    LimitSettings,
    ServerSettings,
    Settings,
    TrustWindowSettings,
)
from nodecomm.config.secrets import Secret

WITHOUT_TWISTED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "twisted":
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
import importlib, pkgutil, nodecomm.config
for module in pkgutil.iter_modules(nodecomm.config.__path__, "nodecomm.config."):
    importlib.import_module(module.name)
assert "nodecomm.config.structure" in sys.modules
print(sum(name.startswith("nodecomm.config.") for name in sys.modules))
"""


class PurityTests(SynchronousTestCase):
    def test_imports_without_twisted(self) -> None:
        """Every module of the room can be imported where Twisted is missing."""
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_TWISTED],
            capture_output=True,
            text=True,
            check=False,
        )
        self.assertEqual(done.stderr, "")
        self.assertGreaterEqual(int(done.stdout), 9)


class KeysTests(SynchronousTestCase):
    def test_server_keys(self) -> None:
        """[server] takes exactly these keys."""
        self.assertEqual(
            [key.name for key in keys_of(ServerSettings)],
            [
                "listen",
                "state_dir",
                "allowed_networks",
                "allowconnects",
                "denyconnects",
                "allowallconnects",
                "trustkeysfrom",
                "trustusers",
                "allowlegacyconnects",
                "allowusers",
                "cfruncommand",
                "cfrunuser",
                "maxconnections",
                "denybadclocks",
                "manifest_max_age",
                "allowciphers",
                "allowtlsversion",
            ],
        )

    def test_limit_defaults(self) -> None:
        """The limits that apply when nothing is written."""
        self.assertEqual(
            attrs.asdict(LimitSettings()),
            {
                "first_byte_timeout": 10,
                "handshake_timeout": 30,
                "dialog_timeout": 20,
                "idle_timeout": 600,
                "write_timeout": 120,
                "connections_before_trust": 1000,
                "connections_per_address": 0,
                "handshakes_at_once": 32,
                "answers_at_once": 8,
                "read_ahead": 262144,
                "digest_cache_entries": 200000,
                "name_lookups_at_once": 8,
                "name_cache_seconds": 300,
                "name_timeout": 10,
                "disk_threads": 4,
                "digest_threads": 2,
                "crypto_threads": 2,
                "stop_grace": 10,
            },
        )

    def test_nobody_by_default(self) -> None:
        """Without a word nobody is trusted on first use, served, or may run EXEC."""
        settings = Settings()
        self.assertEqual(settings.server.trustkeysfrom, ())
        self.assertEqual(settings.server.allowusers, ())
        self.assertEqual(settings.server.cfruncommand, ())
        self.assertEqual(settings.roles, ())
        self.assertEqual(settings.access, ())

    def test_every_key_is_told_about(self) -> None:
        """Each key has a sentence; every number of a limit has a unit."""
        seen = 0
        todo: list[type] = [Settings]
        while todo:
            cls = todo.pop()
            for attribute in attrs.fields(cls):
                if attribute.name == "origins":
                    continue
                self.assertIn(ABOUT, attribute.metadata, attribute.name)
            for key in keys_of(cls):
                seen += 1
                self.assertRegex(key.about.doc, r"\A[A-Z0-9`].*[.)]\Z")
                if key.type in {int, float}:
                    self.assertTrue(key.about.unit, key.name)
                    self.assertIsNotNone(key.about.minimum, key.name)
                if key.element is not None:
                    todo.append(key.element)
        self.assertGreater(seen, 50)

    def test_values_are_frozen(self) -> None:
        """Settings in use cannot be changed, only replaced."""
        with self.assertRaises(attrs.exceptions.FrozenInstanceError):
            Settings().server.maxconnections = 1  # type: ignore[misc]


class OriginTests(SynchronousTestCase):
    settings = Settings(
        access=(AccessSettings(path="/srv"),),
        origins={
            "access[0]": Origin("s.d/1.toml", 4, 1, "access[0]"),
            "access[0].path": Origin("s.d/1.toml", 5, 1, "access[0].path"),
            "server": Origin("s.toml", 1, 1),
        },
    )

    def test_origin_of_a_value(self) -> None:
        """A value that was written has an origin, a default has none."""
        self.assertEqual(str(self.settings.origin("access[0].path")), "s.d/1.toml:5:1")
        self.assertIsNone(self.settings.origin("access[0].shortcut"))
        self.assertIsNone(self.settings.origin("limits.idle_timeout"))

    def test_nearest_origin(self) -> None:
        """What is missing is looked for where it would stand."""
        table = [
            ("access[0].path", "s.d/1.toml:5:1", "access[0].path"),
            ("access[0].shortcut", "s.d/1.toml:4:1", "access[0].shortcut"),
            ("access[0].admit_ips[3]", "s.d/1.toml:4:1", "access[0].admit_ips[3]"),
            ("server.listen[0]", "s.toml:1:1", "server.listen[0]"),
        ]
        for key_path, place, known_as in table:
            origin = self.settings.nearest_origin(key_path)
            assert origin is not None
            self.assertEqual(str(origin), place)
            self.assertIn(origin.key_path, {known_as, ""})
        self.assertIsNone(self.settings.nearest_origin("log.file"))
        self.assertIsNone(self.settings.nearest_origin(""))

    def test_origins_are_no_part_of_equality(self) -> None:
        """The same configuration written elsewhere is the same configuration."""
        self.assertEqual(self.settings, attrs.evolve(self.settings, origins={}))
        self.assertEqual(
            hash(self.settings), hash(attrs.evolve(self.settings, origins={}))
        )


class ProblemTests(SynchronousTestCase):
    def test_rendering(self) -> None:
        """A problem reads as a compiler's message: place, severity, key, value."""
        here = Origin("server.toml", 12, 9)
        table = [
            (
                Problem(
                    "access[0].admit_ips[1]",
                    "matches no address",
                    "192.168.",
                    'write "192.168" or "192.168.0.0/16"',
                    here,
                ),
                'server.toml:12:9: error: access[0].admit_ips[1] = "192.168.": matches '
                'no address; write "192.168" or "192.168.0.0/16"',
            ),
            (
                Problem("a.b", "odd", 5, "", here, "warning"),
                "server.toml:12:9: warning: a.b = 5: odd",
            ),
            (Problem("a.b", "missing"), "error: a.b: missing"),
            (
                Problem("", "cannot be read", origin=Origin("x.toml", 0, 0)),
                "x.toml: error: cannot be read",
            ),
            (
                Problem("a[7]", "odd", "", origin=Origin("x", 1, 2, "a[0]")),
                'x:1:2: error: a[0] = "": odd',
            ),
            (Problem("a", "long", "x" * 500), f'error: a = "{"x" * 99}...: long'),
        ]
        for problem, text in table:
            self.assertEqual(str(problem), text)

    def test_nothing_reaches_the_terminal(self) -> None:
        """Controls and direction overrides of a file are shown, not obeyed."""
        evil = "\x1b[2J\u202e\ud800\n"
        problem = Problem(evil, evil, evil, evil, Origin(evil, 1, 1))
        self.assertTrue(str(problem).isprintable())

    def test_errors_and_warnings(self) -> None:
        """Only an error keeps a configuration from being used."""
        self.assertTrue(Problem("a", "b").is_error)
        self.assertFalse(Problem("a", "b", severity="warning").is_error)

    def test_config_error_shows_all(self) -> None:
        """The exception's text is every problem, one a line."""
        error = ConfigError([Problem("a", "one"), Problem("b", "two")])
        self.assertEqual(str(error), "error: a: one\nerror: b: two")
        self.assertEqual(len(error.problems), 2)


class NotationTests(SynchronousTestCase):
    def test_values_as_toml(self) -> None:
        """Values are shown as they would be written."""
        noon = datetime(2026, 12, 1, 12, tzinfo=timezone.utc)
        table: list[tuple[object, str]] = [
            ("a", '"a"'),
            ('a"\\\n\x07é', '"a\\"\\\\\\n\\u0007é"'),
            ("\U000e0001", '"\\U000E0001"'),
            (True, "true"),
            (5, "5"),
            (1.5, "1.5"),
            (noon, "2026-12-01T12:00:00Z"),
            (noon.date(), "2026-12-01"),
            (["a", 1], '["a", 1]'),
            ((), "[]"),
            ({"a": 1, "b c": []}, '{ a = 1, "b c" = [] }'),
            ({}, "{}"),
        ]
        for value, text in table:
            self.assertEqual(in_toml(value), text)

    def test_key_paths(self) -> None:
        """Key paths quote what TOML would quote."""
        self.assertEqual(child_path("", "server"), "server")
        self.assertEqual(child_path("server", "listen"), "server.listen")
        self.assertEqual(child_path("a", "b.c"), 'a."b.c"')
        self.assertEqual(child_path("a", ""), 'a.""')
        self.assertEqual(element_path("a.b", 3), "a.b[3]")

    def test_encloses(self) -> None:
        """A path encloses itself and what is in it, not what begins alike."""
        for inner in ("a", "a.b", "a[0].b"):
            self.assertTrue(encloses("a", inner), inner)
            self.assertTrue(encloses("", inner), inner)
        for inner in ("ab", "", "b.a"):
            self.assertFalse(encloses("a", inner), inner)


class SecretTests(SynchronousTestCase):
    def test_never_shown(self) -> None:
        """Neither str nor repr of a secret has its text, wherever it came from."""
        for secret in (
            Secret("hunter2"),
            Secret("hunter2", file="/etc/f"),
            Secret("hunter2", env="E"),
        ):
            self.assertNotIn("hunter2", f"{secret} {secret!r} {[secret]}")
            self.assertEqual(secret.reveal(), "hunter2")

    def test_not_read_yet(self) -> None:
        """A secret that stands elsewhere cannot be revealed before it is read."""
        for secret, place in (
            (Secret(file="/etc/f"), "file /etc/f"),
            (Secret(env="E"), "environment variable E"),
        ):
            self.assertFalse(secret.is_known)
            with self.assertRaisesRegex(LookupError, place):
                secret.reveal()

    def test_windows_need_a_network(self) -> None:
        """A trust window without a network cannot be made by accident."""
        with self.assertRaises(TypeError):
            TrustWindowSettings()  # type: ignore[call-arg]


class RootTests(SynchronousTestCase):
    def test_room_does_no_io(self) -> None:
        """No module of the room opens files or asks the system."""
        folder = Path(__file__).parents[2] / "nodecomm" / "config"
        modules = sorted(folder.glob("*.py"))
        self.assertGreater(len(modules), 8)
        for module in modules:
            text = module.read_text()
            for word in ("import os", "open(", "pathlib", "socket", "read_text"):
                self.assertNotIn(word, text, module.name)
