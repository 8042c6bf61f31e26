# SPDX-License-Identifier: MIT
"""
Tests for `nodecomm.service.agent_prepared`, and for `load_agent`.
"""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

import pytest

from nodecomm.access.evaluator import AccessEvaluator
from nodecomm.access.requests import AccessRequest
from nodecomm.client.address import ServerAddress
from nodecomm.identity.peer import Peer
from nodecomm.identity.server_keys import ServerKeyStore
from nodecomm.service.agent_prepared import PreparedAgent, kept_at_start, prepare_agent
from nodecomm.service.loading import is_of_agent, load_agent
from nodecomm.testing import key_pair

GOOD = """
[agent]
policy_servers = ["Hub.example.com", "[::1]:5309"]
interval = "1h"
{more}
[[copy]]
source = "a\\\\xff"
destination = "{destination}"
exclude = ["*.bak"]
"""


def prepare(
    folder: Path, more: str = "", destination: str = "//srv/x/", copies: str = ""
) -> tuple[PreparedAgent | None, list[str]]:
    """What becomes of a configuration, and its problems."""
    file = folder / "agent.toml"
    file.write_text(GOOD.format(more=more, destination=destination) + copies)
    prepared, loaded = prepare_agent(
        load_agent(file, state_dir=folder / "state", environ={})
    )
    return prepared, [str(p).replace(f"{folder}/", "") for p in loaded.problems]


def test_good(tmp_path: Path) -> None:
    """Texts become what the agent works with."""
    prepared, problems = prepare(tmp_path, 'max_duration = "2m"\nuser = "me"')

    assert problems == []
    assert prepared is not None
    assert prepared.servers == (
        ServerAddress("hub.example.com", 5308),
        ServerAddress("::1", 5309),
    )
    assert (prepared.interval, prepared.splay) == (3600, 300)
    assert prepared.state == str(tmp_path / "state")
    assert prepared.user == b"me"
    (copy,) = prepared.copies
    assert copy.request.source == b"a\xff"
    assert copy.request.destination == b"/srv/x"
    assert copy.request.exclude == (b"*.bak",)
    assert copy.request.limits.duration == 120
    assert prepared.command == ()


def test_splay(tmp_path: Path) -> None:
    """It is the interval where that is shorter, or what is written."""
    prepared, _ = prepare(tmp_path, 'splay = "30m"')
    assert prepared is not None
    assert prepared.splay == 1800


def test_keys(tmp_path: Path) -> None:
    """Digests and files of keys; what is neither is an error with its place."""
    file = tmp_path / "hub.pub"
    file.write_bytes(key_pair(1).public.to_pem())
    digest = key_pair(2).public.md5
    prepared, problems = prepare(tmp_path, f'server_keys = ["{digest}", "{file}"]')
    assert problems == []
    assert prepared is not None
    assert prepared.pinned == (digest, key_pair(1).public)

    file.write_text("no key")
    keys = f'["MD5=zz", "{file}", "/no/such/file", "hub.pub"]'
    prepared, problems = prepare(tmp_path, f"server_keys = {keys}")
    assert prepared is None
    assert len(problems) == 4
    for index, problem in enumerate(problems):
        assert f"error: agent.server_keys[{index}] = " in problem
    _, problems = prepare(tmp_path, f'server_keys = ["{digest}"]\ntrust_server = true')
    assert len(problems) == 1
    assert "warning: agent.trust_server" in problems[0]


@pytest.mark.parametrize(
    ("servers", "said"),
    [
        ('["a b"]', "begins with no host name"),
        ('["hub:0"]', "the port must be a number"),
        ('["hub", "hub:5308"]', "a server named before"),
        ('["hub", "HUB"]', "a server named before"),
    ],
)
def test_servers(tmp_path: Path, servers: str, said: str) -> None:
    """A name that is none, or that stands for a server twice, is told."""
    file = tmp_path / "agent.toml"
    text = GOOD.format(more="", destination="/x")
    file.write_text(text.replace('["Hub.example.com", "[::1]:5309"]', servers))
    prepared, loaded = prepare_agent(load_agent(file, environ={}))

    assert prepared is None
    (problem,) = loaded.problems
    assert said in str(problem)
    assert f"{file}:3:" in str(problem)


