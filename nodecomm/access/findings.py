# SPDX-License-Identifier: MIT
"""
What is found wrong while the rules are made, all of it in one run.
"""

from __future__ import annotations

from nodecomm.config.errors import Origin, Problem, Severity
from nodecomm.config.model import Settings

__all__ = ["Findings"]


class Findings:
    """
    Collects problems, each with the place in the configuration that it is about.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.problems: list[Problem] = []

    def origin(self, key_path: str) -> Origin | None:
        """
        Where the value at *key_path* stands, or the table that would hold it.
        """
        return self._settings.nearest_origin(key_path)

    def tell(
        self,
        key_path: str,
        message: str,
        value: object = None,
        hint: str = "",
        severity: Severity = "error",
    ) -> None:
        """
        Add a problem.
        """
        self.problems.append(
            Problem(key_path, message, value, hint, self.origin(key_path), severity)
        )
