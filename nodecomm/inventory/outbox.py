# SPDX-License-Identifier: MIT
"""
The folder of a relay, where files wait for the server above to have them.

Each file is by itself, document or signature, as it came: nothing in it is looked at.
What an upload was told to be stored is on disk, and stays there until the server above
has acknowledged it, or it is in `failed/` with the reason:

`partial/`
    Uploads under way. Nobody was told anything about them; emptied at the start.
`outgoing/`
    What waits, each file in a folder of its own, `SERIAL/NAME~BOX~ADDRESS`. Later ones
    have greater serials. Beside it, in `via`, stand the relays that it has come by, and
    in `tried.json` how the last try went.
`failed/`
    What the server above does not want, and what waited for too long.

A folder in which a server has decided about inventories before is taken over: its
halves and pairs are passed on. One program owns the folder at a time. Everything here
blocks; all of it may be called from several threads.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timezone
from operator import attrgetter

from attrs import evolve, field, frozen

from nodecomm.identity.files import (
    ensure_folder,
    read_small,
    replace_file,
    sync_folder,
)
from nodecomm.inventory.failures import (
    FAILED_NAME,
    REASON_NAME,
    Failed,
    read_reason,
)
from nodecomm.inventory.model import Refusal
from nodecomm.inventory.names import UploadName, read_name
from nodecomm.inventory.pairs import (
    Box,
    Part,
    Sender,
    Waiting,
    held_name,
    read_waiting,
    same_content,
)
from nodecomm.inventory.spool import INCOMING_NAME, READY_NAME, Placed
from nodecomm.inventory.spool_folder import FAILED_KEPT, NameTaken, SpoolFolder
from nodecomm.inventory.tried import TRIED_NAMES, Tried, write_tried
from nodecomm.inventory.via import read_via

__all__ = ["OUTGOING_NAME", "Outbox", "Outgoing", "send_again"]

#: The folder of what waits, in that of the outbox.
OUTGOING_NAME = "outgoing"

#: The reason for which something was put aside before it was sent again.
_REASON_BEFORE = "reason-before.json"

#: The relays that a file has come by, beside it; one mark a line.
_VIA = "via"

#: What may stand beside a file, and is of no use without it.
_BESIDE = (_VIA, _REASON_BEFORE, *TRIED_NAMES)


@frozen(eq=False)
class Outgoing:
    """
    A file that waits.

    Attributes:
        serial: The name of its folder; later ones are greater.
        path: The file.
        name: What its sender has called it.
        sender: Where it came from.
        arrived: When, by the clock of durations. What waited before this program began
            has come before that.
        when: When, in UTC.
    """

    serial: str
    path: str
    name: UploadName
    sender: Sender
    arrived: float
    when: datetime = field(repr=False)

    @property
    def key(self) -> tuple[Box, str]:
        """
        What a later file must have in common with it to take its place above.
        """
        return self.sender.box, self.name.text


class Outbox(SpoolFolder[Outgoing]):
    """
    The folder.

    Args:
        folder: Where; it is made if it is not there.
        seconds: A clock for durations that never goes back, such as `time.monotonic`.
        now: Civil time in UTC.
        failed_kept: How much is kept in `failed/`.

    Attributes:
        seconds: The clock by which files have `arrived`.
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
        self.seconds = seconds
        self._outgoing = os.path.join(self.folder, OUTGOING_NAME)
        self._items: dict[str, Outgoing] = {}
        #: The latest that waits under a name in a box.
        self._latest: dict[tuple[Box, str], Outgoing] = {}

    # Opening and closing

    def _folders(self) -> tuple[Sequence[str], Sequence[str]]:
        return [], [self._outgoing]

    def _find_waiting(self) -> list[Outgoing]:
        with self._lock:
            self._forget_all()
            for serial in sorted(os.listdir(self._outgoing)):
                self._know_serial(serial)
            self._take_over()
        return self.rescan()

    def _forget_all(self) -> None:
        self._items.clear()
        self._latest.clear()

    # What a sender does

    # These are asked by the reactor, and so do not wait for the lock.

    @property
    def waiting(self) -> int:
        """
        How many files wait.
        """
        return len(self._items)

    def waiting_of(self, address: str) -> int:
        """
        None: what waits for the upstream is nobody's fault.
        """
        return 0

    @property
    def undecided(self) -> int:
        """
        None: nothing is decided here.
        """
        return 0

    def completes(self, name: UploadName) -> bool:
        """
        No: each half goes by itself.
        """
        return False

    def holds(self, name: UploadName) -> bool:
        """
        Whether a file of exactly this name waits.
        """
        return any((box, name.text) in self._latest for box in Box)

    def place(
        self, part: Part, name: UploadName, sender: Sender, *, only_new: bool = False
    ) -> tuple[Placed, Outgoing | None]:
        """
        Store an upload that is whole. When this returns it is on disk.

        The same content as the latest of that name that waits changes nothing; other
        content waits behind it, and so does what has come by other relays, as anybody
        can say: it may be that the server above takes one of them only.

        Args:
            part: What was sent.
            name: What it is called.
            sender: Where it came from.
            only_new: Whether a file of this name that waits already is in the way.

        Returns:
            What became of it, and the file that waits now, unless it did before.

        Raises:
            NameTaken: There is one, and *only_new*.
            OSError: It could not be stored.
        """
        part.finish(self._now())
        with self._lock:
            if only_new and self.holds(name):
                raise NameTaken(name.text)
            before = self._latest.get((sender.box, name.text))
            new = None
            if before is not None and self._is_same(before, part, sender):
                part.discard()
                folder = os.path.dirname(before.path)
            else:
                new = self._put_in(part.path, name, sender)
                folder = os.path.dirname(new.path)
        # Somebody else may have put the file there, just now, and may still be at this.
        # It may be above already, too, and gone from here.
        with contextlib.suppress(FileNotFoundError):
            sync_folder(folder)
        sync_folder(self._outgoing)
        return Placed(existed=before is not None), new

    # What the one who sends does

    def done(self, item: Outgoing) -> None:
        """
        Forget a file: the server above has it, or somebody has removed it here.

        Raises:
            OSError: It could not be removed, and will be sent again.
        """
        with self._lock:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(item.path)
            self._forget(item)
            # What is left of it holds no file to send, and goes at the next start.
            shutil.rmtree(os.path.dirname(item.path), ignore_errors=True)

    def fail(self, item: Outgoing, refusal: Refusal) -> Failed:
        """
        Put a file aside, with the reason beside it.

        Raises:
            OSError: It could not be moved, and still waits.
        """
        failed = Failed(
            serial=item.serial,
            name=item.name.text,
            refusal=refusal,
            sender=item.sender,
            when=item.when,
            failed=self._now(),
            files=(item.name.text,),
        )
        with self._lock:
            self._move_failed_with(os.path.dirname(item.path), failed)
            self._forget(item)
        return failed

    def note(self, item: Outgoing, tried: Tried) -> None:
        """
        Note how a try went with a file that waits on.

        Raises:
            OSError: It could not be written.
        """
        with self._lock:
            if item.serial in self._items:
                write_tried(os.path.dirname(item.path), tried)

    def rescan(self) -> list[Outgoing]:
        """
        Look at what is there, whoever has put it there or removed it.

        Returns:
            What waits, the longest waiting first.

        Raises:
            OSError: The folder cannot be read.
        """
        with self._lock:
            there = set(os.listdir(self._outgoing))
            for serial, item in list(self._items.items()):
                if serial not in there:
                    self._forget(item)
            for serial in sorted(there - self._items.keys()):
                self._find(serial)
            return sorted(self._items.values(), key=attrgetter("serial"))

    def hand_back(self) -> int:
        """
        Give what waits to the server that decides which this relay has become; the
        folder is opened and closed for that.

        Returns:
            How many files that were. One whose name is taken there waits for the next
            time.

        Raises:
            SpoolInUse: Another program has it.
            OSError: It cannot be used.
        """
        if not _names(self._outgoing):
            return 0
        count = 0
        items = self.open()
        try:
            incoming = os.path.join(self.folder, INCOMING_NAME)
            ensure_folder(incoming)
            for item in items:
                target = os.path.join(incoming, os.path.basename(item.path))
                if not os.path.exists(target):
                    os.rename(item.path, target)
                    self.done(item)
                    count += 1
            sync_folder(incoming)
        finally:
            self.close()
        return count

    # What holds it together; all of it under the lock

    def _put_in(self, path: str, name: UploadName, sender: Sender) -> Outgoing:
        """
        Move an upload into a folder of its own, which is there with the file in it or
        not at all.
        """
        serial = self._new_serial()
        held = held_name(name, sender)
        making = os.path.join(self._partial, serial)
        os.mkdir(making, 0o700)
        if sender.via:
            lines = "".join(f"{mark}\n" for mark in sender.via)
            replace_file(os.path.join(making, _VIA), lines.encode())
        os.rename(path, os.path.join(making, held))
        folder = os.path.join(self._outgoing, serial)
        os.rename(making, folder)
        return self._add(serial, Waiting(os.path.join(folder, held), name, sender, 0))

    def _find(self, serial: str) -> None:
        folder = os.path.join(self._outgoing, serial)
        self._know_serial(serial)
        try:
            if os.path.exists(os.path.join(folder, REASON_NAME)):
                self._move_failed(folder)
                return
            found = _read_folder(folder)
            if not found:
                for name in _BESIDE:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(os.path.join(folder, name))
                # Empty, or with something in it that somebody else has put there.
                os.rmdir(folder)
        except OSError:
            # Not a folder, or not ours to read; the others count.
            return
        for waiting in found[:1]:
            self._add(serial, _with_via(waiting))
        self._take_in(found[1:])

    def _add(self, serial: str, waiting: Waiting) -> Outgoing:
        civil = self._now()
        modified = os.stat(waiting.path).st_mtime
        if modified > civil.timestamp():
            # The clock was set back since: it has come now, at the latest.
            modified = civil.timestamp()
            os.utime(waiting.path, (modified, modified))
        age = civil.timestamp() - modified
        item = Outgoing(
            serial=serial,
            path=waiting.path,
            name=waiting.name,
            sender=waiting.sender,
            arrived=self.seconds() - age,
            when=datetime.fromtimestamp(modified, timezone.utc),
        )
        self._items[serial] = item
        latest = self._latest.get(item.key)
        if latest is None or latest.serial < serial:
            self._latest[item.key] = item
        return item

    def _forget(self, item: Outgoing) -> None:
        self._items.pop(item.serial, None)
        if self._latest.get(item.key) is item:
            del self._latest[item.key]

    def _is_same(self, before: Outgoing, part: Part, sender: Sender) -> bool:
        if before.sender.via != sender.via:
            return False
        waiting = Waiting(before.path, before.name, before.sender, 0)
        try:
            return same_content(waiting, part, before.name)
        except OSError:
            # Somebody has removed it.
            return False

    def _take_over(self) -> None:
        """
        What a server that decides has left here is passed on: pairs, then halves.
        """
        ready = os.path.join(self.folder, READY_NAME)
        for serial in _names(ready):
            folder = os.path.join(ready, serial)
            if os.path.exists(os.path.join(folder, REASON_NAME)):
                self._move_failed(folder)
                continue
            self._take_in(_read_folder(folder))
            shutil.rmtree(folder, ignore_errors=True)
        found = _read_folder(os.path.join(self.folder, INCOMING_NAME))
        self._take_in(sorted(found, key=lambda each: os.stat(each.path).st_mtime))

    def _take_in(self, found: Iterable[Waiting]) -> None:
        # Not by way of `partial/`, which is emptied at the next start: their senders
        # were told that they are stored.
        for waiting in found:
            serial = self._new_serial()
            folder = os.path.join(self._outgoing, serial)
            os.mkdir(folder, 0o700)
            path = os.path.join(folder, os.path.basename(waiting.path))
            os.rename(waiting.path, path)
            self._add(serial, evolve(waiting, path=path))


