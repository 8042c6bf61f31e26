# SPDX-License-Identifier: MIT
"""
A value that nobody may see: given in the file itself, in another file, or in the
environment.

This module does no I/O. A secret that stands elsewhere is read by
`nodecomm.service.loading`, which puts a `Secret` with the text in its place.
"""

from __future__ import annotations

from attrs import field, frozen

__all__ = ["HIDDEN", "Secret"]

#: What is shown in a secret's place.
HIDDEN = "(secret)"


@frozen
class Secret:
    """
    One secret.

    Attributes:
        file: The file to read it from.
        env: The variable of the environment to take it from.
    """

    _text: str | None = field(default=None, repr=False)
    file: str | None = None
    env: str | None = None

    @property
    def is_known(self) -> bool:
        """
        Whether the text is here.
        """
        return self._text is not None

    def reveal(self) -> str:
        """
        The text.

        Raises:
            LookupError: It stands elsewhere and has not been read.
        """
        if self._text is None:
            raise LookupError(f"the secret in {self.place} has not been read")
        return self._text

    @property
    def place(self) -> str:
        """
        Where it comes from, in words that may be shown.
        """
        if self.file is not None:
            return f"file {self.file}"
        if self.env is not None:
            return f"environment variable {self.env}"
        return "the configuration"

    def __str__(self) -> str:
        return HIDDEN
