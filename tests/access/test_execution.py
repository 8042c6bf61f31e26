# SPDX-License-Identifier: MIT
"""
Tests for `nodecomm.access.execution` and `nodecomm.access.roles`: who may have what
run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from nodecomm.access.compile import Resolved, compile_snapshot
from nodecomm.access.decision import REASONS, Decision
from nodecomm.access.evaluator import AccessEvaluator
from nodecomm.access.execution import (
    judge_bundles,
    judge_command,
    judge_roles,
    judge_user,
)
from nodecomm.access.requests import ROLE, AccessRequest
from nodecomm.access.snapshot import Snapshot
from nodecomm.config.errors import Origin, Problem
from nodecomm.config.execution import RoleSettings, RunSettings
from nodecomm.config.model import AccessSettings, ServerSettings, Settings
from nodecomm.identity.peer import Peer
from tests.access.cases import peer

PROGRAM = "/usr/bin/cf-agent"
DISK = {
    b"/": Resolved(b"/", True),
    b"/usr/bin": Resolved(b"/usr/bin", True),
    b"/usr/bin/cf-agent": Resolved(b"/opt/cfengine/bin/cf-agent", False),
    b"/opt/cfengine/bin": Resolved(b"/opt/cfengine/bin", True),
    b"/opt/cfengine/bin/cf-agent": Resolved(b"/opt/cfengine/bin/cf-agent", False),
    b"/opt": Resolved(b"/opt", True),
    b"/bin/echo": Resolved(b"/bin/echo", False),
}
ADMIT = {"path": PROGRAM, "admit_ips": ("127.0.0.1",)}


def resolve(path: bytes) -> Resolved | None:
    """
    What *path* is in the table above.
    """
    if b"\0" in path:
        # As the system has it.
        raise ValueError("embedded null byte")
    return DISK.get(path)


def compiled(
    *access: dict[str, Any],
    roles: Sequence[tuple[str, tuple[str, ...]]] = (),
    sync: tuple[str, ...] = (),
    origins: dict[str, Origin] | None = None,
    run: RunSettings | None = None,
    **server: Any,
) -> tuple[Snapshot, list[Problem]]:
    """
    The snapshot of a server with a command, and what is wrong with it.
    """
    keys: dict[str, Any] = {"cfruncommand": (PROGRAM, "-K"), "allowusers": ("root",)}
    whole = Settings(
        server=ServerSettings(**(keys | server)),
        access=tuple(AccessSettings(**table) for table in access),
        roles=tuple(RoleSettings(pattern=p, authorize=a) for p, a in roles),
        run=run or RunSettings(),
        origins=origins or {},
    )
    return compile_snapshot(whole, resolve=resolve, sync=sync)


def snapshot_of(*access: dict[str, Any], **more: Any) -> Snapshot:
    """
    The snapshot alone.
    """
    return compiled(*access, **more)[0]


def bundle(pattern: str, **lists: Any) -> dict[str, Any]:
    """
    A rule about bundles.
    """
    return {"path": pattern, "resource_type": "bundle", **lists}


def decide(snapshot: Snapshot, who: Peer, operation: str, name: bytes) -> Decision:
    """
    The evaluator's decision.
    """
    request = AccessRequest(operation, name)
    return AccessEvaluator(snapshot).evaluate(snapshot, who, request)


def test_snapshot_has_what_is_run() -> None:
    """A request can keep the command, its user and its limits as they were."""
    origin = Origin("server.toml", 7, 1, "server.cfruncommand")
    run = RunSettings(at_once=3, classes=("web",))

    execution = snapshot_of(
        ADMIT, cfrunuser="nobody", run=run, origins={"server.cfruncommand": origin}
    ).execution

    assert execution is not None
    assert execution.command == (PROGRAM, "-K")
    assert execution.program == PROGRAM.encode()
    assert execution.user == "nobody"
    assert execution.settings == run
    assert execution.place == "server.toml:7"
    assert not execution.is_sync


def test_text_for_the_shell_keeps_its_words() -> None:
    """Of a text the program is what a shell would run first; the text stays."""
    text = '"/bin/echo" hello; true'

    execution = snapshot_of(cfruncommand=text).execution

    assert execution is not None
    assert execution.command == text
    assert execution.program == b"/bin/echo"


@pytest.mark.parametrize(
    "command", [(), "", "  ", "echo hello", ("echo",), ("",), "'/bin/echo"]
)
def test_unusable_command_is_none(command: Any) -> None:
    """What no program can be told from runs nothing."""
    snapshot = snapshot_of(cfruncommand=command)

    assert snapshot.execution is None
    decision = judge_command(snapshot)
    assert (decision.allowed, decision.reason) == (False, "no_command")


def test_sync_is_a_program_or_none() -> None:
    """The node's own sync is the program that it stands for, or the service itself."""
    words = ("/usr/bin/nodecomm", "agent", "run")

    outside = snapshot_of(cfruncommand="sync", sync=words).execution
    inside = snapshot_of(cfruncommand="sync").execution

    assert outside is not None
    assert (outside.command, outside.program) == (words, b"/usr/bin/nodecomm")
    assert inside is not None
    assert (inside.command, inside.program) == ("sync", None)
    assert outside.is_sync
    assert inside.is_sync


