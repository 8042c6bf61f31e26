# SPDX-License-Identifier: MIT
"""
Lines that a thread writes.
"""

from __future__ import annotations

import io
import os
import queue
import threading
from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from nodecomm.cli.printer import Printer
from nodecomm.cli.progress import ProgressLine


class Stream(io.StringIO):
    """
    Standard output whose reader reads when the test says so.
    """

    def __init__(self, error: OSError | None = None) -> None:
        super().__init__()
        self.may_write = threading.Event()
        self.may_write.set()
        self.error = error

    def write(self, text: str) -> int:
        """As a pipe that may be full."""
        self.may_write.wait(60)
        if self.error is not None:
            raise self.error
        return super().write(text)


class PrinterTests(SynchronousTestCase):
    """
    Lines, and how far it is.
    """

    def printer(self, stream: Any, **options: Any) -> Printer:
        """
        A printer whose calls the test makes, by `until`.
        """
        self.calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        made = Printer(stream, self.calls.put, **options)
        self.addCleanup(made.end)
        return made

    def until(self, deferred: Any) -> Any:
        """
        What *deferred* fires with, when the thread has done what it needs.
        """
        found: list[Any] = []
        deferred.addCallback(found.append)
        while not found:
            self.calls.get(timeout=60)()
        return found[0]

    def test_lines(self) -> None:
        """
        Lines are written in the order in which they come.
        """
        stream = Stream()
        printer = self.printer(stream)
        for number in range(1000):
            self.assertIsNone(printer.put(number % 7, f"line {number}\n"))
        self.until(printer.drained())

        self.assertEqual(
            [f"line {number}" for number in range(1000)], stream.getvalue().splitlines()
        )

    def test_who_prints_much_waits(self) -> None:
        """
        While nobody reads, an owner of many lines is made to wait, and another is not;
        he may go on when half of them have been written.
        """
        stream = Stream()
        printer = self.printer(stream, ahead=100)
        stream.may_write.clear()
        waits = [printer.put("loud", "x" * 49 + "\n") for _ in range(3)]

        self.assertEqual([None, None], waits[:2])
        self.assertIsNone(printer.put("quiet", "here\n"))
        self.assertNoResult(waits[2])
        stream.may_write.set()
        self.until(waits[2])
        self.until(printer.drained())
        self.assertIsNone(printer.put("loud", "again\n"))
        self.until(printer.drained())
        self.assertEqual(5, len(stream.getvalue().splitlines()))

    def test_nobody_reads_any_more(self) -> None:
        """
        The error is told once, whoever waits may go on, and later lines go nowhere.
        """
        stream = Stream(BrokenPipeError(32, "Broken pipe"))
        printer = self.printer(stream, ahead=10)
        waiting = printer.put("loud", "x" * 100 + "\n")
        drained = printer.drained()
        error = self.until(printer.broken)

        self.assertIsInstance(error, BrokenPipeError)
        self.assertIs(error, printer.error)
        assert waiting is not None
        self.successResultOf(waiting)
        self.successResultOf(drained)
        self.assertIsNone(printer.put("loud", "x" * 100))
        self.successResultOf(printer.drained())

    def test_nobody_reads_and_the_program_ends(self) -> None:
        """
        While the thread waits for a reader, standard output can be flushed all the
        same, as happens when a program ends; what the reader reads then is whole,
        also where writers are told not to wait.
        """
        for blocking in (True, False):
            reader, writer = os.pipe()
            os.set_blocking(writer, blocking)
            with open(writer, "w") as stream, open(reader, "rb") as file:
                printer = self.printer(stream)
                text = "x" * 200_000 + "\n"
                printer.put(None, text)
                self.assertEqual(b"x", file.read(1))
                flushing = threading.Thread(target=stream.flush, daemon=True)
                flushing.start()
                flushing.join(30)
                self.assertFalse(flushing.is_alive())
                self.assertEqual(len(text) - 1, len(file.read(len(text) - 1)))
                self.until(printer.drained())

    def test_what_cannot_be_encoded(self) -> None:
        """
        A stream without some characters gets their numbers.
        """
        raw = io.BytesIO()
        printer = self.printer(io.TextIOWrapper(raw, "ascii"))
        printer.put(None, "caf\u00e9\n")
        self.until(printer.drained())

        self.assertEqual(b"caf\\xe9\n", raw.getvalue())

    def test_progress_is_the_last_line(self) -> None:
        """
        The line that tells how far it is makes way for others and comes back below
        them, and is gone in the end.
        """
        screen = io.StringIO()
        printer = self.printer(screen, progress=ProgressLine(screen))
        printer.status("1 of 2")
        printer.put(None, "one\n")
        self.until(printer.drained())
        printer.status("2 of 2")
        printer.put(None, "two\n")
        self.until(printer.drained())
        printer.end()
        printer._thread.join(60)

        self.assertEqual(["one", "two", ""], shown(screen.getvalue()))

    def test_a_question(self) -> None:
        """
        While something is asked nothing is written; lines that come meanwhile follow.
        """
        screen = io.StringIO()
        printer = self.printer(screen, progress=ProgressLine(screen))
        printer.status("1 of 2")
        printer.put(None, "before\n")
        self.until(printer.drained())
        with printer.quiet():
            printer.put(None, "meanwhile\n")
            printer.status("2 of 2")
            screen.write("really? yes\n")
            self.assertEqual(["before", "really? yes", ""], shown(screen.getvalue()))
        self.until(printer.drained())

        lines = shown(screen.getvalue())
        self.assertEqual(["before", "really? yes", "meanwhile"], lines[:3])

    def test_an_answer_that_is_not_wanted_any_more(self) -> None:
        """
        When all is to end, what is left is written though nobody answers.
        """
        screen = io.StringIO()
        printer = self.printer(screen, progress=ProgressLine(screen))
        with printer.quiet():
            screen.write("really?\n")
            printer.put(None, "the end\n")
            printer.hurry()
            self.until(printer.drained())

        self.assertEqual(["really?", "the end", ""], shown(screen.getvalue()))


def shown(written: str) -> list[str]:
    """
    The lines of a terminal that this was written to.
    """
    lines = []
    for line in written.split("\n"):
        cells: list[str] = []
        for part in line.split("\r"):
            cells[: len(part)] = part
        lines.append("".join(cells).rstrip())
    return lines
