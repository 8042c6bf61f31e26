# SPDX-License-Identifier: MIT
"""
Hundreds of nodes in one process, each with an address of its own: listeners that run a
command for who asks, and some that are in a bad way.

`python -m tests.interop.crowd FOLDER PORT COMMAND USER FIRST KIND...` serves PORT at
`address_of(FIRST)` and the addresses behind it, as many as there are kinds. "good" and
"slow" run COMMAND, the latter with the word `slow` behind it; "refusing" runs it for
others than USER; "mute" takes connections and never says a word; "dead" does not
listen. Prints a line when all listen, and ends with its standard input.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

from twisted.internet.protocol import Factory, Protocol

from nodecomm.identity.keys import KeyPair
from nodecomm.identity.own import create_own_key
from nodecomm.service.embedding import port_factory

#: How many key pairs the nodes share: to make one takes longer than all else.
KEYS = 10


def address_of(number: int) -> str:
    """
    The address of a node, by its place.
    """
    return f"127.77.{number // 250}.{number % 250 + 1}"


def keys_of(folder: Path, number: int) -> Path:
    """
    Where a node has its key, by its place.
    """
    return folder / f"node{number}"


def settings(command: list[str], user: str, asker: str) -> dict[str, Any]:
    """
    The configuration of a node that *user* may connect to, and that runs *command* for
    *asker*.
    """
    everybody = ["127.0.0.0/8"]
    return {
        "server": {
            "allowconnects": everybody,
            "allowallconnects": everybody,
            "trustkeysfrom": everybody,
            "trustusers": [user],
            "allowusers": [asker],
            "cfruncommand": command,
        },
        "access": [{"path": command[0], "admit_ips": everybody}],
        # All come at once, and wait for each other where the machine is busy.
        "limits": dict.fromkeys(
            ("first_byte_timeout", "handshake_timeout", "dialog_timeout"), 600
        ),
    }


class _Ending(Protocol):
    """
    Whoever started this has ended.
    """

    def __init__(self, stop: Callable[[], object]) -> None:
        self._stop = stop

    def connectionLost(self, reason: Any = None) -> None:
        """Standard input has ended."""
        self._stop()


def main(
    folder: Path, port: int, command: str, user: str, first: int, kinds: list[str]
) -> None:
    """
    Serve until standard input ends.
    """
    from twisted.internet import reactor, stdio  # noqa: PLC0415

    loop: Any = reactor
    pairs = cycle([KeyPair.generate() for _ in range(min(KEYS, len(kinds)))])
    for number, kind in enumerate(kinds, first):
        if kind == "dead":
            continue
        factory: Any = Factory.forProtocol(Protocol)
        if kind != "mute":
            keys = keys_of(folder, number)
            create_own_key(keys, next(pairs))
            words = [command, "slow"] if kind == "slow" else [command]
            asker = "nobody" if kind == "refusing" else user
            factory = port_factory(loop, settings(words, user, asker), keys=keys)
        loop.listenTCP(port, factory, interface=address_of(number))
    stdio.StandardIO(_Ending(loop.stop))
    print("listening", flush=True)
    loop.run()


if __name__ == "__main__":
    _, where, listened, program, name, begin, *rest = sys.argv
    main(Path(where), int(listened), program, name, int(begin), rest)
