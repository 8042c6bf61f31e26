# SPDX-License-Identifier: MIT
"""
The folder where inventories wait between their upload and the decision about them.

What an upload was told to be stored is on disk, and stays there until somebody has
decided about it: a program that is killed, at any moment, finds it again. Four folders,
on one file system, and whatever goes from one to the other goes by renaming:

`partial/`
    Uploads under way. Nobody was told anything about them; emptied at the start.
`incoming/`
    Halves that wait for the other one, each `NAME~BOX~ADDRESS`.
`ready/`
    Pairs, each in a folder of its own, until they are decided about. A pair that was
    not, because the program ended in between, is decided about again.
`failed/`
    What was not believed, each in a folder of its own, with the reason in
    `reason.json`.

How the last try to decide about a pair went may stand beside it, in `tried.json`.

One program owns the folder at a time. Everything here blocks; all of it may be called
from several threads.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from datetime import datetime, timezone

from attrs import evolve, frozen

from nodecomm.identity.files import sync_folder
from nodecomm.inventory.failures import Failed, read_reason
from nodecomm.inventory.model import Refusal
from nodecomm.inventory.names import Half, UploadName
from nodecomm.inventory.pairs import (
    Pair,
    Part,
    Sender,
    Waiting,
    content_digest,
    held_name,
    mark_of,
    pair_of,
    same_content,
)
from nodecomm.inventory.spool_folder import FAILED_KEPT, NameTaken, SpoolInUse
from nodecomm.inventory.spool_pairs import INCOMING_NAME, READY_NAME, PairFolder
from nodecomm.inventory.tried import Tried, write_tried

__all__ = [
    "FAILED_KEPT",
    "INCOMING_NAME",
    "READY_NAME",
    "NameTaken",
    "Placed",
    "Spool",
    "SpoolInUse",
]


@frozen
class Placed:
    """
    What became of an upload.

    Attributes:
        existed: Whether a file of this name waited already.
        pair: The pair that it completes; None if it waits.
        replaced: What made room for it and is in `failed/` now.
    """

    existed: bool = False
    pair: Pair | None = None
    replaced: Failed | None = None


class Spool(PairFolder):
    """
    The folder. What waits in it are pairs, for a decision.

    Args:
        folder: Where; it is made if it is not there.
        seconds: A clock for durations that never goes back, such as `time.monotonic`.
        now: Civil time in UTC.
        failed_kept: How much is kept in `failed/`.
    """

    # What a sender does

    # The next five are asked by the reactor, and so do not wait for the lock, which is
    # held while something is written. Each looks at a dict once.

    @property
    def waiting(self) -> int:
        """
        How many names there are of which one half waits for the other.
        """
        return len(self._waiting)

    def waiting_of(self, address: str) -> int:
        """
        How many halves came from one address.
        """
        return self._waiting.of_address(address)

    @property
    def undecided(self) -> int:
        """
        How many pairs wait for a decision.
        """
        return len(self._pairs)

    def completes(self, name: UploadName) -> bool:
        """
        Whether no more halves wait when this one is here: the other one waits, or one
        that it takes the place of.
        """
        return bool(self._waiting.of(name.pair))

    def holds(self, name: UploadName) -> bool:
        """
        Whether a file of exactly this name waits for its other half.
        """
        found = self._waiting.of(name.pair).get(name.half)
        return found is not None and found.name == name

    def place(
        self, part: Part, name: UploadName, sender: Sender, *, only_new: bool = False
    ) -> Placed:
        """
        Store an upload that is whole. When this returns it is on disk, and stays there
        until a decision about it is.

        A half with other content that waits under the same name goes to `failed/`; the
        same content again changes nothing.

        Args:
            part: What was sent.
            name: What it is called.
            sender: Where it came from.
            only_new: Whether a file of this name that waits already is in the way.

        Raises:
            NameTaken: There is one, and *only_new*.
            OSError: It could not be stored.
        """
        part.finish(self._now())
        target = os.path.join(self._incoming, held_name(name, sender))
        replaced = None
        with self._lock:
            before = self._there(name.pair, name.half)
            existed = before is not None and before.name == name
            if existed and only_new:
                raise NameTaken(name.text)
            if before is not None and same_content(before, part, name):
                mine = before
                part.discard()
            else:
                if before is not None:
                    replaced = self._replace(name.pair, before)
                os.rename(part.path, target)
                arrived = self._seconds()
                mine = Waiting(target, name, sender, arrived, durable=False)
                self._waiting.put(mine)
        sync_folder(self._incoming)
        pair = None
        with self._lock:
            # Another upload of the same name may have come in between.
            if self._waiting.of(name.pair).get(name.half) == mine:
                self._waiting.put(evolve(mine, durable=True))
                pair = self._claim(name.pair)
        return Placed(existed, pair, replaced)

    # What the one who decides does

    def finish(self, pair: Pair) -> None:
        """
        Forget a pair: somebody else has what it says, durably.

        Raises:
            OSError: It could not be removed, and will be decided about again.
        """
        halves = _halves_of(pair)
        with self._lock:
            self._remember(halves)
            done = os.path.join(self._done, pair.serial)
            os.rename(os.path.join(self._ready, pair.serial), done)
            self._pairs.pop(pair.serial, None)
        # From here on nobody would look at it again.
        shutil.rmtree(done, ignore_errors=True)

    def fail(self, pair: Pair, refusal: Refusal) -> Failed:
        """
        Put a pair aside, with the reason beside it.

        Raises:
            OSError: It could not be moved, and will be decided about again.
        """
        halves = _halves_of(pair)
        with self._lock:
            self._remember(halves)
            failed = self._set_aside(pair, refusal)
            self._pairs.pop(pair.serial, None)
        return failed

    def forget(self, pair: Pair) -> Failed | None:
        """
        Forget a pair whose files are not where they were: somebody has removed them, or
        they could not be put aside in one go, which is done now.

        Returns:
            What was put aside.

        Raises:
            OSError: It could not be moved.
        """
        folder = os.path.join(self._ready, pair.serial)
        with self._lock:
            failed = read_reason(folder)
            if failed is not None:
                self._move_failed(folder)
            self._pairs.pop(pair.serial, None)
            shutil.rmtree(folder, ignore_errors=True)
        return failed

    def note(self, pair: Pair, tried: Tried) -> None:
        """
        Note how a try went with a pair that waits on.

        Raises:
            OSError: It could not be written.
        """
        with self._lock:
            if pair.serial in self._pairs:
                write_tried(os.path.join(self._ready, pair.serial), tried)

    def claim_unsigned(self, waited: float) -> list[Pair]:
        """
        The documents that have waited so many seconds for their signature: as pairs
        without one.

        Raises:
            OSError: None of them could be moved.
        """
        claimed = []
        arrived_before = self._seconds() - waited
        with self._lock:
            for name, halves in self._waiting.pairs():
                if Half.SIGNATURE in halves:
                    continue
                document = self._there(name, Half.DOCUMENT)
                if document is None or not _has_waited(document, arrived_before):
                    continue
                try:
                    claimed.append(self._make_pair(name, document, None))
                except OSError:
                    if not claimed:
                        raise
                    # The next time; somebody must be told of those that are pairs now.
                    break
        return claimed

    def expire(self, waited: float) -> list[Failed]:
        """
        Put aside the halves that have waited so many seconds for the other one. One of
        a pair that was decided about, sent again because its sender has missed the
        answer, is not worth that: it is removed.

        Raises:
            OSError: None of them could be moved.
        """
        failed: list[Failed] = []
        arrived_before = self._seconds() - waited
        with self._lock:
            for name, halves in self._waiting.pairs():
                if len(halves) != 1:
                    continue
                (half,) = halves
                waiting = self._there(name, half)
                if waiting is None or not _has_waited(waiting, arrived_before):
                    continue
                try:
                    aside = self._expire_half(name, waiting)
                except OSError:
                    if not failed:
                        raise
                    # The next time; somebody must be told of those that are aside.
                    break
                if aside is not None:
                    failed.append(aside)
        return failed

    def _expire_half(self, name: str, waiting: Waiting) -> Failed | None:
        half = waiting.name.half
        decided = self._decided.get((name, half))
        if decided is not None and decided == content_digest(waiting.path):
            os.unlink(waiting.path)
            self._waiting.remove(name, half)
            return None
        refusal = Refusal(
            "no-signature" if half is Half.DOCUMENT else "no-document",
            f"the {half.other.value} did not come in time",
        )
        return self._fail_half(name, waiting, refusal)

    # What other servers have to do with it

    def lonely(self, half: Half, waited: float) -> list[Waiting]:
        """
        The halves of one kind that have waited so many seconds for the other one, the
        longest waiting first.
        """
        arrived_before = self._seconds() - waited
        found = []
        with self._lock:
            for _, halves in self._waiting.pairs():
                waiting = halves.get(half)
                if waiting is None or half.other in halves:
                    continue
                if waiting.durable and waiting.arrived <= arrived_before:
                    found.append(waiting)
        return sorted(found, key=lambda waiting: waiting.arrived)

    def unsigned(self, earliest: float, latest: float) -> list[Waiting]:
        """
        The documents that were put aside for want of a signature, while no other one of
        the name waits.

        Args:
            earliest: When they have arrived, in seconds since 1970.
            latest: The same.

        Raises:
            OSError: The folder cannot be read.
        """
        with self._lock:
            return [
                each
                for each in self._late.between(earliest, latest)
                if Half.DOCUMENT not in self._waiting.of(each.name.pair)
            ]

    def was_decided(self, name: str, digest: str) -> bool:
        """
        Whether a signature is of a pair that was decided about here, and was sent
        again.

        Args:
            name: What both halves have in common in their names.
            digest: SHA-256 of the signature's file.
        """
        with self._lock:
            decided = self._decided.get((name, Half.SIGNATURE))
        return decided == bytes.fromhex(digest)

    def has_signature(self, name: str, digest: str) -> bool:
        """
        Whether a signature is here: it waits for its document or beside it, or was
        decided about. The arguments are those of `was_decided`.
        """
        wanted = bytes.fromhex(digest)
        with self._lock:
            if self._decided.get((name, Half.SIGNATURE)) == wanted:
                return True
            waiting = self._waiting.of(name).get(Half.SIGNATURE)
            found = [
                pair.signature for pair in self._pairs.values() if pair.name == name
            ]
            found += [waiting.path] if waiting is not None else []
            for path in filter(None, found):
                with contextlib.suppress(FileNotFoundError):
                    if content_digest(path) == wanted:
                        return True
        return False

    def give_up(self, waiting: Waiting) -> bool:
        """
        Remove a half that somebody else keeps now, unless it has become part of a pair.
        """
        with self._lock:
            name = waiting.name
            if self._waiting.of(name.pair).get(name.half) != waiting:
                return False
            with contextlib.suppress(FileNotFoundError):
                os.unlink(waiting.path)
            self._waiting.remove(name.pair, name.half)
        return True

    def join(
        self, part: Part, name: UploadName, sender: Sender, mark: str
    ) -> Placed | None:
        """
        Store a signature that was at another server beside its document, which waits,
        or was put aside for want of it.

        Args:
            part: What is in it.
            name: What it is called.
            sender: Where it came from.
            mark: That of the document, see `nodecomm.inventory.pairs.mark_of`; no other
                one is meant.

        Returns:
            What became of it; None if that document does not wait for a signature.
        """
        with self._lock:
            if Half.SIGNATURE in self._waiting.of(name.pair):
                return None
            document = self._there(name.pair, Half.DOCUMENT)
            if document is None:
                document = self._take_back(name.pair, mark)
            if document is None or mark != mark_of(os.stat(document.path)):
                return None
        return self.place(part, name, sender)

    def put_aside(
        self,
        part: Part,
        name: UploadName,
        sender: Sender,
        arrived: float,
        refusal: Refusal,
    ) -> Failed:
        """
        Put a half aside that waited elsewhere, since *arrived* (in seconds since 1970).
        """
        part.finish(datetime.fromtimestamp(arrived, timezone.utc))
        with self._lock:
            serial = self._new_serial()
            folder = os.path.join(self._ready, serial)
            os.mkdir(folder, 0o700)
            path = os.path.join(folder, held_name(name, sender))
            os.rename(part.path, path)
            waiting = Waiting(path, name, sender, self._seconds())
            return self._set_aside(pair_of(serial, [waiting]), refusal)


def _has_waited(waiting: Waiting, arrived_before: float) -> bool:
    return waiting.durable and waiting.arrived <= arrived_before


def _halves_of(pair: Pair) -> dict[tuple[str, Half], bytes]:
    """
    By what the halves of a pair are recognised.
    """
    found = {Half.DOCUMENT: pair.document, Half.SIGNATURE: pair.signature}
    return {
        (pair.name, half): content_digest(path) for half, path in found.items() if path
    }
