# SPDX-License-Identifier: MIT
"""
EXEC: a remote run, its request, and the frames of an answer but for the output.

A request is a frame with the command, a frame for each class of which the node must
have one, and a frame that begins with the terminator. The answer is an announcement,
a frame for each line of output, the exit code, and the terminator; or a refusal or a
denial, and the terminator. All frames say that no more follow; what ends an answer is
the terminator alone.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from attrs import frozen

from nodecomm.wire.errors import LocalProtocolError, RemoteProtocolError
from nodecomm.wire.framing import MAX_PAYLOAD, encode_transaction
from nodecomm.wire.replies import REFUSAL, TERMINATOR

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "BUNDLE_DENIED",
    "CLASS_DENIED",
    "DENIAL",
    "END",
    "EXECUTING",
    "INVALID_ARGUMENTS",
    "REFUSED",
    "ROLE_DENIED",
    "BadArguments",
    "BadItem",
    "ExecuteOption",
    "ExecuteRequest",
    "InvalidArguments",
    "announcement",
    "denied",
    "encode_execute",
    "exit_code",
    "is_terminator",
    "nothing_relevant",
    "parse_execute",
    "split_classes",
]

#: What follows EXEC when none of the asked for classes is one of the node's.
#: Source: CFEngine 3.21, observed, as are the texts below.
CLASS_DENIED = (
    b"EXEC denied due to failed class match (check cf-serverd verbose output)"
)

#: A class of `-D` is not admitted by a role, or is no name.
ROLE_DENIED = b"EXEC denied role activation (check cf-serverd verbose output)"

#: A bundle of `-b` is not admitted, or is no name.
BUNDLE_DENIED = b"EXEC denied bundle activation (check cf-serverd verbose output)"

#: There are arguments that are no options; what follows is them.
INVALID_ARGUMENTS = b"EXEC denied: invalid arguments: "

#: How every denial begins.
DENIAL = b"EXEC denied"

#: Before the command that is run.
EXECUTING = b"cf-serverd executing cfruncommand: "

#: The frame that ends an answer: the terminator with a NUL, 28 bytes of payload.
END = encode_transaction(TERMINATOR + b"\0")

#: The whole answer to whom EXEC is refused; the server then closes.
REFUSED = encode_transaction(REFUSAL) + END

#: Frames with classes that are sent, one class in each where that suffices; otherwise
#: there are several in a frame, with spaces between.
#: Source: CFEngine 3.21, observed: a server reads ten frames, the terminator included,
#: and takes further ones for commands.
_MAX_CLASS_FRAMES = 9

#: Bytes of classes that are put into one frame, so that a whole request is one record.
_CLASS_FRAME = 1024

#: Most bytes in one class of a selection, which is an expression.
_MAX_CLASS = 255

#: Most bytes of a host's name in an answer.
_MAX_HOSTNAME = 255

#: What a class or a bundle may be called in arguments.
_IS_ITEM = re.compile(rb"[A-Za-z0-9_:]+").fullmatch
_ARE_ITEMS = re.compile(rb"[A-Za-z0-9_:,]*").fullmatch

#: What an asked for class may be: whatever prints, without white space.
_IS_CLASS = re.compile(rb"[!-~\x80-\xff]+").fullmatch

_BLANKS = b" \t"
_WORD = re.compile(rb"[^ \t]*").match

#: The options, each with the word for it in the command that is run.
_DEFINE = b"-D"
_BUNDLES = b"-b"
_APPENDED = {_DEFINE: b"-D", _BUNDLES: b"--bundlesequence"}


# Requests.


@frozen
class ExecuteOption:
    """
    One option of an EXEC.

    Attributes:
        word: `-D` or `-b`.
        text: Its list as it was sent, which has only characters of names and commas.
    """

    word: bytes
    text: bytes

    @property
    def items(self) -> tuple[bytes, ...]:
        """
        The names in the list. One between two commas is empty, and must be admitted
        like any other; what follows a comma at the end is none.
        Source: CFEngine 3.21, observed.
        """
        names = self.text.split(b",")
        if not names[-1]:
            names.pop()
        return tuple(names)


@frozen
class ExecuteRequest:
    """
    `EXEC [-D <class>,...] [-b <bundle>,...]`: run the agent.

    A real server judges option by option, in the order of `options`: what is not
    admitted first decides which denial is sent.

    Attributes:
        options: All options in their order; one may come more than once.
    """

    options: tuple[ExecuteOption, ...] = ()

    @property
    def defined(self) -> tuple[bytes, ...]:
        """
        The classes to define.
        """
        return self._items(_DEFINE)

    @property
    def bundles(self) -> tuple[bytes, ...]:
        """
        The bundles to run.
        """
        return self._items(_BUNDLES)

    @property
    def words(self) -> tuple[bytes, ...]:
        """
        What is added to the command, word by word: for each option its word and its
        list as it was sent.
        """
        words: list[bytes] = []
        for option in self.options:
            words += _APPENDED[option.word], option.text
        return tuple(words)

    def _items(self, word: bytes) -> tuple[bytes, ...]:
        return tuple(
            [
                item
                for option in self.options
                if option.word == word
                for item in option.items
            ]
        )


class BadArguments(RemoteProtocolError):  # noqa: N818
    """
    The arguments of an EXEC are not what they may be.

    The connection is kept: the answer is `denied(error.denial)`.

    Attributes:
        before: What stands before the mistake, which a real server judges first.
    """

    def __init__(
        self, field: str, value: bytes, limit: str, before: ExecuteRequest
    ) -> None:
        super().__init__(field, value, limit)
        self.before = before

    @property
    def denial(self) -> bytes:
        """
        The text of the denial.
        """
        raise NotImplementedError


class InvalidArguments(BadArguments):
    """
    There is something that is no option.

    Attributes:
        rest: From there to the end.
    """

    def __init__(self, rest: bytes, before: ExecuteRequest) -> None:
        super().__init__("EXEC arguments", rest, "-D <classes> -b <bundles>", before)
        self.rest = rest

    @property
    def denial(self) -> bytes:
        """
        The text of the denial, cut to fit in a frame.
        """
        return (INVALID_ARGUMENTS + self.rest)[:MAX_PAYLOAD]


class BadItem(BadArguments):
    """
    A list holds what can be no name of a class or a bundle.

    Attributes:
        word: The option: `-D` or `-b`.
    """

    def __init__(self, word: bytes, text: bytes, before: ExecuteRequest) -> None:
        super().__init__(
            f"list of EXEC {word.decode()}", text, "A-Z, a-z, 0-9, _, : and ,", before
        )
        self.word = word

    @property
    def denial(self) -> bytes:
        """
        The text of the denial.
        """
        return ROLE_DENIED if self.word == _DEFINE else BUNDLE_DENIED


def parse_execute(payload: bytes) -> ExecuteRequest:
    """
    Read `EXEC [-D <class>,...] [-b <bundle>,...]`.

    A list may follow its option with or without blanks between; an option without a
    list is none.

    Raises:
        RemoteProtocolError: The word is another.
        InvalidArguments: There is something that is no option.
        BadItem: A list holds what can be no name.
    """
    rest = payload.partition(b"\0")[0]
    if rest != b"EXEC" and not rest.startswith(b"EXEC "):
        raise RemoteProtocolError("request", payload, "EXEC <options>")
    rest = rest[4:].lstrip(_BLANKS)
    options: list[ExecuteOption] = []
    while rest:
        word = rest[:2]
        if word not in _APPENDED:
            raise InvalidArguments(rest, ExecuteRequest(tuple(options)))
        rest = rest[2:].lstrip(_BLANKS)
        found = _WORD(rest)
        text = found[0] if found else b""
        if not _ARE_ITEMS(text):
            raise BadItem(word, text, ExecuteRequest(tuple(options)))
        if text:
            options.append(ExecuteOption(word, text))
        rest = rest[len(text) :].lstrip(_BLANKS)
    return ExecuteRequest(tuple(options))


def is_terminator(payload: bytes) -> bool:
    """
    Whether a frame ends the classes of a request, or an answer.
    """
    return payload.startswith(TERMINATOR)


def split_classes(payload: bytes) -> list[bytes]:
    """
    The classes in a frame that follows an EXEC: each is an expression. Only spaces
    stand between them.
    """
    return [item for item in payload.partition(b"\0")[0].split(b" ") if item]


def encode_execute(
    defined: Sequence[bytes] = (),
    bundles: Sequence[bytes] = (),
    selected: Sequence[bytes] = (),
) -> bytes:
    """
    All frames of a request, the terminator included: at most `MAX_RECORD` bytes.

    Args:
        defined: Classes to define.
        bundles: Bundles to run instead of those that the node's policy names.
        selected: Expressions; a node that has none of these classes does nothing.

    Raises:
        LocalProtocolError: A class or bundle is no name of letters, digits, `_` and
            `:`; a selected class is empty, longer than 255 bytes or has white space
            or controls in it; or there are too many of them.
    """
    request = b"EXEC"
    if defined:
        request += b" -D" + _joined("class to define", defined)
    if bundles:
        request += b" -b " + _joined("bundle", bundles)
    if len(request) > MAX_PAYLOAD:
        what = f"at most {MAX_PAYLOAD} bytes; name fewer classes and bundles"
        raise LocalProtocolError("request to run", request, what)
    frames = [request, *_class_frames(selected), TERMINATOR]
    return b"".join(map(encode_transaction, frames))


def _joined(what: str, items: Sequence[bytes]) -> bytes:
    for item in items:
        if not _IS_ITEM(item):
            raise LocalProtocolError(what, item, "letters, digits, '_' and ':' only")
    return b",".join(items)


def _class_frames(selected: Sequence[bytes]) -> list[bytes]:
    for item in selected:
        if not _IS_CLASS(item) or len(item) > _MAX_CLASS or is_terminator(item):
            limit = f"1 to {_MAX_CLASS} bytes without white space and controls"
            raise LocalProtocolError("class to select", item, limit)
    if len(selected) <= _MAX_CLASS_FRAMES:
        return list(selected)
    frames = [b""]
    for item in selected:
        if len(frames[-1]) + len(item) >= _CLASS_FRAME:
            frames.append(b"")
        frames[-1] += b" " + item if frames[-1] else item
    if len(frames) > _MAX_CLASS_FRAMES:
        size = sum(map(len, selected))
        limit = f"some {_MAX_CLASS_FRAMES * _CLASS_FRAME} together; select fewer"
        raise LocalProtocolError("bytes of classes to select", size, limit)
    return frames


# Answers, as a server makes them. Whole frames, all of them.


def announcement(command: bytes) -> bytes:
    """
    The frame that says what is run. A command that is too long for it is cut.
    """
    room = MAX_PAYLOAD - len(EXECUTING) - 1
    return encode_transaction(b"%b%b\n" % (EXECUTING, command[:room]))


def exit_code(number: int) -> bytes:
    """
    The frame that says with which status the command has ended. There is none when a
    signal ended it.
    """
    return encode_transaction(b"(exit code: %d)\n" % number)


def nothing_relevant(hostname: bytes, address: bytes) -> bytes:
    """
    The frame before `CLASS_DENIED`.

    Args:
        hostname: What the peer calls itself; empty on TLS, as real servers have it.
        address: The peer's.
    """
    what = b" (%b), nothing relevant to do here...\n\n" % address
    return encode_transaction(b"Hello %b" % hostname[:_MAX_HOSTNAME] + what)


def denied(text: bytes) -> bytes:
    """
    The frames of a denial: its *text* and the terminator. The connection is kept.
    """
    return encode_transaction(text) + END
