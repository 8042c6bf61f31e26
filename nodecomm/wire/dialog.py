# SPDX-License-Identifier: MIT
"""
The identification dialog at the start of a TLS connection.

Lines, not frames: the server announces its newest version, the client chooses one and
names its user, the server welcomes it. Real programs read until the last byte that
they got is a newline, so nothing may stand behind a dialog line in its TLS record:
write each line on its own.

One table serves both ends. A pair of state and input that is not in it breaks the
protocol and ends in `FAILED`.
"""

from __future__ import annotations

from enum import Enum

from attrs import frozen

from nodecomm.wire.errors import LocalProtocolError, RemoteProtocolError

#: Most bytes in a dialog line, the newline included.
#: Source: CFEngine 3.21, CF_SMALLBUF less one.
MAX_LINE = 1023

#: The newest protocol version spoken here (`cookie`).
NEWEST_VERSION = 3

#: The oldest protocol version that exists inside TLS (`tls`).
OLDEST_VERSION = 2

#: A user name is shorter than this, in bytes.
#: Source: CFEngine 3.21, CF_SMALLBUF.
USER_LIMIT = 1024

#: What begins the line that accepts the client; nothing after it is looked at.
WELCOME = b"OK WELCOME"

_VERSION_WORD = b"CFE_v"

# A version number has far fewer digits; the limit keeps int() cheap.
_VERSION_DIGITS = 9


class State(Enum):
    """
    Where a dialog stands. The first three are a server's, the next four a client's.
    """

    AWAIT_VERSION = "await version"
    AWAIT_IDENTITY = "await identity"
    IDENTIFIED = "identified"
    AWAIT_HELLO = "await hello"
    SENT_EARLY = "sent early"
    GREETED = "greeted"
    AWAIT_WELCOME = "await welcome"
    DONE = "done"
    FAILED = "failed"


class Input(Enum):
    """
    What moves a dialog.
    """

    VERSION_LINE = "version line received"
    IDENTITY_LINE = "identity line received"
    WELCOME_SENT = "welcome sent"
    HELLO_LINE = "hello line received"
    LINES_SENT = "own lines sent"
    WELCOME_LINE = "welcome line received"


#: Every step of a dialog that goes well. Bytes received in a state that waits for no
#: line (`IDENTIFIED`, `DONE`) are kept for `trailing` and move nothing.
TABLE: dict[tuple[State, Input], State] = {
    (State.AWAIT_VERSION, Input.VERSION_LINE): State.AWAIT_IDENTITY,
    (State.AWAIT_IDENTITY, Input.IDENTITY_LINE): State.IDENTIFIED,
    (State.IDENTIFIED, Input.WELCOME_SENT): State.DONE,
    (State.AWAIT_HELLO, Input.HELLO_LINE): State.GREETED,
    (State.AWAIT_HELLO, Input.LINES_SENT): State.SENT_EARLY,
    (State.SENT_EARLY, Input.HELLO_LINE): State.AWAIT_WELCOME,
    (State.GREETED, Input.LINES_SENT): State.AWAIT_WELCOME,
    (State.AWAIT_WELCOME, Input.WELCOME_LINE): State.DONE,
}

#: The states in which a line is awaited, and what it is taken for.
_AWAITED = {
    State.AWAIT_VERSION: Input.VERSION_LINE,
    State.AWAIT_IDENTITY: Input.IDENTITY_LINE,
    State.AWAIT_HELLO: Input.HELLO_LINE,
    State.SENT_EARLY: Input.HELLO_LINE,
    # Nothing may come before the own lines are sent; whatever does is unexpected.
    State.GREETED: Input.WELCOME_LINE,
    State.AWAIT_WELCOME: Input.WELCOME_LINE,
}


@frozen
class VersionChosen:
    """
    The client chose this protocol version.
    """

    version: int


@frozen
class Identity:
    """
    The client says that it is this user; the name may be empty.
    """

    user: bytes


@frozen
class ServerHello:
    """
    The server announced *newest*; *product* is the rest of its line.
    """

    newest: int
    product: bytes


@frozen
class Welcome:
    """
    The server accepted the client; *text* is its whole line.
    """

    text: bytes


