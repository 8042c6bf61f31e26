# SPDX-License-Identifier: MIT
"""
Tests for `nodecomm.server.execution.command_line`.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from nodecomm.server.execution.command_line import (
    added_words,
    command_line,
    shown_command,
)
from tests.server.execution.run_case import make_order

LIST = ("/usr/bin/cf-agent", "-K")
TEXT = "/usr/bin/cf-agent -K; exit 3"


@pytest.mark.parametrize(
    ("defined", "bundles", "added"),
    [
        ((), (), ()),
        (("a",), (), ("-D", "a")),
        (("a", "b"), (), ("-D", "a,b")),
        ((), ("x", "y:z"), ("--bundlesequence", "x,y:z")),
        (("a",), ("x",), ("-D", "a", "--bundlesequence", "x")),
    ],
)
def test_what_is_added(
    defined: tuple[str, ...], bundles: tuple[str, ...], added: tuple[str, ...]
) -> None:
    """Classes and bundles stand behind the operator's words, each list one word."""
    by_list = make_order(*defined, bundles=bundles, command=LIST)
    by_text = make_order(*defined, bundles=bundles, command=TEXT)

    assert command_line(by_list) == LIST + added
    assert command_line(by_text) == ("/bin/sh", "-c", " ".join([TEXT, *added]))
    assert shown_command(by_list) == " ".join([*LIST, *added]).encode()
    assert shown_command(by_text) == " ".join([TEXT, *added]).encode()


def test_words_as_they_were_sent() -> None:
    """Options that came more than once, and lists with gaps, stay as they were."""
    words = (b"--bundlesequence", b"x", b"-D", b"a,,b,", b"-D", b"c")
    order = evolve(make_order("a", "", "b", "c", bundles=("x",)), words=words)

    assert added_words(order) == tuple(word.decode() for word in words)


@given(st.lists(st.binary(max_size=6), max_size=4))
def test_nothing_else_gets_into_a_command(words: list[bytes]) -> None:
    """
    Whatever is to be added, and however it got here: it is made of the characters of
    lists, or is one of two options, or nothing is run.
    """
    order = evolve(make_order(), words=tuple(words))
    fine = all(
        re.fullmatch(rb"[A-Za-z0-9_:,]+", word) or word in (b"-D", b"--bundlesequence")
        for word in words
    )
    for make in (added_words, command_line, shown_command):
        if fine:
            assert make(order)[-1:] is not None
        else:
            with pytest.raises(ValueError, match="cannot stand in a command"):
                make(order)


@pytest.mark.parametrize("name", ["a;b", "a b", "$(id)", "a\n", "é", "-K", "a'"])
def test_names_with_other_characters(name: str) -> None:
    """A class that a shell could take for something else is never run."""
    with pytest.raises(ValueError, match="cannot stand in a command"):
        command_line(make_order(name))


def test_a_list_is_shown_as_a_shell_would_read_it() -> None:
    """Words with spaces are quoted, and nothing ends the line or reaches a terminal."""
    order = make_order("a", command=("/opt/my agent", "", "it's", "\x1b[31m\n"))

    shown = shown_command(order)
    assert shown == b"'/opt/my agent' '' 'it'\"'\"'s' '\\x1b[31m\\x0a' -D a"


def test_the_shell_reads_the_operators_text(tmp_path: Path) -> None:
    """What the shell adds up is the operator's text and the added words."""
    order = make_order("a", "b", bundles=("x",), command='set -- "$HOME"; echo $#')
    said = subprocess.run(
        command_line(order), capture_output=True, check=True, cwd=tmp_path
    )

    assert said.stdout == b"1 -D a,b --bundlesequence x\n"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("/bin/sh -c 'kill -9 $$'", -9),
        ("/bin/sh -c 'kill -9 $$' 2>/dev/null", -9),
        ("/bin/sh -c 'kill -9 $$'; exit 3", 3),
        ("/bin/true && exit 4", 4),
        ("exit 5;", 5),
        ("'/bin/sh' -c 'exit 6'", 6),
    ],
)
def test_a_shell_becomes_a_single_command(text: str, code: int) -> None:
    """
    A signal that ends the only command ends what was begun; of several commands the
    shell tells how they ended, and a text may be anything that a shell reads.
    """
    done = subprocess.run(
        command_line(make_order(command=text)), capture_output=True, check=False
    )

    assert done.returncode == code
