# SPDX-License-Identifier: MIT
"""
What `nodecomm run` prints: for people, and for programs.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from attrs import frozen

from nodecomm.cli.hosts import label
from nodecomm.cli.options import repeat_state_dir
from nodecomm.cli.statuses import Status, code_of, status_of, text_of
from nodecomm.client.errors import Refused, UntrustedServer
from nodecomm.wire.text import safe, to_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from twisted.internet.defer import Deferred

    from nodecomm.cli.printer import Printer
    from nodecomm.client.address import ServerAddress
    from nodecomm.client.fleet import NodeResult

__all__ = ["JSONReport", "Outcome", "TextReport", "fleet_status", "line_text"]


@frozen
class Outcome:
    """
    Why a node's run did not end with 0.

    Attributes:
        code: A stable word for programs.
        text: For people, and what to do.
        status: The exit status that it stands for.
    """

    code: str
    text: str
    status: Status


#: The word for a node that none of the classes of `-s` is for.
NOT_SELECTED = "not-selected"


def outcome_of(
    result: NodeResult,
    output_limit: int,
    state_dir: Path | None = None,
    *,
    selecting: bool = False,
) -> Outcome | None:
    """
    Why the run of a node did not end with 0; None if it did.

    Args:
        result: What became of the node.
        output_limit: Bytes of output that were accepted.
        state_dir: What the command line named.
        selecting: Whether only nodes with certain classes were meant.
    """
    error = result.error
    if result.done:
        return None
    if result.stopped:
        text = "it was not finished when all was ended from here"
        return Outcome("interrupted", text, Status.LOCAL)
    if error is not None:
        if selecting and _lacks_classes(error):
            text = "it has none of the classes of --select-class"
            return Outcome(NOT_SELECTED, text, Status.DONE)
        text = repeat_state_dir(_words(error), state_dir)
        return Outcome(code_of(error), text, status_of(error) or Status.LOCAL)
    if result.cut:
        text = (
            f"it printed more than {output_limit} bytes; the rest was not read, and"
            " whether the run has ended is not known (--output-limit)"
        )
        return Outcome("output-limit", text, Status.LOCAL)
    if result.exit_code is None:
        text = (
            "it told no exit code: a signal ended the run, or it was not begun, or the"
            " node is older than CFEngine 3.18; what it printed may tell more"
        )
        return Outcome("no-exit-code", text, Status.LOCAL)
    return Outcome("exit-code", f"the run failed: {result.exit_code}", Status.LOCAL)


#: What to do about each way in which a node says no.
_ADVICE = {
    "refused": (
        "it has one answer for all refusals. It needs a cfruncommand, whose program"
        " exists and is admitted to us by a rule for its path, and our user name in"
        " allowusers (--user is the name that we come with)"
    ),
    "role": (
        "a role there must let our user name define these classes, and what it runs"
        " must take any (its own sync takes none)"
    ),
    "bundle": (
        "a rule for bundles there must admit us to these, and what it runs must take"
        " any (its own sync takes none)"
    ),
}


def _lacks_classes(error: Exception) -> bool:
    return isinstance(error, Refused) and error.code == "class-match"


def _words(error: Exception) -> str:
    advice = _ADVICE.get(code_of(error)) if isinstance(error, Refused) else None
    if advice is None:
        return text_of(error)
    return (
        f"{error}: {advice}. Its log says why, and `nodecomm access explain --exec`"
        " there, or cf-serverd -v"
    )


def fleet_status(outcomes: Sequence[Outcome | None]) -> Status:
    """
    The exit status of it all: 0 if every run ended with 0; the one that all nodes
    have in common of which that is not so; else 1. A node that was not selected is as
    if it had not been named; if none was, nothing has run, and that is 1.
    """
    meant = [outcome for outcome in outcomes if not _is_passed_over(outcome)]
    if not meant:
        return Status.LOCAL if outcomes else Status.DONE
    statuses = {outcome.status for outcome in meant if outcome is not None}
    if not statuses:
        return Status.DONE
    return statuses.pop() if len(statuses) == 1 else Status.LOCAL


def _is_passed_over(outcome: Outcome | None) -> bool:
    return outcome is not None and outcome.code == NOT_SELECTED


def line_text(data: bytes) -> str:
    """
    A line of output as it is shown: as names are, with nothing in it that a terminal
    would act on. Tabs stay.
    """
    if b"\t" not in data:
        return safe(to_text(data))
    return "\t".join([safe(to_text(piece)) for piece in data.split(b"\t")])


class _Report:
    """
    What both have in common.

    Args:
        printer: Writes it.
        total: How many nodes there are.
        output_limit: Bytes of output that are accepted of one.
        state_dir: What the command line named.
        selecting: Whether only nodes with certain classes were meant.
    """

    def __init__(
        self,
        printer: Printer,
        total: int,
        output_limit: int,
        state_dir: Path | None = None,
        *,
        selecting: bool = False,
    ) -> None:
        self._printer = printer
        self._total = total
        self._output_limit = output_limit
        self._state_dir = state_dir
        self._selecting = selecting
        self._called = 0
        self._ended = 0
        self._failed = 0
        self._without = 0
        self._begun: set[ServerAddress] = set()

    def outcome(self, result: NodeResult) -> Outcome | None:
        """
        Why the run of a node did not end with 0; None if it did.
        """
        return outcome_of(
            result, self._output_limit, self._state_dir, selecting=self._selecting
        )

    def calling(self, server: ServerAddress) -> None:
        """
        It is being connected to.
        """
        del server
        self._called += 1
        self._show()

    def running(self, server: ServerAddress, command: bytes) -> None:
        """
        It says that it begins to run this.
        """
        del command
        self._begun.add(server)
        self._show()

    def ended(self, result: NodeResult) -> None:
        """
        That is all.
        """
        self._begun.discard(result.server)
        self._ended += 1
        self._failed += bool(result.exit_code)
        if result.exit_code is None and not _is_passed_over(self.outcome(result)):
            self._without += 1
        self._show()

    def _show(self) -> None:
        connecting = self._called - self._ended - len(self._begun)
        self._printer.status(
            f"{self._ended} of {self._total} ended  {self._failed} failed  "
            f"{self._without} without an exit code  "
            f"{len(self._begun)} running  {connecting} connecting"
        )


class TextReport(_Report):
    """
    For people: `HOST: LINE`, and a table.
    """

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        #: What stands before each line of a node.
        self._prefixes: dict[ServerAddress, str] = {}

    def line(self, server: ServerAddress, data: bytes) -> Deferred[None] | None:
        """
        A line of output.
        """
        return self._put(server, line_text(data))

    def ended(self, result: NodeResult) -> None:
        """
        That is all; what the node said besides its output is a line, too. Of those
        that were not meant the table has a word, and that is enough.
        """
        super().ended(result)
        if _is_passed_over(self.outcome(result)):
            return
        for remark in result.remarks:
            self._put(result.server, safe(remark))

    def summary(self, results: Sequence[NodeResult]) -> None:
        """
        Print what became of all of them.
        """
        outcomes = [self.outcome(result) for result in results]
        lines = table(results, outcomes)
        self._printer.put(None, "".join(f"{line}\n" for line in lines))

    def _put(self, server: ServerAddress, text: str) -> Deferred[None] | None:
        prefix = self._prefixes.get(server)
        if prefix is None:
            prefix = self._prefixes[server] = f"{safe(label(server))}: "
        return self._printer.put(prefix, f"{prefix}{text}\n")


def table(
    results: Sequence[NodeResult], outcomes: Sequence[Outcome | None]
) -> list[str]:
    """
    What became of the nodes, in lines, the last of which counts them. A reason that
    is that of several nodes is told once. If none was selected, one more line says
    that.
    """
    names = [safe(label(result.server)) for result in results]
    passed_over = sum(map(_is_passed_over, outcomes))
    width = max(map(len, ["HOST", *names]))
    lines = [f"{'HOST':<{width}}  EXIT   SECONDS"]
    told: dict[str, str] = {}
    for name, result, outcome in zip(names, results, outcomes, strict=True):
        code = "-" if result.exit_code is None else str(result.exit_code)
        line = f"{name:<{width}}  {code:>4}  {result.seconds:>8.1f}"
        if _is_passed_over(outcome):
            line += "  not selected"
        elif outcome is not None and result.exit_code is None:
            line += f"  {outcome.code}: {_once(name, result, outcome, told)}"
        lines.append(line)
    done = sum(result.done for result in results)
    failed = sum(bool(result.exit_code) for result in results)
    count = f"{len(results)} node{'' if len(results) == 1 else 's'}"
    none = len(results) - done - failed - passed_over
    last = f"{count}: {done} done, {failed} failed, {none} without an exit code"
    if passed_over:
        last += f", {passed_over} not selected"
    lines.append(last)
    if passed_over == len(results) and results:
        lines.append("nothing has run: no node has a class of --select-class")
    return lines


def _once(name: str, result: NodeResult, outcome: Outcome, told: dict[str, str]) -> str:
    """
    The text of *outcome*, or who was told of with the same text.
    """
    server = str(result.server)
    text = safe(outcome.text.removeprefix(f"{server}: "))
    nameless = text.replace(safe(server), "").replace(name, "")
    error = result.error
    key = error.key if isinstance(error, UntrustedServer) else None
    if key is None:
        before = told.setdefault(nameless, name)
        return text if before == name else f"as {before}"
    # Each node has its own key, and that is what a person has to compare.
    before = told.setdefault(nameless.replace(key.md5, ""), name)
    return text if before == name else f"as {before}, with the key {key.md5}"


class JSONReport(_Report):
    """
    For programs: one object a line, each with its `event`.
    """

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self._told: set[ServerAddress] = set()

    def line(self, server: ServerAddress, data: bytes) -> Deferred[None] | None:
        """
        A line of output.
        """
        facts = {"event": "line", "host": str(server), "text": line_text(data)}
        return self._put(server, facts)

    def running(self, server: ServerAddress, command: bytes) -> None:
        """
        It says that it begins to run this.
        """
        super().running(server, command)
        facts = {"event": "begin", "host": str(server), "command": to_text(command)}
        self._put(server, facts)

    def ended(self, result: NodeResult) -> None:
        """
        That is all.
        """
        super().ended(result)
        self._told.add(result.server)
        outcome = self.outcome(result)
        facts: dict[str, Any] = {
            "event": "end",
            "host": str(result.server),
            "exit_code": result.exit_code,
            "seconds": round(result.seconds, 6),
            "lines": result.lines,
            "bytes": result.size,
            "remarks": list(result.remarks),
            "error": _error(outcome),
        }
        self._put(result.server, facts)

    def summary(self, results: Sequence[NodeResult]) -> None:
        """
        Print what became of all of them; those that were never called have an end,
        too.
        """
        for result in results:
            if result.server not in self._told:
                self.ended(result)
        outcomes = [self.outcome(result) for result in results]
        passed_over = sum(map(_is_passed_over, outcomes))
        none = sum(result.exit_code is None for result in results)
        # Then it is for the signal to say.
        stopped = any(result.stopped for result in results)
        facts = {
            "event": "summary",
            "nodes": len(results),
            "done": sum(result.done for result in results),
            "failed": sum(bool(result.exit_code) for result in results),
            "without_exit_code": none - passed_over,
            "not_selected": passed_over,
            "status": None if stopped else int(fleet_status(outcomes)),
        }
        self._put(None, facts)

    def _put(
        self, server: ServerAddress | None, facts: dict[str, Any]
    ) -> Deferred[None] | None:
        return self._printer.put(server, json.dumps(facts) + "\n")


def _error(outcome: Outcome | None) -> dict[str, Any] | None:
    if outcome is None:
        return None
    return {
        "code": outcome.code,
        "text": outcome.text,
        "status": int(outcome.status),
    }