def send_again(folder: str | os.PathLike[str], serial: str) -> tuple[str, ...]:
    """
    Let a relay send again what it has put aside; it may be running.

    Args:
        folder: That of its files.
        serial: The name of the folder in `failed/`.

    Returns:
        The names of the files.

    Raises:
        FileNotFoundError: There is nothing of this name.
        ValueError: There is no reason beside it that can be read, so that nobody knows
            where it belongs.
        OSError: It cannot be moved.
    """
    top = os.fspath(folder)
    if os.path.basename(serial) != serial or serial in ("", ".", ".."):
        raise FileNotFoundError(errno.ENOENT, "nothing of this number", serial)
    aside = os.path.join(top, FAILED_NAME, serial)
    reason = os.path.join(aside, REASON_NAME)
    before = os.path.join(aside, _REASON_BEFORE)
    if not os.path.isdir(aside):
        raise FileNotFoundError(errno.ENOENT, "nothing of this number", serial)
    failed = read_reason(aside) or read_reason(aside, _REASON_BEFORE)
    if failed is None:
        raise ValueError(f"no reason can be read in {aside}")
    for text in failed.files:
        held = os.path.join(aside, held_name(read_name(text), failed.sender))
        if os.path.exists(os.path.join(aside, text)):
            os.rename(os.path.join(aside, text), held)
        # From now on it waits again, for as long as any other.
        os.utime(held)
    # Relays may stand otherwise now; if they still pass it round, that is found again.
    for name in (_VIA, *TRIED_NAMES):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(aside, name))
    if os.path.exists(reason):
        os.replace(reason, before)
    outgoing = os.path.join(top, OUTGOING_NAME)
    os.rename(aside, os.path.join(outgoing, serial))
    sync_folder(outgoing)
    return failed.files


def _with_via(waiting: Waiting) -> Waiting:
    """
    With the relays that it has come by.
    """
    try:
        _, data = read_small(os.path.join(os.path.dirname(waiting.path), _VIA))
    except (OSError, ValueError):
        return waiting
    # Whatever stands there, it becomes a header.
    via = read_via(b"1.1 " + mark for mark in data.split())
    return evolve(waiting, sender=evolve(waiting.sender, via=via))


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _read_folder(folder: str) -> list[Waiting]:
    paths = (os.path.join(folder, name) for name in _names(folder))
    found = (read_waiting(path, 0) for path in paths)
    return [waiting for waiting in found if waiting is not None]
