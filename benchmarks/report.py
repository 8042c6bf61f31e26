# SPDX-License-Identifier: MIT
"""Figures of all rounds, summed up for people and for programs."""

from __future__ import annotations

import os
import platform
import ssl
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.rows import Row
from benchmarks.site import find_program

THEIRS, OURS = "theirs", "ours"
Json = dict[str, object]
#: Columns: title, theirs, ours, unit, ratio, spread, target.
_LINE = "{:<40}{:>10}{:>10} {:<3}{:>7}  {:<13}{:>6}  {}"


class Result:
    """
    All rounds of one row.

    Args:
        row: What was measured.
        rounds: Of each server measured, seconds or bytes per unit, round by round.
    """

    def __init__(self, row: Row, rounds: Mapping[str, Sequence[float]]) -> None:
        self.row = row
        self.rounds = rounds
        #: ours/theirs of the measurements that were made one after the other.
        self.ratios = [
            ours / theirs
            for ours, theirs in zip(
                rounds.get(OURS, ()), rounds.get(THEIRS, ()), strict=False
            )
            if theirs > 0
        ]

    def _median(self, server: str) -> str:
        values = self.rounds.get(server)
        if not values:
            return "-"
        value = statistics.median(values) * self.row.scale
        return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"

    def line(self) -> str:
        """Return the row as a line of the table."""
        ratio = spread = verdict = ""
        if self.ratios:
            middle = statistics.median(self.ratios)
            digits = 4 if middle < 0.01 else 2
            ratio = f"{middle:.{digits}f}"
            spread = f"{min(self.ratios):.{digits}f}-{max(self.ratios):.{digits}f}"
            if self.row.target is not None:
                verdict = "reached" if middle <= self.row.target else "MISSED"
        return _LINE.format(
            self.row.title,
            self._median(THEIRS),
            self._median(OURS),
            self.row.unit,
            ratio,
            spread,
            "" if self.row.target is None else self.row.target,
            verdict,
        ).rstrip()

    def to_json(self) -> Json:
        """Return the row as JSON values."""
        scale = self.row.scale
        answer: Json = {
            "name": self.row.name,
            "title": self.row.title,
            "unit": self.row.unit,
            "pinned": self.row.pinned,
            "target": self.row.target,
        }
        for server, values in self.rounds.items():
            answer[server] = summary([value * scale for value in values])
        if self.ratios:
            answer["ratio"] = summary(self.ratios)
            if self.row.target is not None:
                answer["reached"] = statistics.median(self.ratios) <= self.row.target
        return answer


def summary(values: Sequence[float]) -> Json:
    """Return the median, the bounds and all of *values*."""
    return {
        "median": statistics.median(values),
        "least": min(values),
        "most": max(values),
        "rounds": list(values),
    }


def heading() -> str:
    """Return the heading of the table."""
    return _LINE.format(
        "server CPU or memory per unit",
        "theirs",
        "ours",
        "",
        "ratio",
        "spread",
        "target",
        "",
    ).rstrip()


def _cfengine_version() -> str | None:
    try:
        program = find_program("cf-serverd")
    except BenchmarkError:
        return None
    answer = subprocess.run(
        [program, "--version"], capture_output=True, text=True, check=False
    )
    return answer.stdout.strip() or None


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def machine() -> Json:
    """Return where and with what the figures were made."""
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "openssl_of_client": ssl.OPENSSL_VERSION,
        "cf-serverd": _cfengine_version(),
        "nodecomm": _version("nodecomm"),
        "twisted": _version("twisted"),
        "pyopenssl": _version("pyopenssl"),
        "cryptography": _version("cryptography"),
    }
