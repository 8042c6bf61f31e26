# SPDX-License-Identifier: MIT
"""
What the commands that talk to a server have in common: their options, a dialer made of
them, running until it is done, and one line about what went wrong.
"""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TextIO, TypeVar

from twisted.python import usage

from nodecomm.cli.options import CommandOptions, repeat_state_dir, write_error
from nodecomm.cli.statuses import Status, code_of, status_of, text_of
from nodecomm.client.address import ServerAddress, Target, parse_server, parse_target
from nodecomm.client.protection import classic_warning
from nodecomm.identity.files import read_small
from nodecomm.identity.keys import (
    PublicKey,
    UnusableKey,
    check_sane,
    parse_digest_or_none,
)
from nodecomm.identity.users import own_user
from nodecomm.wire.cipher import missing
from nodecomm.wire.classic import check_user
from nodecomm.wire.commands import encode_stat
from nodecomm.wire.dialog import ClientDialog
from nodecomm.wire.errors import LocalProtocolError
from nodecomm.wire.framing import encode_transaction
from nodecomm.wire.text import safe

__all__ = [
    "AskingOptions",
    "ConnectingOptions",
    "InteractiveOptions",
    "Interrupted",
    "ReachingOptions",
    "read_key_file",
    "report",
    "run_command",
    "run_until_done",
    "seconds_option",
    "server_argument",
    "target_argument",
]

T = TypeVar("T")

#: The protocol versions, as numbers and as CFEngine's `protocol_version` calls them.
#: Source: CFEngine 3.21, the values of that attribute.
PROTOCOLS = {"2": 2, "tls": 2, "3": 3, "cookie": 3, "latest": 3}

#: The one of before TLS.
CLASSIC = ("1", "classic")


class ReachingOptions(CommandOptions):
    """
    `--timeout` and `--protocol`: a server is called.

    Attributes:
        server_keys: The keys that it may have.
        timeout: Seconds.
        newest: The newest protocol version to speak over TLS.
        classic: Whether to speak the one of before TLS, and no other.
        encrypt: Whether classic requests and contents are encrypted.
        user: The user name to come with, as on the wire.
    """

    optParameters = [
        ["timeout", "t", "30", "seconds to wait for a connection, or for an answer"],
        ["protocol", None, "latest", "newest version to speak: 2, 3 or latest"],
    ]

    #: What `--protocol` takes, for people.
    protocols = "2, 3 or latest"

    def __init__(self) -> None:
        self.server_keys: list[str | PublicKey] = []
        self.timeout = 30.0
        self.newest = 3
        self.classic = False
        self.encrypt = False
        self.user = b""
        super().__init__()

    def postOptions(self) -> None:
        """
        Check what has been given.
        """
        self.timeout = seconds_option("--timeout", self["timeout"])
        self.user = own_user()
        named = self["protocol"].lower()
        if named in CLASSIC:
            self.choose_classic(named)
        elif named in PROTOCOLS:
            self.newest = PROTOCOLS[named]
        else:
            msg = f"--protocol takes {self.protocols}, not {self['protocol']!r}"
            raise usage.UsageError(msg)

    def choose_classic(self, named: str) -> None:
        """
        The protocol of before TLS was asked for, by the name *named*.

        Raises:
            usage.UsageError: This command does not speak it.
        """
        msg = (
            f"--protocol {named}: this command speaks TLS only, as the classic protocol"
            f" protects nothing on the way; write {self.protocols}. For a server that"
            " speaks no TLS: `nodecomm key generate`, `nodecomm server-key accept"
            ' SERVER KEYFILE`, and protocol = "classic" in agent.toml'
        )
        raise usage.UsageError(msg)

    def warn(self, server: ServerAddress, stderr: TextIO) -> None:
        """
        Tell whoever runs the command if nothing protects what is sent.

        Where the cipher is missing that is asked for, nothing is going to be sent.
        """
        if self.classic and not (self.encrypt and missing()):
            text = classic_warning(server, encrypt=self.encrypt)
            stderr.write(f"warning: {safe(text)}\n")


class ConnectingOptions(ReachingOptions):
    """
    `--trust-server`, `--server-key` and `--user`: a server is asked.
    """

    optParameters = [
        ["user", "u", None, "the user name to come with; your own by default"],
    ]
    optFlags = [
        [
            "trust-server",
            None,
            "trust the key of a server that is not known yet, and remember it",
        ],
    ]

    def opt_server_key(self, key: str) -> None:
        """
        The digest of the server's key (MD5=... or SHA=...), or a file with the key;
        may be given several times. No other key is accepted then.
        """
        self.server_keys.append(parse_digest_or_none(key) or read_key_file(key))

    def postOptions(self) -> None:
        """
        Check what has been given.
        """
        super().postOptions()
        if self["user"] is not None:
            self.user = os.fsencode(self["user"])
        _check_user(self.user, lambda user: ClientDialog(user, b"", self.newest))


class InteractiveOptions(ConnectingOptions):
    """
    The same with `--interactive`: whoever runs the command may be asked.
    """

    optFlags = [
        [
            "interactive",
            "i",
            "ask at the terminal about the key of a server that is not known yet",
        ],
    ]

    def postOptions(self) -> None:
        """
        Check what has been given.
        """
        super().postOptions()
        if self["interactive"] and self["trust-server"]:
            msg = "--interactive asks, --trust-server does not: give one of the two"
            raise usage.UsageError(msg)


