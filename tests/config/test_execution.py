# SPDX-License-Identifier: MIT
"""
Tests for `nodecomm.config.execution`: what the keys about runs must be, together.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from attrs import frozen
from hypothesis import given, settings
from hypothesis import strategies as st

from nodecomm.config.durations import parse_duration
from nodecomm.config.errors import Origin
from nodecomm.config.execution import (
    Command,
    RoleSettings,
    RunSettings,
    check_execution,
    program_of,
)
from nodecomm.config.fields import keys_of
from nodecomm.config.placed import Checks, Placed
from nodecomm.config.structure import structure

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

#: A configuration with a command that nothing is wrong with.
GOOD = "[server]\ncfruncommand = ['/usr/bin/cf-agent', '-K']\nallowusers = ['root']\n"

SHELL = (
    "a text is given to /bin/sh -c, with -D and --bundlesequence behind it where they "
    "are asked for; a list is run without a shell: write "
    '["/path/of/program", "argument"]'
)
NO_PATH = "the program is not named by an absolute path; "


def messages(toml: str) -> list[str]:
    """
    What is said about a document, without the place.
    """
    _, problems = structure(tomllib.loads(toml))
    return [str(problem).removeprefix("configuration: ") for problem in problems]


def test_every_key_is_read() -> None:
    """What is written about runs is what the settings hold."""
    result, problems = structure(
        tomllib.loads(
            GOOD
            + """
            cfrunuser = "nobody"
            [[roles]]
            pattern = "debug|info"
            authorize = ["root"]
            [[roles]]
            pattern = "x.*"
            authorize = ["root"]
            [run]
            at_once = 3
            waiting = 0
            again = "refuse"
            timeout = "90s"
            kill_after = "1m"
            output_limit = 4096
            classes = ["web", "site_1"]
            """
        )
    )

    assert problems == []
    assert result is not None
    assert result.server.cfruncommand == ("/usr/bin/cf-agent", "-K")
    assert result.server.cfrunuser == "nobody"
    assert [role.pattern for role in result.roles] == ["debug|info", "x.*"]
    assert result.roles[0].authorize == ("root",)
    assert result.run == RunSettings(
        at_once=3,
        waiting=0,
        again="refuse",
        timeout="90s",
        kill_after="1m",
        output_limit=4096,
        classes=("web", "site_1"),
    )


def test_defaults_of_runs() -> None:
    """One run at a time, ten wait, the same is joined, an hour, 10 MiB."""
    run = RunSettings()

    assert {key.name: key.default for key in keys_of(RunSettings)} == {
        "at_once": 1,
        "waiting": 10,
        "again": "join",
        "timeout": "1h",
        "kill_after": "10s",
        "output_limit": 10485760,
        "classes": (),
    }
    assert parse_duration(run.timeout) == 3600


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("/bin/echo", False),
        ("/bin/echo 'a b' \"c\" >/dev/null 2>&1", False),
        ("cd / && exec /bin/echo -K:$HOME", False),
        ("# it's a comment\n/bin/echo", False),
        ("/bin/echo '", True),
        ('/bin/echo "', True),
        ("/bin/echo #", True),
        ("/bin/echo # all", True),
        ("/bin/echo \\", True),
        ("/bin/echo;", True),
        ("/bin/echo &", True),
        ("(/bin/echo)", True),
        ("/bin/true | ", True),
    ],
)
def test_texts_that_take_no_classes(command: str, told: bool) -> None:
    """
    A text with which -D would be no argument of a command is a warning.
    """
    text = json.dumps(f"/bin/true; {command}")

    said = messages(f'[server]\ncfruncommand = {text}\nallowusers = ["root"]\n')

    assert any("no argument of its last command" in each for each in said) == told


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("['/usr/bin/cf-agent', '-K']", []),
        ("'sync'", []),
        ("[]", []),
        ("'/bin/echo hello'", [f"warning: server.cfruncommand: {SHELL}"]),
        (
            "'bash -c /bin/true'",
            [
                f"error: server.cfruncommand: {NO_PATH}"
                "begin with one such as /usr/bin/cf-agent"
            ],
        ),
        (
            "' Sync '",
            [
                f"error: server.cfruncommand: {NO_PATH}"
                'write "sync" for the node\'s own sync'
            ],
        ),
        (
            "'synch'",
            [
                f"error: server.cfruncommand: {NO_PATH}"
                'write "sync" for the node\'s own sync'
            ],
        ),
        (
            "['cf-agent', '-K']",
            [
                f"error: server.cfruncommand[0]: {NO_PATH}"
                "there is no search path here; write one such as /usr/bin/cf-agent"
            ],
        ),
        (
            "['sync']",
            [
                f"error: server.cfruncommand[0]: {NO_PATH}"
                'write "sync", without the list, for the node\'s own sync'
            ],
        ),
        (
            "['']",
            [
                f"error: server.cfruncommand[0]: {NO_PATH}"
                "there is no search path here; write one such as /usr/bin/cf-agent"
            ],
        ),
        (
            "' '",
            ["error: server.cfruncommand: an empty text is no command; leave it out"],
        ),
        (
            '"\'/bin/echo open"',
            [
                "error: server.cfruncommand: no shell can read this: no "
                'closing quotation; write a list: ["/path/of/program", "argument"]'
            ],
        ),
        (
            '["/bin/echo", "a\\u0000"]',
            ["error: server.cfruncommand: a NUL cannot be part of a command; "],
        ),
        (
            "5",
            [
                "error: server.cfruncommand: a whole number where a list of "
                'texts belongs; write ["/path/of/program", "argument"]'
            ],
        ),
    ],
)
def test_commands(written: str, said: list[str]) -> None:
    """A list names its program by its path; a text is for the shell, with a warning."""
    _, problems = structure(
        tomllib.loads(f"[server]\nallowusers = ['root']\ncfruncommand = {written}")
    )

    assert [
        f"{p.severity}: {p.key_path}: {p.message}; {p.hint}" for p in problems
    ] == said


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        (
            "[server]\ncfruncommand = 'sync'",
            "warning: server.allowusers = []: nobody may ask for a run of cfruncommand;"
            ' write allowusers = ["root"], or leave cfruncommand out',
        ),
        (
            "[server]\ncfrunuser = 'nobody'",
            'warning: server.cfrunuser = "nobody": it has no effect without '
            "cfruncommand: there is nothing to run; write cfruncommand in [server], or "
            "leave it out",
        ),
        (
            "[[roles]]\npattern = 'x'\nauthorize = ['root']",
            "warning: roles: they have no effect without cfruncommand: there is "
            "nothing to run; write cfruncommand in [server], or leave them out",
        ),
        (
            "server.cfruncommand = 'sync'\nserver.allowusers = ['root']\n"
            "[[roles]]\npattern = 'x'\nauthorize = ['root']",
            "warning: roles: they have no effect: the node's own sync takes no classes;"
            " leave them out, or write a command of your own as cfruncommand",
        ),
        (
            "[[access]]\npath = 'b'\nresource_type = 'bundle'",
            "warning: access[0]: a rule about bundles has no effect: without "
            "cfruncommand there is nothing to run; leave it out, or write cfruncommand "
            "in [server]",
        ),
        (
            "server.cfruncommand = 'sync'\nserver.allowusers = ['root']\n"
            "[[access]]\npath = '/x'\nadmit_ips = ['::1']\n"
            "[[access]]\npath = 'b'\nresource_type = 'bundle'",
            "warning: access[1]: a rule about bundles has no effect: the node's own "
            "sync takes no bundles; leave it out, or write a command of your own as "
            "cfruncommand",
        ),
        (
            GOOD + "[[roles]]\npattern = 'x'",
            "warning: roles[0].authorize = []: the role authorizes nobody; write "
            '["root"]',
        ),
        (
            GOOD + "[[roles]]\npattern = 'x'\nauthorize = ['root', 'Root']",
            'warning: roles[0].authorize[1] = "Root": this user may not ask for a run: '
            "allowusers of [server] does not name it; add it there, or leave it out "
            "here",
        ),
        (
            "[[roles]]\nauthorize = ['root']",
            "error: roles[0]: pattern is missing; write pattern = ... (text)",
        ),
        (
            "[run]\nclasses = ['linux.debian']",
            'error: run.classes[0] = "linux.debian": only letters, digits and _ can be '
            'part of a class; write "linux_debian"',
        ),
        (
            "[run]\nclasses = ['']",
            'error: run.classes[0] = "": an empty text is no class; leave it out',
        ),
        (
            "[run]\ntimeout = 60",
            'error: run.timeout = 60: a length of time needs a unit; write "60s"',
        ),
        (
            "[run]\nagain = 'queue'",
            'error: run.again = "queue": not one of the values this key takes; write '
            'one of "join", "wait", "refuse"',
        ),
        (
            "[run]\nat_once = 0",
            "error: run.at_once = 0: too small; write at least 1 run",
        ),
    ],
)
def test_what_does_not_go_together(toml: str, said: str) -> None:
    """What would have no effect, or refuse everybody, is told."""
    assert messages(toml) == [said]


def test_names_of_users_may_repeat() -> None:
    """A user named twice is nothing to tell of."""
    assert messages(GOOD.replace("'root'", "'root', 'root'")) == []


@pytest.mark.parametrize(
    ("command", "program"),
    [
        ((), ""),
        (("/usr/bin/cf-agent", "-K"), "/usr/bin/cf-agent"),
        ("/usr/bin/cf-agent -K", "/usr/bin/cf-agent"),
        (" \t/usr/bin/cf-agent", "/usr/bin/cf-agent"),
        ('"/opt/my tools/agent" -K', "/opt/my tools/agent"),
        ("'/opt/my tools/agent' -K", "/opt/my tools/agent"),
        (r"/opt/my\ tools/agent -K", "/opt/my tools/agent"),
        ("/bin/echo;id", "/bin/echo;id"),
        ("# nothing", "#"),
        ("", ""),
    ],
)
def test_program_of_a_command(command: Command, program: str) -> None:
    """The program is the first word, of a text with its quotes taken away."""
    assert program_of(command) == program


@settings(max_examples=100)
@given(
    st.one_of(st.text(max_size=20), st.lists(st.text(max_size=8), max_size=3)),
    st.lists(st.text(max_size=8), max_size=2),
)
def test_any_command_is_understood_or_told_of(
    command: str | list[str], users: list[str]
) -> None:
    """A command that passes has an absolute program, or is sync, or is none."""
    tree: dict[str, Any] = {"server": {"cfruncommand": command, "allowusers": users}}

    result, problems = structure(tree)

    assert (result is None) == any(problem.is_error for problem in problems)
    if result is not None and result.server.cfruncommand not in ((), "sync"):
        assert program_of(result.server.cfruncommand).startswith("/")


@frozen
class _Keys:
    """
    The keys about runs of any table.
    """

    cfruncommand: Command = ()
    cfrunuser: str | None = None
    allowusers: tuple[str, ...] = ()


def test_problems_name_the_table_they_are_in() -> None:
    """An agent's table is checked as a server's is, with its own name and lines."""
    whole = Placed(origins={"agent": Origin("agent.toml", 3, 1, "agent")})
    keys = _Keys(cfruncommand=("run-me",), allowusers=("root",))
    roles = (RoleSettings(pattern="x", authorize=("bob",)),)

    problems = list(check_execution(Checks(whole), "agent", keys, roles))

    assert [problem.key_path for problem in problems] == [
        "agent.cfruncommand[0]",
        "roles[0].authorize[0]",
    ]
    assert problems[0].origin is not None
    assert problems[0].origin.line == 3
    assert "allowusers of [agent]" in problems[1].message
