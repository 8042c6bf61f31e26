# SPDX-License-Identifier: MIT
"""Figures of the two agents, for people and for programs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.report import OURS, THEIRS, Json, summary
from benchmarks.sync_rows import SyncRow, Target
from benchmarks.update import Outcome

#: Columns: title, server, cf-agent, ours, ratio, whole, trips, start-up, target.
_LINE = "{:<31}{:<12}{:>9}{:>8}{:>8}{:>8}{:>6}{:>9}  {}"


class SyncFigures:
    """
    All rounds of one row with one server.

    Args:
        row: What was measured.
        server: With which server.
        real: Seconds of each run of cf-agent, from its start to its end.
        outcomes: Of each run of our agent.
    """

    def __init__(
        self,
        row: SyncRow,
        server: str,
        real: Sequence[float],
        outcomes: Sequence[Outcome],
    ) -> None:
        self.row = row
        self.server = server
        self.real = real
        self.outcomes = outcomes
        self.seconds = statistics.median(each.seconds for each in outcomes)
        self.whole = statistics.median(each.whole for each in outcomes)
        self.start_up = statistics.median(each.start_up for each in outcomes)
        self.round_trips = max(each.round_trips for each in outcomes)

    def _ratio(self, ours: float) -> float | None:
        return ours / statistics.median(self.real) if self.real else None

    def _reached(self, target: Target) -> bool | None:
        value = {
            "seconds": self.seconds,
            "trips": float(self.round_trips),
            "ratio": self._ratio(self.seconds),
        }[target.of]
        return None if value is None else value <= target.most

    def _verdicts(self) -> str:
        words = {True: "reached", False: "MISSED", None: "not measured"}
        return ", ".join(
            f"{target} {words[self._reached(target)]}"
            for target in self.row.targets_beside(self.server)
        )

    def line(self) -> str:
        """Return the figures as a line of the table."""
        return _LINE.format(
            self.row.title,
            "cf-serverd" if self.server == THEIRS else "nodecomm",
            f"{statistics.median(self.real):.2f}" if self.real else "-",
            f"{self.seconds:.2f}",
            _ratio_text(self._ratio(self.seconds)),
            _ratio_text(self._ratio(self.whole)),
            self.round_trips,
            f"{self.start_up:.2f}",
            self._verdicts(),
        ).rstrip()

    def to_json(self) -> Json:
        """Return the figures as JSON values."""
        answer: Json = {
            "name": self.row.name,
            "title": self.row.title,
            "server": self.server,
            "round_trip_ms": self.row.round_trip,
            "seconds": summary([each.seconds for each in self.outcomes]),
            "whole": summary([each.whole for each in self.outcomes]),
            "start_up": summary([each.start_up for each in self.outcomes]),
            "round_trips": self.round_trips,
            "connections": max(each.connections for each in self.outcomes),
            "bytes_received": max(each.received for each in self.outcomes),
            "manifest": all(each.manifest for each in self.outcomes),
            "targets": [
                {"of": each.of, "most": each.most, "reached": self._reached(each)}
                for each in self.row.targets_beside(self.server)
            ],
        }
        if self.real:
            answer["cf_agent"] = summary(self.real)
            answer["ratio"] = self._ratio(self.seconds)
            answer["ratio_whole"] = self._ratio(self.whole)
        return answer


class Pair:
    """
    Our agent with our server beside the real agent with the real server.

    Args:
        row: What was measured.
        figures: Of that row, with each server.
    """

    def __init__(self, row: SyncRow, figures: Sequence[SyncFigures]) -> None:
        self.row = row
        self.ratio: float | None = None
        by_server = {each.server: each for each in figures}
        if by_server.keys() >= {OURS, THEIRS} and by_server[THEIRS].real:
            real = statistics.median(by_server[THEIRS].real)
            self.ratio = by_server[OURS].seconds / real

    @property
    def reached(self) -> bool | None:
        """Whether the target is reached; None: it is not known, or there is none."""
        if self.ratio is None or self.row.pair_target is None:
            return None
        return self.ratio <= self.row.pair_target

    def line(self) -> str:
        """Return the ratio as a line of the table."""
        words = {True: "reached", False: "MISSED", None: "not measured"}
        return (
            f"{'  ours with ours, theirs with theirs':<60}{_ratio_text(self.ratio):>8}"
            f"{'':25}{self.row.pair_target:g} x {words[self.reached]}"
        )

    def to_json(self) -> Json:
        """Return the ratio as JSON values."""
        return {
            "name": self.row.name,
            "ratio": self.ratio,
            "target": self.row.pair_target,
            "reached": self.reached,
        }


def _ratio_text(ratio: float | None) -> str:
    if ratio is None:
        return "-"
    return f"{ratio:.4f}" if ratio < 0.01 else f"{ratio:.2f}"


def sync_heading() -> str:
    """Return the heading of the table."""
    return _LINE.format(
        "seconds of one update",
        "server",
        "cf-agent",
        "ours",
        "ratio",
        "whole",
        "trips",
        "start-up",
        "target",
    ).rstrip()
