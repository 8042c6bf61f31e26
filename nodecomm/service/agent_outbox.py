# SPDX-License-Identifier: MIT
"""
What an agent keeps of its own inventories: the one that has not been acknowledged yet,
which one was last, and whether somebody asks for another.

Everything here blocks for as long as a local file system takes: call it in a thread.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from typing import TYPE_CHECKING, TypeVar

import attrs
from attrs import frozen
from cattrs import Converter

from nodecomm.identity.files import ensure_folder, read_small, replace_file, sync_folder
from nodecomm.inventory.limits import DocumentLimits
from nodecomm.inventory.names import read_name
from nodecomm.service.agent_inventory_when import Sent
from nodecomm.service.agent_points import Point

if TYPE_CHECKING:
    from nodecomm.inventory.making import UploadFiles

__all__ = ["OUTBOX_FOLDER", "Kept", "Outbox", "ask_for_inventory"]

#: The folder in the state folder.
OUTBOX_FOLDER = "own-inventory"

#: What lies there besides the files of one inventory.
_SENT = "sent.json"
_KEPT = "kept.json"
_ASKED = "asked"

T = TypeVar("T", Sent, "Kept")


@frozen
class Kept:
    """
    An inventory that was made and has not been acknowledged yet.

    Attributes:
        made: When.
        version: Of the program that made it.
        key: The digest of the key that signed it.
        server_id: The policy server that it names.
        node_id: The node's.
        hostname: The node's.
        reason: What it is for.
        asked: The request that it is the answer to; "" if nobody had asked.
        document: What its document is called.
        document_digest: SHA-256 of that file.
        signature: What its signature is called.
        signature_digest: SHA-256 of that file.
    """

    made: Point
    version: str
    key: str
    server_id: str
    node_id: str
    hostname: str
    reason: str
    asked: str
    document: str
    document_digest: str
    signature: str
    signature_digest: str

    @property
    def names(self) -> tuple[str, str]:
        """
        What its two files are called.
        """
        return self.document, self.signature


class Outbox:
    """
    The folder of an agent's own inventories.

    Args:
        state_dir: The state folder.
    """

    def __init__(self, state_dir: str) -> None:
        self.folder = os.path.join(state_dir, OUTBOX_FOLDER)

    def path(self, name: str) -> str:
        """
        Where a file of an inventory is.
        """
        return os.path.join(self.folder, name)

    def sent(self) -> Sent | None:
        """
        The last inventory that was acknowledged; None if there is none, or nobody can
        read any more what is written of it.

        Raises:
            OSError: It cannot be read.
        """
        sent = self._load(_SENT, Sent)
        return sent if sent is not None and sent.when.can_be else None

    def kept(self) -> Kept | None:
        """
        The inventory that waits; None if there is none, or it is not whole.

        Raises:
            OSError: It cannot be read.
        """
        kept = self._load(_KEPT, Kept)
        if kept is None or not kept.made.can_be:
            return None
        limit = DocumentLimits().size
        digests = (kept.document_digest, kept.signature_digest)
        try:
            for name, digest in zip(kept.names, digests, strict=True):
                # It is a name and not a path.
                read_name(name)
                _, data = read_small(self.path(name), limit)
                if hashlib.sha256(data).hexdigest() != digest:
                    return None
        except (FileNotFoundError, ValueError):
            return None
        return kept

    def keep(self, files: UploadFiles, kept: Kept) -> Kept:
        """
        Put an inventory in the place of the one that waits. If this ends in the middle,
        one of them is there, or none, but never a mixture.

        Args:
            files: The inventory.
            kept: What there is to say about it, but for its files.

        Raises:
            OSError: It could not be written; there may be none now.
        """
        kept = attrs.evolve(
            kept,
            document=files.document_name,
            document_digest=hashlib.sha256(files.document).hexdigest(),
            signature=files.signature_name,
            signature_digest=hashlib.sha256(files.signature).hexdigest(),
        )
        ensure_folder(self.folder)
        # First: what is left of a full disk is for the new one.
        self.forget()
        replace_file(self.path(files.signature_name), files.signature)
        replace_file(self.path(files.document_name), files.document)
        replace_file(self.path(_KEPT), _encoded(kept))
        return kept

    def forget(self) -> None:
        """
        Remove the inventory that waits, and whatever else is of no use.

        Raises:
            OSError: It could not be removed.
        """
        with contextlib.suppress(FileNotFoundError):
            # First of all what makes the rest worth anything.
            os.unlink(self.path(_KEPT))
        with contextlib.suppress(FileNotFoundError):
            names = os.listdir(self.folder)
            for name in names:
                if name not in (_SENT, _ASKED):
                    with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                        os.unlink(self.path(name))
            sync_folder(self.folder)

    def acknowledged(self, sent: Sent, asked: str) -> None:
        """
        A server has the inventory that waits.

        Args:
            sent: What is remembered of it.
            asked: The request that it is the answer to; a later one stays.

        Raises:
            OSError: It could not be written.
        """
        ensure_folder(self.folder)
        replace_file(self.path(_SENT), _encoded(sent))
        if asked and self.asked() == asked:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path(_ASKED))
        self.forget()

    def ask(self) -> str:
        """
        Ask for an inventory; returns which request it is.

        Raises:
            OSError: It could not be written.
        """
        request = secrets.token_hex(8)
        ensure_folder(self.folder)
        replace_file(self.path(_ASKED), f"{request}\n".encode())
        return request

    def asked(self) -> str:
        """
        The request for an inventory that has not been served; "" for none. An empty
        file is one, too.

        Raises:
            OSError: It cannot be read.
        """
        try:
            _, data = read_small(self.path(_ASKED))
        except FileNotFoundError:
            return ""
        except ValueError:
            return "?"
        return data.decode("utf-8", "replace").strip() or "?"

    def _load(self, name: str, wanted: type[T]) -> T | None:
        try:
            _, data = read_small(self.path(name))
            return Converter().structure(json.loads(data), wanted)
        except FileNotFoundError:
            return None
        except OSError:
            raise
        except Exception:
            # Damaged, or of another release: as good as none.
            return None


def ask_for_inventory(state_dir: str) -> None:
    """
    Ask the agent with this state folder for an inventory, at its next start or when it
    is told to look.

    Raises:
        OSError: It could not be written.
    """
    Outbox(state_dir).ask()


def _encoded(value: Sent | Kept) -> bytes:
    return json.dumps(attrs.asdict(value), indent=1).encode() + b"\n"
