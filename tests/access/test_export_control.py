# SPDX-License-Identifier: MIT
"""
`[server]` as `body server control`: what is said, and what is told instead. That
cf-serverd runs with it is for tests/interop/test_export.py.
"""

from __future__ import annotations

import re
from datetime import datetime, timezone
from typing import Any

import pytest

from nodecomm.access.compile import compile_snapshot
from nodecomm.access.export_cfengine import export_policy
from nodecomm.access.export_control import Control
from nodecomm.config.model import (
    AccessSettings,
    ServerSettings,
    Settings,
    TrustWindowSettings,
)
from tests.access.cases import KEY, resolve

#: An IPv6 range that is too many networks.
UNSAYABLE = "2001:db8:0-ffff::1"


def control(**server: Any) -> Control:
    """
    What is said of a `[server]`.
    """
    settings = Settings(server=ServerSettings(**server))
    snapshot, problems = compile_snapshot(settings, resolve=resolve)
    assert [problem for problem in problems if problem.is_error] == []
    return Control(settings, snapshot)


def attributes(made: Control) -> dict[str, str]:
    """
    The attributes of the body.
    """
    body = made.policy.decode().partition("body server control\n{\n")[2]
    return dict(re.findall(r"^  (\w+) => (.*?);$", body, re.M | re.S))


def test_defaults() -> None:
    """
    What is nothing here is nothing there, where the defaults differ it is said.
    """
    made = control()
    assert attributes(made) == {
        "port": '"5308"',
        "maxconnections": '"10000"',
        "allowtlsversion": '"1.2"',
    }
    assert (made.left_out, made.notes) == ([], [])


def test_lists() -> None:
    """
    Each list has its name, and its entries mean the same there.
    """
    made = control(
        listen=("tcp:5309:interface=10.0.0.1",),
        allowconnects=("10.0.0.0/8", "fc00::/7"),
        denyconnects=("10.9",),
        allowallconnects=("10.0.0.1-9",),
        allowlegacyconnects=(r"10\.1\..*",),
        trustkeysfrom=(TrustWindowSettings(network="10.2.3.4/24"),),
        allowusers=("root", 'o"dd'),
        cfruncommand=("/usr/bin/cf-agent", "-K"),
        denybadclocks=False,
        allowciphers="AES256-GCM-SHA384",
    )
    assert attributes(made) == {
        "port": '"5309"',
        "bindtointerface": '"10.0.0.1"',
        "allowconnects": '{ "10.0.0.0/8", "fc00::/8", "fd00::/8" }',
        "denyconnects": '{ "10.9" }',
        "allowallconnects": '{ "10.0.0.1-9" }',
        "allowlegacyconnects": r'{ "^(?i:10\\.1\\..*)$" }',
        "trustkeysfrom": '{ "10.2.3.0/24" }',
        "allowusers": '{ "root", "o\\"dd" }',
        "maxconnections": '"10000"',
        "denybadclocks": '"false"',
        "allowciphers": '"AES256-GCM-SHA384"',
        "allowtlsversion": '"1.2"',
        "cfruncommand": '"/usr/bin/cf-agent -K"',
    }
    assert made.left_out == []
    assert [note.split(":")[0] for note in made.notes] == ["trustusers"]


WINDOW = TrustWindowSettings(network="10.0.0.0/8", count=3)
TIMED = TrustWindowSettings(
    network="10.0.0.0/8", until=datetime(2999, 1, 1, tzinfo=timezone.utc)
)

LEFT_OUT: list[tuple[dict[str, Any], str, dict[str, str | None]]] = [
    # An empty list would let everybody connect.
    (
        {"allowconnects": (UNSAYABLE,)},
        "server.allowconnects",
        {"allowconnects": '{ "0.0.0.0" }'},
    ),
    (
        {"allowconnects": ("10.0.0.0/8",), "denyconnects": ("10.9", UNSAYABLE)},
        "server.denyconnects",
        {"allowconnects": '{ "0.0.0.0" }', "denyconnects": '{ "10.9" }'},
    ),
    (
        {"allowlegacyconnects": (UNSAYABLE,)},
        "server.allowlegacyconnects",
        {"allowlegacyconnects": None},
    ),
    ({"trustkeysfrom": (WINDOW,)}, "server.trustkeysfrom", {"trustkeysfrom": None}),
    ({"trustkeysfrom": (TIMED,)}, "server.trustkeysfrom", {"trustkeysfrom": None}),
    (
        {"listen": ("tcp6:5308", "tcp6:5309")},
        "server.listen",
        {"port": '"5308"', "bindtointerface": None},
    ),
    ({"listen": ("systemd:domain=INET:index=0",)}, "server.listen", {"port": None}),
    ({"cfruncommand": "a; b"}, "server.cfruncommand", {"cfruncommand": None}),
    ({"cfruncommand": ("/a b",)}, "server.cfruncommand", {"cfruncommand": None}),
    ({"cfruncommand": "sync"}, "server.cfruncommand", {"cfruncommand": None}),
    (
        {"cfruncommand": ("/bin/true",), "cfrunuser": "nobody"},
        "server.cfrunuser",
        {"cfruncommand": None},
    ),
]


@pytest.mark.parametrize(("server", "key", "expected"), LEFT_OUT)
def test_what_cannot_be_said(
    server: dict[str, Any], key: str, expected: dict[str, str | None]
) -> None:
    """
    It is told, and lets nobody in who would be kept out here.
    """
    made = control(**server)
    assert key in {left.rule for left in made.left_out}
    found = attributes(made)
    assert {name: found.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("lists", "said"),
    [
        ({"admit_keys": (KEY.md5,)}, True),
        ({"deny_keys": (KEY.md5,)}, False),
        ({"admit_hostnames": ("a.example.com",)}, False),
        ({"maproot": ("a.example.com",)}, False),
    ],
)
def test_classic_protocol(lists: dict[str, Any], said: bool) -> None:
    """
    It is not opened where cf-serverd would be less strict over it than these rules are.
    """
    table = AccessSettings(path="/srv/d", admit_ips=("10.0.0.1",), **lists)
    settings = Settings(
        server=ServerSettings(allowlegacyconnects=("10.0.0.0/8",)), access=(table,)
    )
    snapshot, _ = compile_snapshot(settings, resolve=resolve)
    made = Control(settings, snapshot)
    assert ("allowlegacyconnects" in attributes(made)) is said
    assert [left.rule for left in made.left_out] == (
        [] if said else ["server.allowlegacyconnects"]
    )


def test_ipv4_only() -> None:
    """
    A port that is open for IPv4 only is that there, too.
    """
    assert attributes(control(listen=("tcp:5308",)))["bindtointerface"] == '"0.0.0.0"'


def test_stands_before_the_rules() -> None:
    """
    With it the file is a policy by itself, and says what is missing at its head.
    """
    settings = Settings(server=ServerSettings(trustkeysfrom=(WINDOW,)))
    snapshot, _ = compile_snapshot(settings, resolve=resolve)
    made = export_policy(
        snapshot,
        resolve=resolve,
        md5_of=lambda _: None,
        control=Control(settings, snapshot),
    )
    text = made.policy.decode()
    order = [
        "# - server.trustkeysfrom: 10.0.0.0/8 is missing",
        "body common control",
        "bundle agent main",
        "body server control",
        "bundle server access_rules()",
    ]
    assert sorted(order, key=text.index) == order
    assert [left.rule for left in made.left_out] == ["server.trustkeysfrom"]