@pytest.mark.parametrize("name", ["", "state", "state/ppkeys", "state/server-keys/x"])
def test_the_agents_own_state_is_no_destination(tmp_path: Path, name: str) -> None:
    """With `purge` the agent would remove its own key."""
    prepared, problems = prepare(tmp_path, destination=str(tmp_path / name))
    assert prepared is None
    assert "the agent keeps its own state there" in problems[0]


def test_a_destination_in_the_state_folder(tmp_path: Path) -> None:
    """A folder of its own there is fine."""
    prepared, problems = prepare(tmp_path, destination=str(tmp_path / "state/inputs"))
    assert prepared is not None
    assert problems == []


def test_a_destination_without_a_folder(tmp_path: Path) -> None:
    """Its parent must be there when the agent runs: a warning."""
    prepared, problems = prepare(tmp_path, destination=f"{tmp_path}/no/such/")

    assert prepared is not None
    (problem,) = problems
    assert "warning: copy[0].destination" in problem
    assert "no does not exist; make it before the agent runs" in problem


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    """It may be installed later: a warning."""
    prepared, problems = prepare(tmp_path, 'after_update = ["/no/such/program"]')
    assert prepared is not None
    assert "warning: agent.after_update[0]" in problems[0]


def test_without_the_cipher(tmp_path: Path) -> None:
    """What the agent would end with at start is told by a check, where it matters."""
    with mock.patch(
        "nodecomm.service.agent_prepared.missing", lambda: "no Blowfish here"
    ):
        for more, told in (
            ('protocol = "classic"\nencrypt = true', True),
            ('protocol = "classic"', False),
            ("protocol = 3", False),
        ):
            prepared, problems = prepare(tmp_path, more)
            assert prepared is not None
            said = "warning: agent.encrypt = true: no Blowfish here; leave it out"
            assert any(said in problem for problem in problems) == told, problems


def test_no_file(tmp_path: Path) -> None:
    """Without a configuration the error says how to come by one."""
    loaded = load_agent(system_file=tmp_path / "agent.toml", environ={})
    assert loaded.settings is None
    (problem,) = loaded.problems
    assert "there is no configuration; name one with -c FILE" in str(problem)
    loaded = load_agent(tmp_path / "named.toml", environ={})
    (problem,) = loaded.problems
    assert "named.toml: error: cannot be read" in str(problem)


def test_parts_and_the_state_folder(tmp_path: Path) -> None:
    """agent.d adds up, and the state folder is decided as for the server."""
    file = tmp_path / "agent.toml"
    file.write_text('[agent]\nstate_dir = "/from/file"\npolicy_servers = ["a"]\n')
    parts = tmp_path / "agent.d"
    parts.mkdir()
    for name in ("b", "a"):
        (parts / f"{name}.toml").write_text(
            f'[[copy]]\nsource = "{name}"\ndestination = "/{name}"\n'
        )
    loaded = load_agent(file, environ={})
    assert loaded.settings is not None
    assert [copy.source for copy in loaded.settings.copy] == ["a", "b"]
    assert loaded.settings.agent.state_dir == "/from/file"
    assert len(loaded.sources) == 3
    loaded = load_agent(file, environ={"NODECOMM_STATE_DIR": "/from/environ"})
    assert loaded.partial.agent.state_dir == "/from/environ"
    loaded = load_agent(
        file,
        state_dir=Path("/from/option"),
        environ={"NODECOMM_STATE_DIR": "/from/environ"},
    )
    assert loaded.partial.agent.state_dir == "/from/option"