class _Dialog:
    """
    Lines in, states moved; what both ends share.
    """

    def __init__(self, state: State, product: bytes, newest: int) -> None:
        if newest < OLDEST_VERSION:
            raise LocalProtocolError(
                "protocol version", newest, f"at least {OLDEST_VERSION}"
            )
        self._state = state
        self._product = product
        self._newest = newest
        self._received = bytearray()

    @property
    def state(self) -> State:
        """
        Where the dialog stands.
        """
        return self._state

    def trailing(self) -> bytes:
        """
        Take out the bytes that came after the last line of the dialog. They belong
        to the transactions; feed them to a `TransactionBuffer`.

        Raises:
            LocalProtocolError: The peer has not sent its last line yet.
        """
        if self._state not in (State.IDENTIFIED, State.DONE):
            raise LocalProtocolError(
                "trailing bytes", self._state.value, "only after the last line"
            )
        data = bytes(self._received)
        self._received.clear()
        return data

    def _next_line(self, searched: int) -> bytes | None:
        """
        Take out one line without its newline; the first *searched* bytes hold none.
        """
        end = self._received.find(b"\n", searched, MAX_LINE)
        if end < 0:
            if len(self._received) >= MAX_LINE:
                line = bytes(self._received[:MAX_LINE])
                raise self._fail("dialog line", line, f"at most {MAX_LINE} bytes")
            return None
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return line

    def _fire(self, happened: Input) -> None:
        state = TABLE.get((self._state, happened))
        if state is None:
            raise LocalProtocolError(
                "dialog", self._state.value, f"no state for '{happened.value}'"
            )
        self._state = state

    def _fail(self, field: str, value: bytes | int, limit: str) -> RemoteProtocolError:
        self._state = State.FAILED
        self._received.clear()
        return RemoteProtocolError(field, value, limit)

    def _add(self, data: bytes) -> int:
        """
        Add received bytes; return how many there were before.
        """
        if self._state is State.FAILED:
            raise RemoteProtocolError("dialog", data, "has failed already")
        before = len(self._received)
        self._received += data
        return before

    def _parse_version(self, line: bytes) -> tuple[int, bytes]:
        """
        Read `CFE_v<number> <rest>`.
        """
        rest = line[len(_VERSION_WORD) :]
        after = rest.lstrip(b"0123456789")
        count = len(rest) - len(after)
        if not line.startswith(_VERSION_WORD) or not 0 < count <= _VERSION_DIGITS:
            raise self._fail("version line", line, "CFE_v<number>")
        return int(rest[:count]), after.strip()

    def _version_line(self, version: int) -> bytes:
        return b"%b%d %b\n" % (_VERSION_WORD, version, self._product)


class ServerDialog(_Dialog):
    """
    The server's end.

    Send `hello` once the handshake is complete, pass what is received to
    `receive_data`, and when the `Identity` is trusted send `welcome`. What the client
    sent ahead is then in `trailing`.

    Args:
        product: What stands behind the version in the first line; real clients
            ignore it.
        newest: The newest protocol version to announce and accept.

    Raises:
        LocalProtocolError: The product holds a newline or makes the line too long.
    """

    def __init__(self, product: bytes, newest: int = NEWEST_VERSION) -> None:
        super().__init__(State.AWAIT_VERSION, product, newest)
        self._version = 0
        self._user = b""
        _check_line(self.hello())

    @property
    def version(self) -> int:
        """
        The version that the client chose; 0 before it did.
        """
        return self._version

    @property
    def user(self) -> bytes:
        """
        The user that the client claims to be; empty before it did.
        """
        return self._user

    def hello(self) -> bytes:
        """
        The server's first line.
        """
        return self._version_line(self._newest)

    def receive_data(self, data: bytes) -> list[VersionChosen | Identity]:
        """
        Add received bytes and return what they say.

        Raises:
            RemoteProtocolError: A line is too long, the version is malformed,
                unknown or newer than announced, or the user name has a slash, a
                backslash, a NUL or 1024 bytes. Close without a message; nothing
                more can be received.
        """
        searched = self._add(data)
        events: list[VersionChosen | Identity] = []
        while (awaited := _AWAITED.get(self._state)) is not None:
            line = self._next_line(searched)
            if line is None:
                break
            searched = 0
            if awaited is Input.VERSION_LINE:
                self._version = self._choose(line)
                events.append(VersionChosen(self._version))
            else:
                self._user = self._identify(line)
                events.append(Identity(self._user))
            self._fire(awaited)
        return events

    def welcome(self) -> bytes:
        """
        The line that accepts the client. A name too long for it is left out, which
        is allowed: real clients look at the first ten bytes only.

        Raises:
            LocalProtocolError: The client has not identified itself, or was welcomed
                already.
        """
        self._fire(Input.WELCOME_SENT)
        line = b"%b USERNAME=%b\n" % (WELCOME, self._user)
        if not self._user or len(line) > MAX_LINE:
            return WELCOME + b"\n"
        return line

    def _choose(self, line: bytes) -> int:
        version, _ = self._parse_version(line)
        if not OLDEST_VERSION <= version <= self._newest:
            raise self._fail(
                "protocol version", version, f"{OLDEST_VERSION} to {self._newest}"
            )
        return version

    def _identify(self, line: bytes) -> bytes:
        # Unknown keys are ignored, and so is a whole line that is no IDENTITY: the
        # real server takes both for a client without a name.
        user = b""
        words = line.split()
        if words and words[0] == b"IDENTITY" and line.startswith(b"IDENTITY"):
            for word in words[1:]:
                key, _, value = word.partition(b"=")
                if key == b"USERNAME":
                    user = value
        if len(user) >= USER_LIMIT or any(char in user for char in b"/\\\0"):
            raise self._fail(
                "user name", user, f"less than {USER_LIMIT} bytes without / \\ and NUL"
            )
        return user


