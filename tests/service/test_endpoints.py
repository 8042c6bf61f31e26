# SPDX-License-Identifier: MIT
"""
Endpoints that cannot be understood are told before anything listens.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.internet.endpoints import serverFromString
from twisted.internet.testing import MemoryReactor

from nodecomm.service.endpoints import mistyped_address, what_is_wrong
from nodecomm.service.loading import load
from nodecomm.service.prepared import prepare


def told(tmp_path: Path, *endpoints: str) -> tuple[bool, list[str]]:
    """Whether a file with these endpoints can be used, and what is said of it."""
    file = tmp_path / "server.toml"
    listed = ", ".join(f"'{endpoint}'" for endpoint in endpoints)
    file.write_text(f"[server]\nlisten = [{listed}]\n")
    made, loaded = prepare(load(file, state_dir=tmp_path))
    said = [str(problem).removeprefix(f"{tmp_path}/") for problem in loaded.problems]
    return made is not None, said


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        (
            "foo:18010",
            'no endpoint is called foo; write "tcp6:18010", or one of tcp, tcp6, unix, '
            "systemd",
        ),
        (
            "tcp6:18032:bogus=1",
            "the endpoint tcp6 takes no argument bogus; write 'tcp6:PORT' or "
            "'tcp6:PORT:interface=\\:\\:1'",
        ),
        (
            "tcp:1:backlog=x",
            "'x' is no number; write 'tcp:PORT' or 'tcp:PORT:interface=ADDRESS'",
        ),
        (
            "tcp:5308:interface=::1",
            "the endpoint tcp does not take these arguments; write 'tcp:PORT' or "
            "'tcp:PORT:interface=ADDRESS'",
        ),
        (
            "tcp:5308:interface=127.0.5.99.1",
            "127.0.5.99.1 is no address; write 'tcp:PORT' or "
            "'tcp:PORT:interface=ADDRESS'",
        ),
        (
            "unix:/x:mode=zz",
            "'zz' is no number; write 'unix:/PATH' or 'unix:/PATH:mode=660'",
        ),
    ],
)
def test_wrong_endpoint_is_a_problem(
    tmp_path: Path, endpoint: str, message: str
) -> None:
    """What cannot be understood is an error with place, key, value and way out."""
    made, said = told(tmp_path, "tcp:5308", endpoint)

    assert not made
    assert said == [
        f'server.toml:2:23: error: server.listen[1] = "{endpoint}": {message}'
    ]


@pytest.mark.parametrize(
    "endpoint",
    ["tcp6:5308", "tcp:0:interface=127.0.0.1", "unix:/run/x:mode=660"],
)
def test_right_endpoint_is_none(tmp_path: Path, endpoint: str) -> None:
    """What Twisted understands is taken, and nothing listens or is made."""
    assert told(tmp_path, endpoint) == (True, [])
    assert [path.name for path in tmp_path.iterdir()] == ["server.toml"]


def test_socket_of_systemd_is_a_warning(tmp_path: Path) -> None:
    """Outside its unit a socket of systemd is not there, which is only a warning."""
    made, (said,) = told(tmp_path, "systemd:domain=INET6:name=nodecomm")

    assert made
    assert "warning" in said
    assert "systemd gives this process no such socket" in said


@pytest.mark.parametrize(
    ("endpoint", "wrong"),
    [
        (r"tcp6:5308:interface=2001\:db8\:\:1\:\:2:backlog=9", "2001:db8::1::2"),
        (r"tcp6:5308:interface=2001\:db8\:\:1:backlog=9", ""),
        (r"tcp6:5308:interface=fe80\:\:1%eth0", ""),
        ("TCP:5308:backlog=9:interface=10.1.2.", "10.1.2."),
        ("tcp:5308:interface=0", ""),
        ("tcp:port=5308:interface=10.1.2.3", ""),
        ("tcp:5308:interface=node1.example.com", ""),
        ("tcp:5308:interface=", ""),
        ("tcp:5308", ""),
        ("unix:/interface=1.2", ""),
    ],
)
def test_mistyped_addresses(endpoint: str, wrong: str) -> None:
    """Host names may be right; what can only be an address must be one."""
    assert mistyped_address(endpoint) == wrong


def test_names_of_functions_are_not_told() -> None:
    """No message has a name from inside Twisted."""
    for endpoint in ("tcp6:1:2:3:4:5:6", "systemd:index=0", "unix:a:b:c:d:e"):
        with pytest.raises(TypeError) as raised:
            serverFromString(MemoryReactor(), endpoint)
        message, hint = what_is_wrong(endpoint, raised.value)
        assert "_" not in message + hint