def test_sync_takes_neither_classes_nor_bundles() -> None:
    """Whatever roles and rules say, the node's own sync is given nothing."""
    snapshot = snapshot_of(
        bundle(".*", admit_ips=("127.0.0.1",)),
        roles=[(".*", ("root",))],
        cfruncommand="sync",
    )
    evaluator = AccessEvaluator(snapshot)

    assert judge_roles(snapshot, peer(), [b"a"]).reason == "takes_none"
    assert judge_bundles(evaluator, snapshot, peer(), [b"b"]).reason == "takes_none"
    assert judge_roles(snapshot, peer(), []).allowed
    assert judge_bundles(evaluator, snapshot, peer(), []).allowed


def test_the_class_that_an_agent_takes() -> None:
    """Its own run may send an inventory, without any role; a program is given none."""
    agent = snapshot_of(cfruncommand="sync")
    assert agent.execution is not None
    assert agent.execution.program is None
    evaluator = AccessEvaluator(agent)
    forced = [b"force_inventory"]
    assert judge_roles(agent, peer(), forced).allowed
    assert judge_roles(agent, peer(), forced * 2).allowed
    for refused in ([*forced, b"a"], [b"force_inventory_"], [b"Force_inventory"]):
        assert judge_roles(agent, peer(), refused).reason == "takes_none"
    assert judge_bundles(evaluator, agent, peer(), forced).reason == "takes_none"
    program = evolve(
        agent, execution=evolve(agent.execution, program=b"/usr/bin/nodecomm")
    )
    assert judge_roles(program, peer(), forced).reason == "takes_none"


@pytest.mark.parametrize(
    ("access", "command", "said"),
    [
        ([ADMIT], (PROGRAM, "-K"), None),
        ([{**ADMIT, "path": "/opt/cfengine/bin"}], (PROGRAM,), None),
        ([{**ADMIT, "path": "/usr/bin"}], (PROGRAM,), "no rule admits anybody"),
        ([], (PROGRAM,), "no rule admits anybody"),
        ([], ("/bin/missing",), "does not exist"),
        ([{**ADMIT, "path": "/opt"}], ("/opt",), "is a folder"),
        ([], (), None),
        ([], "sync", None),
        # That is an error already.
        ([], ("/bin/echo\0",), None),
        ([], "/bin/echo\0 -K", None),
    ],
)
def test_program_without_a_rule_is_told_of(
    access: list[dict[str, Any]], command: Any, said: str | None
) -> None:
    """A program that everybody is refused is a warning, by where its links lead."""
    _, problems = compiled(*access, cfruncommand=command)

    about = [p for p in problems if p.key_path == "server.cfruncommand"]
    assert [p.severity for p in about] == ([] if said is None else ["warning"])
    assert said is None or said in about[0].message


