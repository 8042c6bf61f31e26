# SPDX-License-Identifier: MIT
"""
A program of the operator's that prints an inventory of the machine.
"""

from __future__ import annotations

import os
import selectors
import threading
from collections.abc import Sequence

from nodecomm.inventory.limits import DocumentLimits
from nodecomm.server.execution.programs import Program, exit_text
from nodecomm.wire.text import safe

__all__ = ["CommandFailed", "DocumentCommand"]

#: Bytes of its complaints that are kept.
_LONGEST_COMPLAINT = 64 * 1024

#: Characters of the one that is told.
_TOLD = 200


class CommandFailed(Exception):  # noqa: N818
    """
    The program printed no inventory. The text names it and says why.
    """


class DocumentCommand:
    """
    One run of such a program.

    Args:
        command: The program, by its absolute path, and its arguments.
        timeout: Seconds that it may take.
        limit: Bytes that it may print.
    """

    def __init__(
        self,
        command: Sequence[str],
        timeout: float,
        limit: int = DocumentLimits().size,
    ) -> None:
        self._command = tuple(command)
        self._timeout = timeout
        self._limit = limit
        self._printed = bytearray()
        self._too_much = ""
        self._program: Program | None = None
        self._stopped = False

    def stop(self) -> None:
        """
        End it, or keep it from being started. Any thread may call this, at any time.
        """
        self._stopped = True
        if self._program is not None:
            self._program.stop()

    def run(self) -> bytes:
        """
        What it prints. Blocks until it has ended: call it in a thread.

        Raises:
            CommandFailed: It could not be started, took too long, printed too much or
                nothing, or its exit status is not 0.
            OSError: This process has no descriptors left.
        """
        complaints = _Complaints()
        try:
            self._program = program = Program(
                self._command,
                timeout=self._timeout,
                tell=self._take,
                errors=complaints.descriptor,
            )
            if self._stopped:
                program.stop()
            ended = program.run()
        finally:
            complaint = complaints.end()
        said = f": {complaint}" if complaint else ""
        if ended.status is None:
            raise self._failed(f"could not be run: {ended.reason}")
        if self._too_much:
            # It may have ended by itself before it could be stopped.
            raise self._failed(f"was ended: {self._too_much}")
        if ended.reason == "timeout":
            raise self._failed(f"was ended: not done after {self._timeout:g} s")
        if ended.reason:
            raise self._failed(f"was ended: {ended.reason}")
        if ended.status != 0:
            raise self._failed(f"failed ({exit_text(ended.status)}){said}")
        if not self._printed:
            raise self._failed(f"printed nothing{said}")
        return bytes(self._printed)

    def _take(self, data: bytes) -> None:
        if self._too_much:
            return
        self._printed += data
        if len(self._printed) > self._limit:
            self._printed.clear()
            self._too_much = f"it prints more than {self._limit} bytes"
            assert self._program is not None  # noqa: S101
            self._program.stop(self._too_much)

    def _failed(self, what: str) -> CommandFailed:
        return CommandFailed(safe(f"{self._command[0]} {what}"))


class _Complaints:
    """
    What a program says on its standard error: read so that it never has to wait, and
    kept only as far as somebody may want to read it.

    Attributes:
        descriptor: Where it writes.
    """

    def __init__(self) -> None:
        self._read, self.descriptor = os.pipe()
        self._heard, self._bell = os.pipe()
        os.set_blocking(self._read, False)
        self._kept = bytearray()
        self._thread = threading.Thread(
            target=self._listen, name="nodecomm-command", daemon=True
        )
        self._thread.start()

    def end(self) -> str:
        """
        End, also where something that it left behind holds the other end; returns its
        last line.
        """
        os.close(self.descriptor)
        os.write(self._bell, b"!")
        self._thread.join()
        for descriptor in (self._read, self._heard, self._bell):
            os.close(descriptor)
        lines = self._kept.decode("utf-8", "replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return said[-1][:_TOLD] if said else ""

    def _listen(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._read, selectors.EVENT_READ)
            selector.register(self._heard, selectors.EVENT_READ)
            while True:
                ready = {key.fd for key, _ in selector.select()}
                if self._read in ready and not self._drain():
                    return
                if self._heard in ready:
                    self._drain()
                    return

    def _drain(self) -> bool:
        """
        Read what is there; False at the end of all.
        """
        try:
            data = os.read(self._read, _LONGEST_COMPLAINT)
        except BlockingIOError:
            return True
        self._kept += data
        # The end of it says what went wrong.
        del self._kept[:-_LONGEST_COMPLAINT]
        return bool(data)
