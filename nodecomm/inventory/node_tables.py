# SPDX-License-Identifier: MIT
"""
The tables of nodes, and every statement about them.

The statements are SQL that SQLite and PostgreSQL understand alike, with parameters by
name; what makes the tables, what begins a transaction and how a parameter is written is
in the module of each database (`nodecomm.inventory.node_sqlite`). Columns are what is
searched; the rest of a node is one text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from nodecomm.identity.accepted import WithdrawnKey
from nodecomm.identity.keys import PublicKey
from nodecomm.inventory.node_text import decode_node, encode_node
from nodecomm.inventory.nodes import Event, KeptDocument, Node, OtherNode, Status
from nodecomm.storage.database import DatabaseDamaged

__all__ = ["Execute", "NodeTables"]

#: Executes a statement with its parameters, which it has as `:name`, and gives the
#: rows of a SELECT.
Execute = Callable[[str, Mapping[str, Any]], Iterable[Sequence[Any]]]

_NODE = "SELECT node_id, status, since, record FROM nodes"


class NodeTables:
    """
    The `nodecomm.inventory.records.Records` in SQL tables.

    Args:
        execute: Executes a statement, within a transaction.
    """

    def __init__(self, execute: Execute) -> None:
        self._execute = execute

    def _nodes(self, where: str, **parameters: Any) -> list[Node]:
        try:
            rows = self._execute(f"{_NODE} {where}", parameters)
        except UnicodeEncodeError:
            # Asked for by a name of bytes that are no text, which no node has.
            return []
        return [_decoded(*row) for row in rows]

    def _one(self, statement: str, **parameters: Any) -> Sequence[Any] | None:
        return next(iter(self._execute(statement, parameters)), None)

    def _do(self, statement: str, **parameters: Any) -> None:
        self._execute(statement, parameters)

    def node(self, node_id: str) -> Node | None:
        found = self._nodes("WHERE id = :id", id=_id(node_id))
        return found[0] if found else None

    def nodes(self, *statuses: Status) -> list[Node]:
        if not statuses:
            return self._nodes("ORDER BY id")
        names = {f"status{place}": x.value for place, x in enumerate(statuses)}
        listed = ", ".join(f":{name}" for name in names)
        return self._nodes(f"WHERE status IN ({listed}) ORDER BY id", **names)

    def with_key(self, key: PublicKey) -> list[Node]:
        found = self._nodes("WHERE key_digest = :digest ORDER BY id", digest=key.sha)
        return [node for node in found if node.key == key]

    def with_hostname(self, hostname: str) -> list[Node]:
        name = hostname.lower()
        return self._nodes("WHERE hostname = :name ORDER BY id", name=name)

    def count(self, status: Status) -> int:
        statement = "SELECT count(*) FROM nodes WHERE status = :status"
        row = self._one(statement, status=status.value)
        return 0 if row is None else int(row[0])

    def save(self, node: Node) -> None:
        self._do(
            "INSERT INTO nodes (id, node_id, status, since, key_digest, hostname, "
            "record) VALUES (:id, :node_id, :status, :since, :key_digest, :hostname, "
            ":record) ON CONFLICT (id) DO UPDATE SET node_id = excluded.node_id, "
            "status = excluded.status, since = excluded.since, "
            "key_digest = excluded.key_digest, hostname = excluded.hostname, "
            "record = excluded.record",
            id=_id(node.node_id),
            node_id=node.node_id,
            status=node.status.value,
            since=node.since.isoformat(),
            key_digest=None if node.key is None else node.key.sha,
            hostname=None if node.hostname is None else node.hostname.lower(),
            record=encode_node(node),
        )

    def removed_before(self, when: datetime, limit: int) -> list[str]:
        # Moments are all in UTC, and compare as texts.
        rows = self._execute(
            "SELECT node_id FROM nodes WHERE status IN (:deleted, :refused) "
            "AND since < :before AND (id IN (SELECT id FROM events) "
            "OR id IN (SELECT id FROM documents)) ORDER BY since LIMIT :most",
            {
                "deleted": Status.DELETED.value,
                "refused": Status.REFUSED.value,
                "before": when.astimezone(timezone.utc).isoformat(),
                "most": limit,
            },
        )
        return [node_id for (node_id,) in rows]

    def strip(self, node_id: str) -> None:
        self._do("DELETE FROM documents WHERE id = :id", id=_id(node_id))
        self._do("DELETE FROM events WHERE id = :id", id=_id(node_id))

    def document(self, node_id: str) -> KeptDocument | None:
        row = self._one(
            "SELECT document, signature FROM documents WHERE id = :id", id=_id(node_id)
        )
        if row is None:
            return None
        packed, signature = row
        kept = None if signature is None else bytes(signature)
        return KeptDocument(bytes(packed), kept)

    def save_document(self, node_id: str, document: KeptDocument) -> None:
        self._do(
            "INSERT INTO documents (id, document, signature) VALUES (:id, :document, "
            ":signature) ON CONFLICT (id) DO UPDATE SET document = excluded.document, "
            "signature = excluded.signature",
            id=_id(node_id),
            document=document.packed,
            signature=document.signature,
        )

    def events(self, node_id: str) -> list[Event]:
        rows = self._execute(
            "SELECT happened, what, who, words FROM events WHERE id = :id "
            "ORDER BY number",
            {"id": _id(node_id)},
        )
        return [
            Event(datetime.fromisoformat(happened), what, who, words)
            for happened, what, who, words in rows
        ]

    def add_event(self, node_id: str, event: Event, limit: int) -> None:
        key = _id(node_id)
        row = self._one("SELECT max(number) FROM events WHERE id = :id", id=key)
        number = 1 + (0 if row is None else row[0] or 0)
        self._do(
            "INSERT INTO events (id, number, happened, what, who, words) "
            "VALUES (:id, :number, :happened, :what, :who, :words)",
            id=key,
            number=number,
            happened=event.when.isoformat(),
            what=event.what,
            who=event.by,
            words=event.text,
        )
        self._do(
            "DELETE FROM events WHERE id = :id AND number <= :gone",
            id=key,
            gone=number - limit,
        )

    def generation(self) -> int:
        row = self._one("SELECT value FROM counters WHERE name = 'generation'")
        return 0 if row is None else int(row[0])

    def advance(self, node_id: str) -> None:
        self._do("UPDATE counters SET value = value + 1 WHERE name = 'generation'")
        self._do(
            "UPDATE nodes SET changed = (SELECT value FROM counters "
            "WHERE name = 'generation') WHERE id = :id",
            id=_id(node_id),
        )

    def changed_since(self, generation: int) -> tuple[list[Node], list[OtherNode]]:
        # Few of many, which only the index of changes finds at once: SQLite takes it
        # neither beside `status = ` nor for an order.
        parameters = {"generation": generation, "accepted": Status.ACCEPTED.value}
        accepted = self._nodes(
            "WHERE changed > :generation AND (status = :accepted) IS TRUE", **parameters
        )
        rows = self._execute(
            "SELECT node_id, status, key_digest FROM nodes "
            "WHERE changed > :generation AND (status = :accepted) IS FALSE",
            parameters,
        )
        accepted.sort(key=lambda node: _id(node.node_id))
        return accepted, [
            OtherNode(node_id, Status(status), digest)
            for node_id, status, digest in sorted(rows, key=lambda row: _id(row[0]))
        ]

    def withdraw(
        self, node_id: str, key: PublicKey, what: str, when: datetime, limit: int
    ) -> None:
        node, text = _id(node_id), f"{key.modulus:x}:{key.exponent:x}"
        self._do("UPDATE counters SET value = value + 1 WHERE name = 'withdrawn'")
        self._do(
            "DELETE FROM withdrawn WHERE id = :id AND key_text = :key_text",
            id=node,
            key_text=text,
        )
        self._do(
            "INSERT INTO withdrawn (number, id, node_id, key_text, what, happened) "
            "VALUES (:number, :id, :node_id, :key_text, :what, :happened)",
            number=self.withdrawals(),
            id=node,
            node_id=node_id,
            key_text=text,
            what=what,
            happened=when.isoformat(),
        )
        self._do(
            "DELETE FROM withdrawn WHERE id = :id AND number NOT IN (SELECT number "
            "FROM withdrawn WHERE id = :id ORDER BY number DESC LIMIT :kept)",
            id=node,
            kept=limit,
        )

    def withdrawals(self) -> int:
        row = self._one("SELECT value FROM counters WHERE name = 'withdrawn'")
        return 0 if row is None else int(row[0])

    def withdrawn_since(self, number: int) -> list[WithdrawnKey]:
        rows = self._execute(
            "SELECT number, node_id, key_text, what, happened FROM withdrawn "
            "WHERE number > :number ORDER BY number",
            {"number": number},
        )
        return [
            WithdrawnKey(
                int(place), node_id, _key(text), what, datetime.fromisoformat(happened)
            )
            for place, node_id, text, what, happened in rows
        ]


def _decoded(node_id: str, status: str, since: str, record: str) -> Node:
    try:
        moment = datetime.fromisoformat(since)
        return decode_node(node_id, Status(status), moment, str(record))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        msg = f"what is kept of node {node_id} is damaged: restore it from a copy"
        raise DatabaseDamaged(msg) from error


def _key(text: str) -> PublicKey:
    modulus, _, exponent = text.partition(":")
    return PublicKey(int(modulus, 16), int(exponent, 16))


def _id(node_id: str) -> str:
    return node_id.strip().lower()