def test_whose_file_it_is(tmp_path: Path) -> None:
    """By its name, or by its tables."""
    (tmp_path / "agent.toml").write_text("")
    assert is_of_agent(tmp_path / "agent.toml")
    other = tmp_path / "other.toml"
    for text, expected in (
        ("[agent]\n", True),
        ("[server]\n", False),
        ("[agent]\n[server]\n", False),
        ("", False),
        ("not toml", False),
    ):
        other.write_text(text)
        assert is_of_agent(other) is expected
    assert not is_of_agent(tmp_path / "missing.toml")


def test_what_a_reload_cannot_change(tmp_path: Path) -> None:
    """The state folder stays, and is named; the rest is taken."""
    old, _ = prepare(tmp_path)
    file = tmp_path / "agent.toml"
    text = file.read_text().replace("1h", "2h")
    file.write_text(text + '[log]\nfile = "/var/log/x"\n')
    new, _ = prepare_agent(load_agent(file, state_dir=tmp_path / "other", environ={}))
    assert old is not None
    assert new is not None
    kept, waiting = kept_at_start(old, new)
    assert kept.state == os.fspath(tmp_path / "state")
    assert kept.interval == 7200
    assert waiting == ["agent.state_dir", "log.file"]


LISTENER = """
listen = ["tcp6:5308"]
cfruncommand = ["{program}", "-K"]
allowusers = ["root", "ops"]
"""

RULES = """
[[access]]
path = "b.*"
resource_type = "bundle"
admit_ips = ["192.0.2.0/24"]
[[roles]]
pattern = "c.*"
authorize = ["ops"]
[run]
at_once = 3
"""


def decided(
    prepared: PreparedAgent, operation: str, name: bytes, **who: str
) -> tuple[bool, str | None]:
    """Whether a peer is admitted, and where the rule stands that says so."""
    peer = Peer(who.get("address", "198.51.100.1"), user=who.get("user", "root"))
    request = AccessRequest(operation, name)
    snapshot = prepared.snapshot
    decision = AccessEvaluator(snapshot).evaluate(snapshot, peer, request)
    return decision.allowed, None if decision.rule is None else decision.rule.place


def test_rules_for_those_who_ask_for_runs(tmp_path: Path) -> None:
    """
    Whoever may connect is admitted to the program and to nothing else; bundles and
    classes are decided by the rules, which are named by their place in the file.
    """
    program = tmp_path / "pro\\xffgram"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    named = str(program).replace("\\", "\\\\")
    more = LISTENER.format(program=named)
    prepared, problems = prepare(tmp_path, more, copies=RULES)
    assert prepared is not None
    # Folders of tests belong to others than root, and no key is known there, which is
    # warned about.
    expected = ("who could have anything run", "nobody may ask for a run yet")
    assert [one for one in problems if not any(x in one for x in expected)] == []
    execution = prepared.snapshot.execution
    assert execution is not None
    assert execution.command == (str(program), "-K")
    assert execution.settings.at_once == 3
    assert prepared.snapshot.allowusers == {"root", "ops"}
    file = f"{tmp_path}/agent.toml"
    real = os.fsencode(program)
    assert decided(prepared, "exec", real) == (True, f"{file}:7")
    for name in (b"/bin/sh", os.fsencode(tmp_path), real + b"x"):
        assert not decided(prepared, "exec", name)[0]
    for allowed, address in ((True, "192.0.2.7"), (False, "198.51.100.1")):
        rule = f"{file}:16"
        assert decided(prepared, "bundle", b"b1", address=address) == (allowed, rule)
    assert not decided(prepared, "bundle", b"x", address="192.0.2.7")[0]
    assert decided(prepared, "role", b"c1", user="ops")[0]
    assert not decided(prepared, "role", b"c1", user="root")[0]


