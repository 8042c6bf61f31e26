# SPDX-License-Identifier: MIT
"""
Updates that are killed, in processes of their own: run by `test_kill`.

`python -m tests.sync.killed FOLDER REPLACE BEFORE_KIND` makes a destination, lets a
child update it that dies right before its n-th call that changes the disk, looks at
what is there, lets the next run recover and update, looks again, and does so for every
n until the child lives. Prints how many steps there were.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from nodecomm.sync.model import SyncRequest
from nodecomm.sync.place import open_destination
from tests.sync.injected import each_call
from tests.sync.trees import Tree, own_names, put, read, request

OLD: Tree = {
    b"same": b"same",
    b"folder": None,
    b"folder/same": b"same too",
    b"folder/changed": b"old",
    b"local": b"only here",
    b"gone-folder": None,
    b"gone-folder/local": b"only here, too",
    b"link": "old-target",
}
NEW: Tree = {
    b"same": b"same",
    b"folder": None,
    b"folder/same": b"same too",
    b"folder/changed": b"new",
    b"added": b"added",
    b"fresh": None,
    b"fresh/added": b"added, too",
    b"link": "new-target",
}
#: What is there in the end, local names included.
END = {**OLD, **NEW}
#: What stands there before: nothing, a folder, or a link to one of our own sets.
BEFORE = ("nothing", "folder", "link")


def prepare(root: Path, kind: str) -> None:
    """
    The destination as some earlier runs left it.
    """
    if kind == "nothing":
        return
    replace = "symlink" if kind == "link" else "exchange"
    for tree in ({b"oldest": b"oldest"}, OLD):
        with open_destination(request(root, replace=replace)) as place:
            put(place, tree, carry=False)


def child(wanted: SyncRequest, number: int) -> bool:
    """
    An update that dies before its *number*-th step; whether it did.
    """
    pid = os.fork()
    if not pid:
        count = 0

        def seen(name: str) -> None:
            nonlocal count
            count += 1
            if count == number:
                os._exit(9)

        try:
            with each_call(seen), open_destination(wanted) as place:
                put(place, NEW)
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, 9), status
    return status == 9


def main(folder: Path, replace: str, kind: str) -> None:
    """
    Go through all steps.
    """
    old = {} if kind == "nothing" else dict(OLD)
    end = dict(NEW) if kind == "nothing" else dict(END)
    number = 0
    died = True
    happened = set()
    while died:
        number += 1
        top = folder / f"{number}"
        top.mkdir()
        root = top / "dest"
        prepare(root, kind)
        wanted = request(root, replace=replace)
        died = child(wanted, number)
        found = read(root) if root.exists() else {}
        if replace != "files":
            assert found in (old, end), (number, found)
            happened.add(found == end)
        # Whoever tidies up may be killed as well.
        child(wanted, 1 + number % 13)
        found = read(root) if root.exists() else {}
        assert replace == "files" or found in (old, end), (number, found)
        with open_destination(wanted) as place:
            names = own_names(root)
            assert not names & {"new", "fetched", "trash", "journal", "link"}, names
            found = read(root) if root.exists() else {}
            if replace != "files":
                assert found in (old, end), (number, found)
            if kind != "nothing" and replace != "files":
                before = previous(root)
                # The set before the present one is whole, at every moment.
                expected = OLD if found == end else {b"oldest": b"oldest"}
                assert before == expected, (number, before)
            put(place, NEW)
        assert read(root) == end, number
        shutil.rmtree(top)
    assert replace == "files" or happened == {False, True}, happened
    print(number - 1)


def previous(root: Path) -> object:
    """
    The set before the present one.
    """
    if root.is_symlink():
        slots = {f".{root.name}.nodecomm-{letter}" for letter in "ab"}
        (other,) = slots - {os.readlink(root)}
        return read(root.parent / other)
    return read(root.parent / f".{root.name}.nodecomm-previous")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