def test_warning_says_which_rule_to_write() -> None:
    """The table that is missing is told with the path it needs, that of sync too."""
    words = ("/bin/echo", "agent", "run")

    _, problems = compiled(cfruncommand="sync", sync=words)

    assert [(p.value, p.message, p.hint) for p in problems] == [
        (
            "sync",
            "no rule admits anybody to /bin/echo, so whoever asks for a run is refused",
            'write [[access]] with path = "/bin/echo" and whom it admits: admit_keys, '
            "admit_ips or admit_hostnames",
        )
    ]


@pytest.mark.parametrize(
    ("lists", "several", "told"),
    [
        ({"admit_ips": ("10.0.0.1", "::1")}, (), ["10.0.0.1, ::1", '["10.0.0.1"]']),
        ({"admit_ips": ("10.0.0.1", "::1")}, ("10.0.0.0/8",), ["::1", '["::1"]']),
        ({"admit_ips": ("10.0.0.0/24", "10.1")}, ("10.0.0.0/24",), ["10.1", "10.1"]),
        ({"admit_ips": ("10.0.0.0/24", "10.1", "::1")}, ("10.0.0.0/8", "::1"), None),
        ({"admit_ips": tuple(f"10.0.0.{n}" for n in range(9))}, (), ["and 4 more"]),
        ({"admit_keys": ("MD5=" + "0" * 32,)}, (), ["whoever it admits", "192.0.2.1"]),
        ({"admit_keys": ("MD5=" + "0" * 32,)}, ("10.0.0.1",), None),
        ({"admit_ips": (r"10\.0\..*",)}, ("10.0.0.1",), None),
    ],
)
def test_who_may_ask_once_at_a_time_is_told(
    lists: dict[str, tuple[str, ...]], several: tuple[str, ...], told: list[str] | None
) -> None:
    """
    Of who may have the program run and is not in allowallconnects a second request is
    turned away: a warning says so, and what to write.
    """
    _, problems = compiled({"path": PROGRAM, **lists}, allowallconnects=several)

    about = [p for p in problems if p.key_path == "server.allowallconnects"]
    assert [p.severity for p in about] == ([] if told is None else ["warning"])
    for word in told or ():
        assert word in f"{about[0].message} {about[0].hint}"


def test_program_that_cannot_be_looked_at() -> None:
    """What hides the program is told; nothing is said about rules then."""

    def failing(path: bytes) -> Resolved | None:
        raise OSError(13, "Permission denied")

    whole = Settings(server=ServerSettings(cfruncommand=(PROGRAM,)))

    _, problems = compile_snapshot(whole, resolve=failing)

    assert [p.message for p in problems] == [
        f"{PROGRAM} cannot be looked at (Permission denied), so whoever asks for a run "
        "is refused"
    ]


def test_peer_is_admitted_to_the_program_by_path_rules() -> None:
    """The right on the file does not count, `ifencrypted` and the lists do."""
    snapshot = snapshot_of(ADMIT)
    program = DISK[PROGRAM.encode()].path
    nobody = peer(user="bob", uid=None)

    assert decide(snapshot, nobody, "exec", program).allowed
    assert decide(snapshot, peer("10.0.0.1"), "exec", program).reason == "not_admitted"
    assert decide(snapshot, peer(), "exec", b"/bin/echo").reason == "no_rule"
    assert decide(snapshot, peer(), "exec", b"/usr/../x").reason == "unresolved_path"

    secret = snapshot_of({**ADMIT, "ifencrypted": True})
    classic = peer(protocol=1, encrypted=False)

    assert decide(secret, peer(), "exec", program).allowed
    assert decide(secret, classic, "exec", program).reason == "not_encrypted"
    assert decide(snapshot, classic, "exec", program).allowed


