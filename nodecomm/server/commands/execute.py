# SPDX-License-Identifier: MIT
"""
EXEC: a peer asks for a run of the operator's own command, and is sent what it prints.

1. Everything that belongs to the request is read, whatever becomes of it.
2. There must be a command, a path rule must admit the peer to its program, and
   `allowusers` its user: else the refusal, and the connection ends.
3. If the peer selects nodes by class, this one must have such a class. The classes
   and bundles that it wants must be admitted, in the order in which it names them.
   Else it is told which of these is wrong, no more, and may go on.
   Rules that change while a run waits for its turn are asked again then.
4. The run: an announcement, a frame for each line as it is printed, the exit code.

Source: CFEngine 3.21, observed, for the order and all texts. The real server does not
read the classes of a peer whom it refuses, nor those behind one that matches, and takes
them for requests then.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from zope.interface import implementer

from nodecomm.access.execution import (
    judge_bundles,
    judge_command,
    judge_roles,
    judge_user,
)
from nodecomm.access.requests import AccessRequest
from nodecomm.config.execution import SYNC
from nodecomm.interfaces import API, ICommand
from nodecomm.server.execution.orders import RunOrder
from nodecomm.server.replies import Frames, Live, Reply
from nodecomm.server.requests import Refused, Undecidable
from nodecomm.wire.execute import (
    BUNDLE_DENIED,
    CLASS_DENIED,
    END,
    REFUSED,
    ROLE_DENIED,
    BadArguments,
    ExecuteOption,
    ExecuteRequest,
    announcement,
    denied,
    exit_code,
    is_terminator,
    nothing_relevant,
    parse_execute,
    split_classes,
)
from nodecomm.wire.replies import REGULAR
from nodecomm.wire.run_output import output_line
from nodecomm.wire.text import from_text, to_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from nodecomm.access.decision import Decision
    from nodecomm.access.execution import Execution
    from nodecomm.access.snapshot import Snapshot
    from nodecomm.identity.peer import Peer
    from nodecomm.server.execution.orders import IRunner, RunOutcome, Ticket
    from nodecomm.server.replies import LiveAnswer
    from nodecomm.server.requests import Request
    from nodecomm.wire.run_output import Printed

__all__ = ["ExecuteCommand"]

#: Before what is said by the server itself, in lines that look like output: older
#: peers take nothing else for words to show.
_OWN_WORDS = "nodecomm: "

#: Bytes of a list of classes that the log shows.
_SHOWN = 200


class _Denied(Exception):  # noqa: N818
    """
    There will be no run, and the peer is told something of why.

    Attributes:
        wire: What it is told, whole frames.
        code: A stable word for the log.
        text: The reason, for the operator.
    """

    def __init__(self, wire: bytes, code: str, text: str) -> None:
        super().__init__(code, text)
        self.wire = wire
        self.code = code
        self.text = text


class _Listener:
    """
    What a run prints, as frames for the peer (`RunSink`).
    """

    def __init__(self, answer: LiveAnswer) -> None:
        self._answer = answer

    def begun(self, command: bytes) -> None:
        """
        Say what is run.
        """
        self._answer.send(announcement(command))

    def output(self, printed: Printed) -> None:
        """
        Send the lines.
        """
        for record in printed.records:
            self._answer.send(record)

    def notice(self, text: str) -> None:
        """
        Say something in a line of its own.
        """
        words = from_text(f"{_OWN_WORDS}{text}").replace(b"\n", b" ")
        self._answer.send(output_line(words))

    def ended(self, outcome: RunOutcome) -> None:
        """
        Say how it ended.
        """
        code = outcome.exit_code
        self._answer.send((b"" if code is None else exit_code(code)) + END)
        self._answer.end()

    def refused(self, text: str) -> None:
        """
        Say why there is no run.
        """
        self.notice(text)
        self._answer.send(END)
        self._answer.end()


@implementer(ICommand)
class ExecuteCommand:
    """
    A remote run. It is alone on its connection: what is asked behind it waits until
    it has ended, and finds what it left.

    Args:
        check: Asked first, when the request is complete and again when a run that had
            to wait has its turn; raises `Refused` for a peer that may have none.
    """

    api = API
    name = "execute"
    words = (b"EXEC",)
    versions = frozenset({1, 2, 3})

    def __init__(self, check: Callable[[Peer], None] = lambda peer: None) -> None:
        self._check = check

    def answer(self, request: Request) -> Deferred[Reply]:
        """
        A live answer, or two to three transactions that say why not.
        """
        return Deferred.fromCoroutine(_answer(request, self._check))


async def _answer(request: Request, check: Callable[[Peer], None]) -> Reply:
    frames = await request.collect(is_terminator, empty=True)
    # The rest may have come much later than the first of it.
    request.snapshot = request.serving.evaluator.snapshot
    if request.snapshot.execution is not None and request.snapshot.execution.is_sync:
        # For the log, until there is a program with a name.
        request.name = SYNC.encode()
    try:
        check(request.peer)
        runner, execution, program = await _admit(request)
        selected = _select(request, runner, frames[:-1])
        asked = _judge(request)
    except Refused as refusal:
        return Frames(REFUSED, "refused", True, refusal.code, refusal.text)
    except _Denied as denial:
        return Frames(denial.wire, "refused", False, denial.code, denial.text)
    order = RunOrder(
        asked.defined,
        asked.bundles,
        selected,
        request.peer,
        execution,
        asked.words,
        partial(_withdrawn, request, check, program),
    )
    return Live(partial(_begin, runner, order))


def _begin(runner: IRunner, order: RunOrder, answer: LiveAnswer) -> Ticket:
    return runner.ask(order, _Listener(answer))


def _withdrawn(
    request: Request, check: Callable[[Peer], None], program: AccessRequest | None
) -> str:
    """
    Why the peer may not have the run that it waits for any more; empty: it may.

    Args:
        request: What was asked for, with the rules by which it was decided last.
        check: As in `ExecuteCommand`.
        program: What was decided about the program.
    """
    before, snapshot = request.snapshot, request.serving.evaluator.snapshot
    request.snapshot = snapshot
    try:
        check(request.peer)
        if snapshot is before:
            return ""
        _require(request, judge_command(snapshot))
        if _what_runs(snapshot) != _what_runs(before):
            return "cfruncommand or cfrunuser is another one now"
        if program is not None:
            evaluator = request.serving.evaluator
            decision = evaluator.evaluate(snapshot, request.peer, program)
            _require(request, decision)
        _require(request, judge_user(snapshot, request.peer))
        _judge(request)
    except (Refused, _Denied) as refusal:
        return refusal.text
    except Undecidable as error:
        return str(error) or "the peer's host name is not known"
    return ""


def _what_runs(snapshot: Snapshot) -> tuple[object, ...]:
    execution = snapshot.execution
    return () if execution is None else (execution.command, execution.user)


async def _admit(
    request: Request,
) -> tuple[IRunner, Execution, AccessRequest | None]:
    """
    What of a run has to be there for anybody, and that the peer may have one.

    Returns:
        Also what was decided about the program, if there is one.

    Raises:
        Refused: It may not.
        Undecidable: A host name is needed that could not be looked up.
    """
    snapshot, peer = request.snapshot, request.peer
    runner, execution = request.serving.execution, snapshot.execution
    _require(request, judge_command(snapshot))
    if runner is None or execution is None:
        raise Refused("no_runner", "this server runs nothing")
    program = None
    if execution.program is not None:
        held = request.hold("exec", execution.program)
        if isinstance(held, Deferred):
            held = await held
        status = held.stat()
        program = AccessRequest(
            "exec", held.path, False, status.uid, status.mode, request.encrypted
        )
        request.release()
        if status.kind != REGULAR:
            raise Refused("no_program", "the program of cfruncommand is no plain file")
    _require(request, judge_user(snapshot, peer))
    return runner, execution, program


def _require(request: Request, decision: Decision) -> None:
    """
    Note *decision*, and go on only if it allows.
    """
    request.decision = decision
    if decision.undecidable:
        raise Undecidable(decision.text)
    if not decision.allowed:
        raise Refused(decision.reason, decision.text)


def _select(
    request: Request, runner: IRunner, frames: list[bytes]
) -> tuple[bytes, ...]:
    """
    The class expressions in *frames*, of which one is for this node.

    Raises:
        _Denied: None is.
    """
    # Source: CFEngine 3.21, observed: an empty frame ends the list, and no hello stands
    # before the denial then.
    broken = b"" in frames
    if broken:
        frames = frames[: frames.index(b"")]
    selected = tuple([item for frame in frames for item in split_classes(frame)])
    # A frame with nothing but spaces in it selects nothing, unlike no frame.
    if (frames or broken) and not (selected and runner.selects(selected)):
        peer = request.peer
        hello = b""
        if not broken:
            address = peer.address.encode("ascii")
            hello = nothing_relevant(peer.calls_itself, address)
        shown = to_text(b" ".join(selected)[:_SHOWN])
        raise _Denied(
            hello + denied(CLASS_DENIED),
            "class_match",
            f"this node has no class that is asked for: {shown}",
        )
    return selected


def _judge(request: Request) -> ExecuteRequest:
    """
    What the peer wants to be run with, all of which it may have.

    Raises:
        _Denied: It may not, or asks for what does not exist.
        Undecidable: A host name is needed that could not be looked up.
    """
    mistake: BadArguments | None = None
    try:
        asked = parse_execute(request.payload)
    except BadArguments as error:
        asked, mistake = error.before, error
    for option in asked.options:
        wire, decision = _judge_option(request, option)
        try:
            _require(request, decision)
        except Refused as refusal:
            raise _Denied(wire, refusal.code, refusal.text) from refusal
    if mistake is not None:
        raise _Denied(denied(mistake.denial), "malformed", str(mistake)) from mistake
    return asked


def _judge_option(request: Request, option: ExecuteOption) -> tuple[bytes, Decision]:
    """
    Whether the peer may have what *option* asks for, and what it is told if not.
    """
    evaluator = request.serving.evaluator
    snapshot, peer = request.snapshot, request.peer
    if option.word == b"-D":
        decision = judge_roles(snapshot, peer, option.items, evaluator=evaluator)
        return denied(ROLE_DENIED), decision
    return (
        denied(BUNDLE_DENIED),
        judge_bundles(evaluator, snapshot, peer, option.items),
    )