class AskingOptions(InteractiveOptions):
    """
    The same with the classic protocol, for commands that ask a server and do nothing
    but with the answer.
    """

    optFlags = [
        [
            "encrypt",
            None,
            "with --protocol classic: have names and contents encrypted",
        ],
    ]

    protocols = "2, 3, latest or classic"

    def __init__(self) -> None:
        super().__init__()
        self.docs["protocol"] = (
            "newest version to speak: 2, 3 or latest; or classic, and that alone"
        )

    def choose_classic(self, named: str) -> None:
        """
        As `ConnectingOptions.choose_classic`.
        """
        self.classic = True

    def postOptions(self) -> None:
        """
        Check what has been given.
        """
        super().postOptions()
        if self.classic:
            _check_user(self.user, check_user)
        self.encrypt = bool(self["encrypt"])
        if self.encrypt and not self.classic:
            msg = (
                "--encrypt is about --protocol classic: over TLS everything is"
                " encrypted, always"
            )
            raise usage.UsageError(msg)


def _check_user(user: bytes, check: Callable[[bytes], object]) -> None:
    try:
        check(user)
    except LocalProtocolError as error:
        msg = f"--user: {error}"
        raise usage.UsageError(msg) from error


class Interrupted(Exception):  # noqa: N818
    """
    A signal ended the work before it was done.

    Attributes:
        number: Which signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def server_argument(text: str) -> ServerAddress:
    """
    A server on the command line.

    Raises:
        usage.UsageError: It is none.
    """
    try:
        return parse_server(text)
    except ValueError as error:
        raise usage.UsageError(str(error)) from error


def target_argument(text: str) -> Target:
    """
    Something on a server, on the command line.

    Raises:
        usage.UsageError: It is none.
    """
    try:
        target = parse_target(text)
        # Whatever is asked, the name must fit into the request.
        encode_transaction(encode_stat(2**31, target.path))
    except (ValueError, LocalProtocolError) as error:
        raise usage.UsageError(str(error)) from error
    return target


def read_key_file(path: str) -> PublicKey:
    """
    The key in a file that was named on the command line.

    Raises:
        usage.UsageError: There is none.
    """
    try:
        key = PublicKey.from_pem(read_small(path)[1])
        check_sane(key)
    except FileNotFoundError:
        msg = f"{path!r} is neither a key's digest (MD5=..., SHA=...) nor a file"
        raise usage.UsageError(msg) from None
    except OSError as error:
        msg = f"{path}: {error.strerror}"
        raise usage.UsageError(msg) from error
    except UnusableKey as error:
        msg = f"{path}: {error}"
        raise usage.UsageError(msg) from error
    except ValueError as error:
        msg = f"{path} {error}"
        raise usage.UsageError(msg) from error
    return key


def run_command(
    work: Callable[[Any], Coroutine[Any, Any, int]],
    stdout: TextIO,
    stderr: TextIO,
    *,
    as_json: bool = False,
    state_dir: Path | None = None,
) -> int:
    """
    Run a command until it is done, tell what went wrong, and return the exit status.

    Args:
        work: Takes the reactor.
        stdout: For facts.
        stderr: For errors.
        as_json: Whether errors are facts for a program too.
        state_dir: What the command line named; what it says to do names it again.
    """
    try:
        return run_until_done(work)
    except Interrupted as stopped:
        stderr.write("error: interrupted\n")
        return 128 + stopped.number
    except Exception as error:
        status = report(error, stdout, stderr, as_json=as_json, state_dir=state_dir)
        if status is None:
            raise
        return status


def report(
    error: Exception,
    stdout: TextIO,
    stderr: TextIO,
    *,
    as_json: bool = False,
    state_dir: Path | None = None,
) -> Status | None:
    """
    Tell what went wrong; the exit status, None for a bug, which is not told.
    """
    status = status_of(error)
    if status is None:
        return None
    text = repeat_state_dir(text_of(error), state_dir)
    if as_json:
        write_error(code_of(error), text, status, stdout)
    stderr.write(f"error: {safe(text)}\n")
    return status


def run_until_done(
    work: Callable[[Any], Coroutine[Any, Any, T]], reactor: Any = None
) -> T:
    """
    Run the reactor until *work* is done, and return its result.

    SIGINT and SIGTERM cancel it: it ends when it has cleaned up. A second signal ends
    the process at once.

    Raises:
        Interrupted: A signal came, and the work did not succeed all the same.
        Exception: Whatever the work raises.
    """
    from twisted.internet.defer import Deferred  # noqa: PLC0415
    from twisted.python.failure import Failure  # noqa: PLC0415

    if reactor is None:
        from twisted.internet import reactor  # noqa: PLC0415

    running: list[Deferred[T]] = []
    results: list[T | Failure] = []
    signals: list[int] = []

    def begin() -> None:
        deferred = Deferred.fromCoroutine(work(reactor))
        running.append(deferred)
        deferred.addBoth(finish)

    def finish(result: T | Failure) -> None:
        results.append(result)
        # Not `stop`, which waits for threads: a name that is being looked up may take
        # its time, and nobody wants to know it any more.
        reactor.crash()

    def interrupt(number: int, frame: object) -> None:
        if signals:
            os._exit(128 + number)
        signals.append(number)
        reactor.callFromThread(cancel)

    def cancel() -> None:
        for deferred in running:
            deferred.cancel()

    previous = {
        number: signal.signal(number, interrupt)
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        reactor.callWhenRunning(begin)
        reactor.run(installSignalHandlers=False)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    (result,) = results
    if isinstance(result, Failure):
        if signals:
            raise Interrupted(signals[0])
        result.raiseException()
        raise AssertionError
    return result


def seconds_option(option: str, text: str, *, least: float = 0.001) -> float:
    """
    A number of seconds on the command line.

    Raises:
        usage.UsageError: It is none, or less than *least*.
    """
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= least):
        msg = f"{option} takes seconds, at least {least:g}, not {text!r}"
        raise usage.UsageError(msg)
    return seconds