def test_the_nodes_own_sync(tmp_path: Path) -> None:
    """It needs no program, and has no classes and no bundles."""
    more = 'listen = ["tcp6:5308"]\ncfruncommand = "sync"\ntrust_server = true'
    prepared, problems = prepare(tmp_path, more)
    assert problems == []
    assert prepared is not None
    execution = prepared.snapshot.execution
    assert execution is not None
    assert (execution.is_sync, execution.program) == (True, None)
    assert prepared.snapshot.rules == ()


def test_nobody_may_ask_yet(tmp_path: Path) -> None:
    """
    A listener is of no use while no key is known, which is told; a key of one of the
    servers, stored or written down, is enough.
    """
    more = 'listen = ["tcp6:5308"]\ncfruncommand = "sync"'
    _, (told,) = prepare(tmp_path, more)
    assert "warning: agent.listen = " in told
    assert "nobody may ask for a run yet" in told
    assert "`nodecomm server-key accept hub.example.com:5308`" in told
    # Without copies there is no first contact at which a key is trusted.
    file = tmp_path / "agent.toml"
    file.write_text(
        f'[agent]\npolicy_servers = ["hub"]\nstate_dir = "{tmp_path}/s"\n'
        'trust_server = true\nlisten = ["tcp:5308"]\ncfruncommand = ["/bin/true"]\n'
    )
    _, loaded = prepare_agent(load_agent(file, environ={}))
    (problem,) = loaded.problems
    assert "nobody may ask for a run yet" in problem.message
    digest = key_pair(2).public.md5
    for name in ("server_keys", "run_keys"):
        _, problems = prepare(tmp_path, f'{more}\n{name} = ["{digest}"]')
        assert problems == []
    store = ServerKeyStore(str(tmp_path / "state/server-keys"))
    store.add("other.example.com:5308", key_pair(1).public)
    assert len(prepare(tmp_path, more)[1]) == 1
    store.add("[::1]:5309", key_pair(1).public)
    assert prepare(tmp_path, more)[1] == []


def test_nothing_is_run_unless_it_is_said(tmp_path: Path) -> None:
    """Without the keys nothing runs, and nobody listens."""
    prepared, _ = prepare(tmp_path)
    assert prepared is not None
    assert (prepared.listen, prepared.snapshot.execution) == ((), None)
    assert prepared.run_keys == ()


@pytest.mark.parametrize(
    ("lines", "severity", "key", "expected"),
    [
        ('listen = ["tcp6:1:x=2"]', "error", "listen[0]", "takes no argument x"),
        ('run_keys = ["MD5=1"]', "error", "run_keys[0]", "'MD5=1' is no key digest"),
        ('run_keys = ["/none"]', "error", "run_keys[0]", "this file cannot be read"),
        ('cfrunuser = "nobodyknows"', "error", "cfrunuser", "there is no such user"),
        (
            'cfruncommand = ["/none/such"]',
            "warning",
            "cfruncommand",
            "/none/such does not exist",
        ),
    ],
)
def test_what_is_wrong_with_a_listener(
    tmp_path: Path, lines: str, severity: str, key: str, expected: str
) -> None:
    """It is told with the agent's own keys and places, and once."""
    named = lines.partition(" ")[0]
    good = {"listen": '["tcp6:5308"]', "cfruncommand": '["/bin/sh"]'}
    rest = "\n".join(f"{k} = {value}" for k, value in good.items() if k != named)
    _, problems = prepare(tmp_path, f"trust_server = true\n{rest}\n{lines}")
    (told,) = problems
    assert told.startswith("agent.toml:")
    assert f" {severity}: agent.{key} = " in told
    assert expected in told


def test_hosts_and_addresses_of_bundles(tmp_path: Path) -> None:
    """What no address is, is an error at its place; there are no names for lists."""
    copies = RULES.replace('"192.0.2.0/24"', '"@allowed_networks", "10.0.0.300"')
    _, problems = prepare(tmp_path, LISTENER.format(program="/bin/sh"), copies=copies)
    assert [one.partition(" ")[0] for one in problems if "error:" in one] == [
        "agent.toml:18:14:",
        "agent.toml:18:35:",
    ]
