# SPDX-License-Identifier: MIT
"""
The moment at which one set takes the place of another, and what comes before and after.

The steps of an exchange, DEST being the destination:

1. the new set is complete in `.DEST.nodecomm-new`, and on disk;
2. the journal says which folder that is;
3. DEST and `.DEST.nodecomm-new` change places in one step;
4. late changes are carried over;
5. the old set becomes `.DEST.nodecomm-previous`; what was called so is removed;
6. the journal goes.

A kill before 3 leaves the old set in place, and whoever comes next removes the new one.
A kill after 3 leaves the new set in place, which the journal tells, and whoever comes
next does the rest.

Where DEST is a link, step 3 is: the new set is called by the slot that is free, and a
new link is renamed over DEST. The old set stays in its slot.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from attrs import define, field

from nodecomm.sync.folders import open_folder, remove_tree
from nodecomm.sync.journal import Journal, read_journal
from nodecomm.sync.late import LateChanges
from nodecomm.sync.posix import exchange, mounts_below, rename_new
from nodecomm.sync.siblings import Site
from nodecomm.wire.text import safe, to_text

__all__ = ["Aftermath", "Keeps", "change_sets", "recover"]

#: Whether a name is one that stays; see `LateChanges`.
Keeps = Callable[[bytes, bool], bool]


@define
class Aftermath:
    """
    What came to light after the sets had changed places.
    """

    moved: list[bytes] = field(factory=list)
    conflicts: list[bytes] = field(factory=list)
    warnings: list[str] = field(factory=list)


def change_sets(site: Site, journal: Journal, keeps: Keeps) -> Aftermath:
    """
    Let the set that is complete and on disk as `site.new` take its place.

    Args:
        journal: What was written down for it.

    Raises:
        OSError: It could not be done; the old set is in place.
    """
    if journal.slot:
        _change_link(site, journal)
    elif journal.old:
        exchange(site.folder, site.new, site.name)
    else:
        rename_new(site.folder, site.new, site.name)
    return finish(site, journal, keeps)


def _change_link(site: Site, journal: Journal) -> None:
    if site.exists(journal.slot):
        site.rename(journal.slot, site.trash)
    site.rename(site.new, journal.slot)
    # The link is not to be on disk before what it points to.
    site.sync()
    os.symlink(journal.slot, site.link, dir_fd=site.folder)
    if journal.old == site.link:
        # A folder: only an exchange puts a link in its place.
        exchange(site.folder, site.link, site.name)
    elif journal.old:
        site.rename(site.link, site.name)
    else:
        rename_new(site.folder, site.link, site.name)


def finish(site: Site, journal: Journal, keeps: Keeps) -> Aftermath:
    """
    Do what is left to do once the new set is in place. Nothing that fails here undoes
    that: it becomes a warning, and the next run tries again.
    """
    after = Aftermath()

    def attempt(doing: str, step: Callable[[], object]) -> bool:
        try:
            step()
        except OSError as error:
            reason = error.strerror or str(error)
            after.warnings.append(
                safe(f"the new set is in place, but {doing}: {reason}")
            )
            return False
        return True

    def carry() -> None:
        with _opened(site, journal.old) as old, _opened(site, site.present()) as new:
            late = LateChanges(journal, old, new, keeps)
            after.moved, after.conflicts = late.moved, late.conflicts
            late.carry()

    attempt("the change of names may not be on disk", site.sync)
    if journal.old and site.identity(journal.old) not in (None, journal.identity):
        attempt(
            "what other programs changed meanwhile may be in"
            f" {site.show(site.previous)} alone",
            carry,
        )
    if attempt(
        "the previous set could not be put aside", lambda: _put_aside(site, journal)
    ) and attempt("older sets could not be removed", lambda: _tidy(site, journal)):
        attempt(
            "the journal could not be removed",
            lambda: _remove(site, site.journal),
        )
    return after


@contextmanager
def _opened(site: Site, name: bytes) -> Iterator[int]:
    descriptor = open_folder(name, site.folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _put_aside(site: Site, journal: Journal) -> None:
    """
    Give the old set the name that the previous set has.
    """
    if not journal.old:
        return
    status = site.status(site.new)
    if status is not None and stat.S_ISLNK(status.st_mode):
        # The destination was a link before.
        os.unlink(site.new, dir_fd=site.folder)
    goal = site.previous
    if journal.slot:
        goal = site.other_slot(journal.slot)
    if goal != journal.old and site.identity(journal.old) is not None:
        if site.exists(goal):
            _remove(site, site.trash)
            site.rename(goal, site.trash)
        site.rename(journal.old, goal)
    site.sync()


def _tidy(site: Site, journal: Journal) -> None:
    """
    Remove what belongs to no set any more.
    """
    _remove(site, site.trash)
    _remove(site, site.fetched)
    present = site.present()
    if journal.slot:
        if journal.old:
            _remove(site, site.previous)
    elif journal.old:
        for slot in site.slots:
            if slot != present:
                _remove(site, slot)


def _remove(site: Site, name: bytes) -> None:
    """
    Remove what is called *name* beside the destination, but nothing that was mounted
    in it since.
    """
    if site.identity(name) is not None:
        below = mounts_below(site.beside(name))
        if below:
            raise OSError(errno.EBUSY, f"{to_text(below[0])} is a mount point")
    remove_tree(site.folder, name)


def recover(site: Site, keeps: Keeps) -> tuple[str, ...]:
    """
    Bring the names beside the destination in order after a run that was killed.

    Returns:
        What a person should know, one line each.

    Raises:
        OSError: It cannot be done.
    """
    journal = _trusted(site, read_journal(site))
    present = site.identity(site.present())
    if journal is not None and present == journal.identity:
        after = finish(site, journal, keeps)
        lines = list(after.warnings)
        shown = site.show(site.present())
        lines += [
            safe(f"{to_text(name)} has changed in the set before {shown} as well")
            for name in after.conflicts
        ]
        return tuple(lines)
    if journal is not None:
        for name in (site.new, *site.slots):
            if site.identity(name) == journal.identity:
                _remove(site, name)
        for name in (site.new, site.link):
            # An old set, and somebody put a third one in place since.
            if site.identity(name) is not None and not site.exists(site.previous):
                site.rename(name, site.previous)
        if journal.slot and site.exists(site.trash) and not site.exists(journal.slot):
            site.rename(site.trash, journal.slot)
    for name in (site.new, site.fetched, site.link, site.trash, site.journal):
        _remove(site, name)
    return ()


def _trusted(site: Site, journal: Journal | None) -> Journal | None:
    """
    A journal whose names are this site's; another one says nothing.
    """
    if journal is None:
        return None
    names: Mapping[bytes, tuple[bytes, ...]] = {
        b"": (b"", site.new, *site.slots),
        site.slots[0]: (b"", site.link, site.slots[1]),
        site.slots[1]: (b"", site.link, site.slots[0]),
    }
    return journal if journal.old in names.get(journal.slot, ()) else None
