# SPDX-License-Identifier: MIT
"""
Dialers made of what a command line says.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TextIO

from nodecomm.identity.own import KEYS_FOLDER, load_own_key
from nodecomm.identity.servers import SERVER_KEYS_FOLDER, ServerKeyStore, ServerTrust

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nodecomm.cli.connecting import ReachingOptions
    from nodecomm.client.dialing import Dialer
    from nodecomm.client.trust import IClassicTrust, IServerTrust
    from nodecomm.sync.syncing import Dialing

__all__ = ["ask_at_terminal", "make_asking_dialer", "make_dialer"]


def make_dialer(
    reactor: Any,
    options: ReachingOptions,
    state_dir: Path,
    *,
    trust: IServerTrust | None = None,
    **more: Any,
) -> Dialer:
    """
    What connects as the options say.

    Args:
        reactor: To connect with.
        options: What was asked for.
        state_dir: Where our key and the keys of servers are.
        trust: Who decides about the server's key; by default what is stored there
            and what the options say.
        more: For the `Dialer`, in place of what it is given here.

    Raises:
        OwnKeyError: This host has no usable key.
    """
    # Not at the top: this is what takes time to load, and a wrong command line is
    # told without it.
    from nodecomm.client.dialing import Dialer  # noqa: PLC0415
    from nodecomm.client.memory import MEMORY_NAME, ServerMemory  # noqa: PLC0415
    from nodecomm.client.timeouts import Timeouts  # noqa: PLC0415
    from nodecomm.transport.context import client_context  # noqa: PLC0415

    pair = load_own_key(state_dir / KEYS_FOLDER)
    more.setdefault("timeouts", Timeouts.of(options.timeout))
    if "memory" not in more:
        more["memory"] = ServerMemory(state_dir / MEMORY_NAME)
    return Dialer(
        reactor,
        context=client_context(pair),
        trust=_trust(options, state_dir) if trust is None else trust,
        user=options.user,
        newest=options.newest,
        **more,
    )


def make_asking_dialer(
    reactor: Any,
    options: ReachingOptions,
    state_dir: Path,
    *,
    trust: IClassicTrust | None = None,
) -> Dialing:
    """
    What connects as the options say, over TLS or not, and asks at the terminal if they
    say so. The arguments are those of `make_dialer`.

    Raises:
        OwnKeyError: This host has no usable key.
        CipherMissing: This host cannot encrypt as the options say.
    """
    dialer = _make_either(reactor, options, state_dir, trust)
    if trust is not None or not options.get("interactive"):
        return dialer
    return ask_at_terminal(reactor, dialer, state_dir, sys.stderr)


def ask_at_terminal(
    reactor: Any,
    dialer: Dialing,
    state_dir: Path,
    stderr: TextIO,
    quiet: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Dialing:
    """
    What connects by *dialer*, and asks about servers whose keys are not known. *quiet*
    is as for `TerminalQuestion`.
    """
    from nodecomm.cli.asking import TerminalQuestion  # noqa: PLC0415
    from nodecomm.client.acquaintance import AskingDialer  # noqa: PLC0415

    store = ServerKeyStore(state_dir / SERVER_KEYS_FOLDER)
    return AskingDialer(dialer, store, TerminalQuestion(reactor, stderr, quiet))


def _make_either(
    reactor: Any,
    options: ReachingOptions,
    state_dir: Path,
    trust: IClassicTrust | None,
) -> Dialing:
    if not options.classic:
        return make_dialer(reactor, options, state_dir, trust=trust)
    from nodecomm.client.classic_dialing import ClassicDialer  # noqa: PLC0415
    from nodecomm.client.timeouts import Timeouts  # noqa: PLC0415

    return ClassicDialer(
        reactor,
        key=load_own_key(state_dir / KEYS_FOLDER),
        trust=_trust(options, state_dir) if trust is None else trust,
        user=options.user,
        encrypt=options.encrypt,
        timeouts=Timeouts.of(options.timeout),
    )


def _trust(options: ReachingOptions, state_dir: Path) -> ServerTrust:
    return ServerTrust(
        ServerKeyStore(state_dir / SERVER_KEYS_FOLDER),
        pinned=options.server_keys,
        first_use=bool(options.get("trust-server")),
        classic=options.classic,
    )