@pytest.mark.parametrize(
    ("user", "reason"),
    [
        ("root", "admitted"),
        ("bob", "admitted"),
        ("Root", "not_in_allowusers"),
        ("roo", "not_in_allowusers"),
        ("root ", "not_in_allowusers"),
        (".*", "not_in_allowusers"),
        ("", "not_in_allowusers"),
    ],
)
def test_users_are_compared_exactly(user: str, reason: str) -> None:
    """Only a name of allowusers, as it is written there, may ask."""
    snapshot = snapshot_of(ADMIT, allowusers=("root", "bob"))

    decision = judge_user(snapshot, peer(user=user))

    assert decision.reason == reason
    assert decision.allowed == (reason == "admitted")
    assert decision.list_name == "allowusers"


def test_where_users_are_named() -> None:
    """The line of allowusers is told if there is one, and no other line is."""
    table = Origin("server.toml", 1, 1, "server")
    written = Origin("server.toml", 3, 1, "server.allowusers")

    for origins, told in (
        ({"server": table}, "allowusers does not name user bob"),
        (
            {"server": table, "server.allowusers": written},
            "allowusers (server.toml:3) does not name user bob",
        ),
    ):
        snapshot = snapshot_of(ADMIT, origins=origins)
        assert judge_user(snapshot, peer(user="bob")).text == told


ROLES = [
    ("debug|info", ("root", "bob")),
    ("x_.*", ("bob",)),
    ("x_y", ("root",)),
    ("(?=z)z", ("root",)),
]


@pytest.mark.parametrize(
    ("user", "classes", "reason"),
    [
        ("root", [], "admitted"),
        ("root", [b"debug"], "admitted"),
        ("bob", [b"debug", b"info"], "admitted"),
        ("root", [b"debugged"], "no_role"),
        ("root", [b"xdebug"], "no_role"),
        ("root", [b"DEBUG"], "no_role"),
        ("root", [b"debug", b"other"], "no_role"),
        ("root", [b"x_y"], "admitted"),
        ("bob", [b"x_y"], "admitted"),
        ("root", [b"x_z"], "not_authorized"),
        ("carl", [b"x_y"], "not_authorized"),
        ("Root", [b"debug"], "not_authorized"),
        ("", [b"debug"], "not_authorized"),
        ("root", [b"z"], "no_role"),
        ("root", [b""], "no_role"),
        ("root", [b"debug\n"], "no_role"),
    ],
)
def test_roles_decide_by_class_and_user(
    user: str, classes: list[bytes], reason: str
) -> None:
    """One role about the whole name of the class that lists the user is enough."""
    decision = judge_roles(snapshot_of(ADMIT, roles=ROLES), peer(user=user), classes)

    assert decision.reason == reason
    assert decision.allowed == (reason == "admitted")


def test_decision_names_the_role() -> None:
    """The role that decided is told with its line, as a rule is."""
    origins = {"roles[0].pattern": Origin("server.toml", 9, 1)}
    snapshot = snapshot_of(ADMIT, roles=[("a", ("root",)), ("b", ())], origins=origins)

    admitted = judge_roles(snapshot, peer(), [b"a"])
    refused = judge_roles(snapshot, peer(), [b"b"])

    assert admitted.text == "role a (server.toml:9) authorizes user root to define a"
    assert (admitted.list_name, admitted.entry) == ("authorize", "root")
    assert refused.rule is snapshot.roles[1]
    assert refused.text == (
        "role b (roles[1]) is about the class b, and does not authorize user root"
    )


def test_role_that_cannot_be_evaluated_is_told_of() -> None:
    """Such a role is about no class, and a warning says so."""
    _, problems = compiled(ADMIT, roles=ROLES, allowallconnects=("127.0.0.1",))

    assert [(p.key_path, p.severity) for p in problems] == [
        ("roles[3].pattern", "warning")
    ]
    assert "lookahead is not supported" in problems[0].message


BUNDLES = [
    bundle("b[12]", admit_ips=("127.0.0.1", "10.0.0.1")),
    bundle("b1", deny_ips=("10.0.0.1",), admit_ips=("127.0.0.1",)),
    bundle("c", admit_ips=("192.0.2.1",)),
    bundle("n", admit_hostnames=("a.example",)),
]