class ClientDialog(_Dialog):
    """
    The client's end.

    Pass what is received to `receive_data`. After the `ServerHello` send each of
    `lines` with a write of its own, then wait for the `Welcome`. A client that knows
    the server may send `lines` before its hello.

    Args:
        user: The local user's name.
        product: What stands behind the version in the own first line.
        newest: The newest protocol version to ask for.

    Raises:
        LocalProtocolError: A line cannot be made of *user* or *product*.
    """

    def __init__(
        self, user: bytes, product: bytes, newest: int = NEWEST_VERSION
    ) -> None:
        super().__init__(State.AWAIT_HELLO, product, newest)
        if not user or user.split() != [user] or any(c in user for c in b"/\\\0"):
            raise LocalProtocolError("user name", user, "one word without / \\ and NUL")
        self._user = user
        self._version = newest
        _check_line(self._version_line(newest))
        _check_line(self._identity_line())

    @property
    def version(self) -> int:
        """
        The version asked for: the newest one, until the server announced an older.
        """
        return self._version

    def lines(self) -> tuple[bytes, bytes]:
        """
        The own two lines, each to be written as a record of its own.

        Before the hello they ask for the newest version; when the server then
        announces less, `receive_data` raises, and a new connection must wait for
        its hello.

        Raises:
            LocalProtocolError: They were sent already, or the dialog has failed.
        """
        self._fire(Input.LINES_SENT)
        return self._version_line(self._version), self._identity_line()

    def receive_data(self, data: bytes) -> list[ServerHello | Welcome]:
        """
        Add received bytes and return what they say.

        Raises:
            RemoteProtocolError: A line is too long, the server's version is
                malformed, older than 2 or older than what was asked for ahead, the
                server did not accept the identity, or it said more than it may.
        """
        searched = self._add(data)
        events: list[ServerHello | Welcome] = []
        while (awaited := _AWAITED.get(self._state)) is not None:
            line = self._next_line(searched)
            if line is None:
                break
            searched = 0
            if awaited is Input.HELLO_LINE:
                newest, product = self._parse_version(line)
                self._accept(newest)
                events.append(ServerHello(newest, product))
            else:
                if self._state is State.GREETED:
                    raise self._fail("dialog line", line, "nothing before our lines")
                if not line.startswith(WELCOME):
                    raise self._fail("welcome", line, "the identity was not accepted")
                events.append(Welcome(line))
            self._fire(awaited)
        return events

    def _accept(self, newest: int) -> None:
        if newest < OLDEST_VERSION:
            raise self._fail("server version", newest, f"at least {OLDEST_VERSION}")
        if self._state is State.SENT_EARLY and newest < self._version:
            raise self._fail(
                "server version", newest, f"{self._version} was asked for ahead"
            )
        self._version = min(newest, self._version)

    def _identity_line(self) -> bytes:
        return b"IDENTITY USERNAME=%b\n" % self._user


def _check_line(line: bytes) -> None:
    if len(line) > MAX_LINE or line.index(b"\n") != len(line) - 1:
        raise LocalProtocolError(
            "dialog line", line, f"one line of at most {MAX_LINE} bytes"
        )
