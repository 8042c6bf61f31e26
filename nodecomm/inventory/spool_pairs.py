# SPDX-License-Identifier: MIT
"""
Halves and pairs on disk, and how they go from folder to folder: what
`nodecomm.inventory.spool` is made of.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from attrs import evolve

from nodecomm.inventory.failures import REASON_NAME, Failed
from nodecomm.inventory.late import LateDocuments
from nodecomm.inventory.model import Refusal
from nodecomm.inventory.names import Half
from nodecomm.inventory.pairs import (
    Pair,
    Waiting,
    held_name,
    pair_of,
    read_waiting,
    sent_name,
)
from nodecomm.inventory.spool_folder import FAILED_KEPT, SpoolFolder
from nodecomm.inventory.tried import TRIED_NAMES
from nodecomm.inventory.waiting import WaitingHalves

__all__ = ["INCOMING_NAME", "READY_NAME", "PairFolder"]

#: The folders of halves and of pairs, in that of the spool.
INCOMING_NAME, READY_NAME = "incoming", "ready"

#: Halves of pairs that were decided about that are recognised when they come again
#: alone, as they do when an answer was lost.
_REMEMBERED = 10_000


class PairFolder(SpoolFolder[Pair]):
    """
    Halves that wait for the other one, and pairs that wait for a decision. What is here
    is for `nodecomm.inventory.spool.Spool`; apart from opening and closing, all of it
    is done under the lock.

    It takes the same arguments as that one.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        seconds: Callable[[], float],
        now: Callable[[], datetime],
        failed_kept: int = FAILED_KEPT,
    ) -> None:
        super().__init__(folder, now=now, failed_kept=failed_kept)
        self._seconds = seconds
        self._incoming = os.path.join(self.folder, INCOMING_NAME)
        self._ready = os.path.join(self.folder, READY_NAME)
        self._done = os.path.join(self.folder, "done")
        self._waiting = WaitingHalves()
        self._pairs: dict[str, Pair] = {}
        self._decided: OrderedDict[tuple[str, Half], bytes] = OrderedDict()
        self._late = LateDocuments(self.folder)

    # Opening and closing

    def _folders(self) -> tuple[Sequence[str], Sequence[str]]:
        return [self._done], [self._incoming, self._ready]

    def _find_waiting(self) -> list[Pair]:
        with self._lock:
            self._find_halves()
            self._find_pairs()
            for name, _ in self._waiting.pairs():
                self._claim(name)
            return sorted(self._pairs.values(), key=lambda pair: pair.serial)

    def _forget_all(self) -> None:
        self._waiting.clear()
        self._pairs.clear()
        self._late.clear()

    # What moves

    def _there(self, name: str, half: Half) -> Waiting | None:
        """
        The half that waits, unless somebody has removed its file.
        """
        waiting = self._waiting.of(name).get(half)
        if waiting is not None and not os.path.exists(waiting.path):
            self._waiting.remove(name, half)
            return None
        return waiting

    def _remember(self, halves: Mapping[tuple[str, Half], bytes]) -> None:
        self._decided.update(halves)
        while len(self._decided) > _REMEMBERED:
            self._decided.popitem(last=False)

    def _replace(self, name: str, before: Waiting) -> Failed:
        msg = "another file of this name came before the other half did"
        return self._fail_half(name, before, Refusal("replaced", msg))

    def _fail_half(self, name: str, waiting: Waiting, refusal: Refusal) -> Failed:
        if waiting.name.half is Half.DOCUMENT:
            pair = self._make_pair(name, waiting, None)
        else:
            pair = self._make_pair(name, None, waiting)
        del self._pairs[pair.serial]
        try:
            return self._set_aside(pair, refusal)
        except OSError:
            # There is no room for the reason, as a rule: it waits on.
            folder = os.path.join(self._ready, pair.serial)
            path = os.path.join(folder, os.path.basename(waiting.path))
            if os.path.exists(path):
                self._put_back(folder, evolve(waiting, path=path))
            raise

    def _claim(self, name: str) -> Pair | None:
        """
        Make a pair of two halves, if they are both there.
        """
        document = self._there(name, Half.DOCUMENT)
        signature = self._there(name, Half.SIGNATURE)
        if document is None or signature is None:
            return None
        if not document.durable or not signature.durable:
            return None
        return self._make_pair(name, document, signature)

    def _make_pair(
        self, name: str, document: Waiting | None, signature: Waiting | None
    ) -> Pair:
        """
        Move halves into a folder of their own. When the program ends in the middle,
        `_find_pairs` goes on here.
        """
        serial = self._new_serial()
        folder = os.path.join(self._ready, serial)
        os.mkdir(folder, 0o700)
        moved: list[Waiting] = []
        for waiting in (signature, document):
            if waiting is not None:
                path = os.path.join(folder, os.path.basename(waiting.path))
                os.rename(waiting.path, path)
                moved.append(evolve(waiting, path=path))
        for each in moved:
            self._waiting.remove(name, each.name.half)
        pair = pair_of(serial, moved)
        self._pairs[serial] = pair
        return pair

    def _set_aside(self, pair: Pair, refusal: Refusal) -> Failed:
        """
        Move a pair's folder to `failed/`, with the reason, and its files as they were
        called by their sender.
        """
        folder = os.path.join(self._ready, pair.serial)
        found = [x for x in (pair.document, pair.signature) if x]
        failed = Failed(
            serial=pair.serial,
            name=pair.name,
            refusal=refusal,
            sender=pair.sender,
            when=pair.when,
            failed=self._now(),
            files=tuple(map(sent_name, found)),
        )
        self._move_failed_with(folder, failed)
        self._late.add(failed)
        return failed

    def _take_back(self, name: str, mark: str) -> Waiting | None:
        """
        Have a document wait again that was put aside for want of a signature. When the
        program ends in the middle, `_find_pairs` puts it aside again, or it waits.

        Args:
            name: What it has in common with the signature in its name.
            mark: Which one is meant.

        Returns:
            The document; None if it is not there.
        """
        found = self._late.find(name, mark)
        if found is None:
            return None
        serial, late = found
        folder = os.path.join(self._ready, serial)
        path = os.path.join(self._incoming, held_name(late.name, late.sender))
        try:
            os.rename(os.path.dirname(late.path), folder)
            os.rename(os.path.join(folder, late.name.text), path)
        except OSError as error:
            with contextlib.suppress(OSError):
                self._move_failed(folder)
            if isinstance(error, FileNotFoundError):
                # Somebody removes it at this moment.
                return None
            raise
        self._late.remove(serial)
        shutil.rmtree(folder, ignore_errors=True)
        waiting = Waiting(path, late.name, late.sender, self._seconds())
        self._waiting.put(waiting)
        return waiting

    def _find_halves(self) -> None:
        """
        What waits in `incoming/`. Of two of one kind the later one counts.
        """
        self._waiting.clear()
        arrived = self._seconds()
        found = []
        for entry in os.scandir(self._incoming):
            waiting = read_waiting(entry.path, arrived)
            if waiting is not None:
                found.append((entry.stat().st_mtime, waiting))
        for _, waiting in sorted(found, key=lambda each: each[0]):
            name = waiting.name
            before = self._waiting.of(name.pair).get(name.half)
            if before is not None:
                self._replace(name.pair, before)
            self._waiting.put(waiting)

    def _find_pairs(self) -> None:
        """
        What waits in `ready/`.
        """
        self._pairs.clear()
        arrived = self._seconds()
        for serial in sorted(os.listdir(self._ready)):
            folder = os.path.join(self._ready, serial)
            self._know_serial(serial)
            if not os.path.isdir(folder):
                continue
            if os.path.exists(os.path.join(folder, REASON_NAME)):
                if set(os.listdir(folder)) <= {REASON_NAME, *TRIED_NAMES}:
                    # Of what waits again.
                    shutil.rmtree(folder, ignore_errors=True)
                else:
                    self._move_failed(folder)
                continue
            found = []
            for entry in os.scandir(folder):
                waiting = read_waiting(entry.path, arrived)
                if waiting is not None:
                    found.append(waiting)
            if not found:
                for name in TRIED_NAMES:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(os.path.join(folder, name))
                # Empty, or with something in it that somebody else has put there.
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
                continue
            halves = {waiting.name.half for waiting in found}
            if len(halves) == 1:
                # It was to be a pair, an unsigned document, or something to put aside:
                # with its other half it waits again for all of that.
                self._put_back(folder, found[0])
                continue
            self._pairs[serial] = pair_of(serial, found)

    def _put_back(self, folder: str, waiting: Waiting) -> None:
        name = waiting.name
        path = os.path.join(self._incoming, os.path.basename(waiting.path))
        before = self._waiting.of(name.pair).get(name.half)
        if before is not None:
            # A later one came after it, and has replaced it.
            pair = pair_of(os.path.basename(folder), [waiting])
            refusal = Refusal("replaced", "another file of this name came later")
            self._set_aside(pair, refusal)
            return
        os.rename(waiting.path, path)
        shutil.rmtree(folder, ignore_errors=True)
        self._waiting.put(evolve(waiting, path=path))