@pytest.mark.parametrize(
    ("address", "names", "reason"),
    [
        ("127.0.0.1", [], "admitted"),
        ("127.0.0.1", [b"b1", b"b2"], "admitted"),
        ("10.0.0.1", [b"b2"], "admitted"),
        ("10.0.0.1", [b"b1"], "denied"),
        ("10.0.0.1", [b"b2", b"b1"], "denied"),
        ("127.0.0.1", [b"c"], "not_admitted"),
        ("127.0.0.1", [b"b11"], "no_rule"),
        ("127.0.0.1", [b"b1", b"d", b"c"], "no_rule"),
    ],
)
def test_bundles_need_one_admit_and_no_deny(
    address: str, names: list[bytes], reason: str
) -> None:
    """Every rule about a bundle is asked; any of them denies, one must admit."""
    snapshot = snapshot_of(ADMIT, *BUNDLES)
    evaluator = AccessEvaluator(snapshot)

    decision = judge_bundles(evaluator, snapshot, peer(address), names)

    assert decision.reason == reason
    assert decision.allowed == (reason == "admitted")


def test_bundle_by_a_host_name_that_is_not_known() -> None:
    """Where the name decides and is not known, that is said, and is no refusal."""
    snapshot = snapshot_of(ADMIT, *BUNDLES)
    who = peer(hostname_known=False)

    decision = judge_bundles(AccessEvaluator(snapshot), snapshot, who, [b"b2", b"n"])

    assert decision.undecidable
    assert not decision.allowed
    assert snapshot.uses_hostnames


class _Refusing:
    """
    An evaluator of somebody else's.
    """

    def evaluate(self, snapshot: Any, peer: Any, request: AccessRequest) -> Decision:
        """
        Refuse everything, and say what was asked.
        """
        return Decision(False, "mine", f"{request.operation} {request.path!r}")


def test_evaluator_in_force_decides() -> None:
    """Roles and bundles are asked of the evaluator that was given."""
    snapshot = snapshot_of(ADMIT, *BUNDLES, roles=ROLES)
    mine: Any = _Refusing()

    assert judge_roles(snapshot, peer(), [b"debug"], evaluator=mine).text == (
        "role b'debug'"
    )
    assert judge_bundles(mine, snapshot, peer(), [b"b1"]).text == "bundle b'b1'"


def test_catastrophic_expressions_take_no_longer() -> None:
    """An expression that others choke on is evaluated like any other."""
    snapshot = snapshot_of(ADMIT, roles=[("(a+)+", ("root",)), ("(a|aa)*b", ("root",))])

    decision = judge_roles(snapshot, peer(), [b"a" * 3000 + b"!"])

    assert decision.reason == "no_role"


@settings(max_examples=100)
@given(
    st.lists(
        st.tuples(st.text(max_size=8), st.lists(st.text(max_size=4), max_size=2)),
        max_size=3,
    ),
    st.lists(st.binary(max_size=8), max_size=3),
    st.text(max_size=4),
)
def test_any_roles_classes_and_users(
    roles: list[tuple[str, list[str]]], classes: list[bytes], user: str
) -> None:
    """
    Whatever is configured and asked for is decided, with a reason; a class is only
    allowed to a user whom some role lists.
    """
    listed = [(pattern, tuple(users)) for pattern, users in roles]
    snapshot = snapshot_of(ADMIT, roles=listed)

    decision = judge_roles(snapshot, peer(user=user), classes)

    assert decision.reason in REASONS
    if decision.allowed and classes:
        assert any(user in users for _, users in listed)
    assert len(snapshot.named(ROLE, b"x")) <= len(listed)


def test_roles_stay_with_the_snapshot() -> None:
    """A snapshot that is changed in part keeps its roles and its command."""
    snapshot = snapshot_of(ADMIT, roles=ROLES)

    other = evolve(snapshot, generation=9)

    assert other.roles == snapshot.roles
    assert other.execution == snapshot.execution
