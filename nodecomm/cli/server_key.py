# SPDX-License-Identifier: MIT
"""
`nodecomm server-key`: which keys are known of which servers, and accepting a new one.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from twisted.python import usage

from nodecomm.cli.asking import OpenTerminal, ask_whether, open_terminal
from nodecomm.cli.connecting import (
    Interrupted,
    ReachingOptions,
    read_key_file,
    report,
    run_command,
    server_argument,
)
from nodecomm.cli.dialing import make_asking_dialer
from nodecomm.cli.options import (
    CommandOptions,
    GroupOptions,
    StateOptions,
    fail,
    repeat_state_dir,
    write_json,
)
from nodecomm.cli.statuses import Status
from nodecomm.client.errors import UntrustedServer
from nodecomm.identity.keys import PublicKey, parse_digest, parse_digest_or_none
from nodecomm.identity.servers import (
    SERVER_KEYS_FOLDER,
    ServerDecision,
    ServerKeyStore,
    ServerKeysUnreadable,
    accept_command,
)
from nodecomm.wire.text import safe

if TYPE_CHECKING:
    from nodecomm.client.address import ServerAddress
    from nodecomm.sync.syncing import Dialing

__all__ = ["OnlyLooking", "Options", "look_at_key", "run"]


class _ListOptions(CommandOptions):
    longdesc = "Print the keys that are known of servers."


class _AcceptOptions(ReachingOptions):
    takes = "[options] SERVER [KEY]"
    longdesc = (
        "Know SERVER (HOST[:PORT], as commands and configurations name it) by a new "
        "key from now on, and by that alone. KEY is a file with the server's public "
        "key, or its digest; then the server is asked for the key, and it must be "
        "that. Without KEY the server is asked, the key is shown, and you are asked "
        "whether it is right."
    )
    subjects = (("server", "SERVER"), ("key", "KEY"))
    optional = 1
    optFlags = [["keep-old", None, "know it by its old keys as well: it is changing"]]

    protocols = "2, 3, latest or classic"

    def __init__(self) -> None:
        super().__init__()
        self.docs["protocol"] = f"newest version to ask with: {self.protocols}"

    def choose_classic(self, named: str) -> None:
        """
        For a server without TLS. It shows its key then and does not prove to hold it:
        whoever accepts the key compares it, and the next connection has it proved.
        """
        self.classic = True

    def postOptions(self) -> None:
        """
        Read what it is about.
        """
        super().postOptions()
        self["server"] = server_argument(self["server"])


class _ForgetOptions(CommandOptions):
    takes = "[options] SERVER [DIGEST]"
    longdesc = "Forget the keys of SERVER, or the one with this digest."
    subjects = (("server", "SERVER"), ("digest", "DIGEST"))
    optional = 1

    def postOptions(self) -> None:
        """
        Read what it is about.
        """
        self["server"] = server_argument(self["server"])
        if self["digest"] is not None:
            try:
                self["digest"] = parse_digest(self["digest"])
            except ValueError as error:
                raise usage.UsageError(str(error)) from error


class Options(GroupOptions):
    """
    The command line of `nodecomm server-key`.
    """

    longdesc = "List, accept and forget the keys of servers."
    takes = "COMMAND [options]"
    subCommands = [
        ["list", None, _ListOptions, "print the keys that are known of servers"],
        ["accept", None, _AcceptOptions, "know a server by a new key"],
        ["forget", None, _ForgetOptions, "know a server's key no longer"],
    ]

    unnamed = "what about keys of servers? Commands: list, accept, forget"


class OnlyLooking:
    """
    Whom to ask about a server's key when nothing but the key is wanted: it trusts
    nobody, so that nothing is sent.
    """

    def check(self, server: str, key: PublicKey) -> ServerDecision:
        """
        No.
        """
        text = f"{safe(server)} was only asked for its key, {key.md5}"
        return ServerDecision(False, "key-unknown", text)

    def candidates(self, server: str) -> tuple[PublicKey, ...]:
        """
        None: whatever it shows is wanted.
        """
        del server
        return ()


async def look_at_key(dialer: Dialing, server: ServerAddress) -> PublicKey:
    """
    The key that a server shows.

    Args:
        dialer: One that asks `OnlyLooking`.
        server: The server.

    Raises:
        ClientError: It cannot be reached, or shows no key that could be used.
    """
    try:
        session = await dialer.connect(server)
    except UntrustedServer as error:
        if error.key is None or error.code == "key-unusable":
            raise
        return error.key
    await session.close()
    return session.server_key


def run(options: Options, stdout: TextIO, stderr: TextIO) -> int:
    """
    Run one `nodecomm server-key` command and return its exit status.
    """
    chosen = cast(StateOptions, options.subOptions)
    state_dir = options.state_dir
    store = ServerKeyStore(state_dir / SERVER_KEYS_FOLDER)
    named, as_json = options.named_state_dir, options.as_json
    try:
        if isinstance(chosen, _AcceptOptions):
            return _accept(
                chosen, state_dir, store, stdout, stderr, named, as_json=as_json
            )
        if isinstance(chosen, _ForgetOptions):
            return _forget(chosen, store, stdout, stderr, named, as_json=as_json)
        return _list(store, stdout, as_json=as_json)
    except ServerKeysUnreadable as error:
        return fail(stderr, safe(str(error)))
    except Interrupted as stopped:
        stderr.write("error: interrupted\n")
        return 128 + stopped.number
    except OSError as error:
        return report(error, stdout, stderr, as_json=as_json) or Status.LOCAL


def _key_facts(key: PublicKey) -> dict[str, Any]:
    return {"md5": key.md5, "sha": key.sha, "bits": key.bits, "exponent": key.exponent}


def _list(store: ServerKeyStore, stdout: TextIO, *, as_json: bool) -> int:
    entries = store.entries()
    unusable = store.unusable()
    if as_json:
        facts = {
            "servers": [
                {
                    "server": entry.server,
                    "keys": [_key_facts(key) for key in entry.keys],
                    "path": entry.path,
                }
                for entry in entries
            ],
            "unusable": [{"name": x.name, "reason": x.reason} for x in unusable],
        }
        write_json(facts, stdout)
        return Status.DONE
    for entry in entries:
        for key in entry.keys:
            stdout.write(safe(f"{entry.server}  {key.md5}  {key.bits} bits") + "\n")
    for bad in unusable:
        stdout.write(safe(f"{bad.name}  UNUSABLE: {bad.reason}") + "\n")
    if not (entries or unusable):
        stdout.write(safe(f"no server is known in {store.directory}") + "\n")
    return Status.DONE


def _forget(
    options: _ForgetOptions,
    store: ServerKeyStore,
    stdout: TextIO,
    stderr: TextIO,
    named: Path | None,
    *,
    as_json: bool,
) -> int:
    server = str(options["server"])
    there = os.path.lexists(store.path(server))
    gone = store.forget(server, options["digest"])
    if not gone and (options["digest"] or not there):
        what = options["digest"] or "no key"
        known = "is not known of" if options["digest"] else "is known of"
        text = f"{what} {known} {server}; see `nodecomm server-key list`"
        return fail(stderr, safe(repeat_state_dir(text, named)))
    if as_json:
        facts = {"server": server, "forgotten": [_key_facts(key) for key in gone]}
        write_json(facts, stdout)
    for key in () if as_json else gone:
        stdout.write(safe(f"forgotten: {server}  {key.md5}") + "\n")
    if not gone and not as_json:
        stdout.write(safe(f"removed: {store.path(server)}, which held no key") + "\n")
    return Status.DONE


def _accept(
    options: _AcceptOptions,
    state_dir: Path,
    store: ServerKeyStore,
    stdout: TextIO,
    stderr: TextIO,
    named: Path | None,
    *,
    as_json: bool,
) -> int:
    address: ServerAddress = options["server"]
    server = str(address)
    given = options["key"]
    digest = None if given is None else parse_digest_or_none(given)
    if given is not None and digest is None:
        key = read_key_file(given)
    else:
        found: list[PublicKey] = []
        options.warn(address, stderr)

        async def work(reactor: Any) -> int:
            looking = OnlyLooking()
            dialer = make_asking_dialer(reactor, options, state_dir, trust=looking)
            found.append(await look_at_key(dialer, address))
            return Status.DONE

        status = run_command(work, stdout, stderr, as_json=as_json, state_dir=named)
        if not found:
            return status
        (key,) = found
        refusal = _not_confirmed(
            options, key, digest, store, partial(open_terminal, stderr)
        )
        if refusal:
            refusal = safe(repeat_state_dir(refusal, named))
            stderr.write(f"error: {refusal}\n")
            return Status.UNTRUSTED
    changed = store.add(server, key, replace=not options["keep-old"])
    keys = store.keys(server)
    if as_json:
        facts = {
            "server": server,
            "changed": changed,
            "keys": [_key_facts(one) for one in keys],
        }
        write_json(facts, stdout)
    else:
        word = "accepted" if changed else "known already"
        stdout.write(safe(f"{word}: {server}  {key.md5}") + "\n")
    return Status.DONE


def _not_confirmed(
    options: _AcceptOptions,
    key: PublicKey,
    digest: str | None,
    store: ServerKeyStore,
    terminal: OpenTerminal,
) -> str:
    """
    Why the key that a server shows is not taken; empty if it is.
    """
    server = str(options["server"])
    if digest is not None:
        if key.matches(digest):
            return ""
        return f"{server} shows the key {key.md5}, which is not {digest}"
    try:
        known = store.keys(server)
    except ServerKeysUnreadable as error:
        known = ()
        before = f"What is stored for it cannot be read: {error}\n"
    else:
        names = ", ".join(one.md5 for one in known) or "none"
        before = f"Known of it until now: {names}\n"
    if known == (key,):
        return ""
    others = store.others(key, server)
    if others:
        before += f"This is the key of {', '.join(others)}\n"
    shown = "".join(safe(line) + "\n" for line in before.splitlines())
    answer = ask_whether(
        f"{safe(server)} shows the key\n  {key.md5}\n  {key.sha}  ({key.bits} bits)\n"
        f"{shown}",
        key,
        terminal,
    )
    if answer:
        return ""
    if answer is None:
        return (
            f"{server} shows the key {key.md5}, and there is no terminal to ask at; "
            "if it is right: "
            f"`{accept_command(server, classic=options.classic)} {key.md5}`"
        )
    return f"the key of {server} was not accepted"
