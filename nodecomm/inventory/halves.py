# SPDX-License-Identifier: MIT
"""
Signatures whose document arrived at another server: a table in the database that
servers share, through which the halves of an inventory meet.

A signature that waits for its document is put into the table, and is in the table's
keeping from then on. The server that has the document claims it, stores it beside the
document and says so; until then the table keeps it. Whichever of them is killed, at any
moment, does the same step again when it is back: nothing is lost, and one server alone
has both halves. Documents never go through the table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from attrs import frozen
from twisted.internet.defer import Deferred

from nodecomm.inventory.names import UploadName, read_name
from nodecomm.inventory.pairs import Box, Sender
from nodecomm.storage.migrations import Connection
from nodecomm.storage.postgres import Area
from nodecomm.storage.postgres_database import PostgresDatabase
from nodecomm.storage.postgres_place import PostgresPlace

__all__ = [
    "HALVES",
    "HalfTable",
    "IHalves",
    "Offered",
    "Outcome",
    "SharedHalves",
    "Wanted",
]

T = TypeVar("T")

#: The tables.
HALVES = Area(
    "halves",
    3,
    (
        (
            # One row for each name that both halves have in common. `number` grows with
            # everything that is put in; `arrived` is in seconds since 1970.
            """
            CREATE TABLE halves (
                name TEXT COLLATE "C" PRIMARY KEY,
                number BIGINT NOT NULL UNIQUE,
                file TEXT NOT NULL,
                box TEXT NOT NULL,
                address TEXT NOT NULL,
                arrived DOUBLE PRECISION NOT NULL,
                content BYTEA NOT NULL,
                digest TEXT NOT NULL,
                state TEXT NOT NULL CHECK (state IN ('offered', 'claimed', 'taken')),
                repeated INTEGER NOT NULL,
                owner TEXT,
                mark TEXT
            )
            """,
            "CREATE INDEX halves_by_owner ON halves (owner)",
            "CREATE INDEX halves_by_time ON halves (arrived)",
            "CREATE SEQUENCE half_numbers",
        ),
    ),
)


@frozen
class Offered:
    """
    A signature in the table, or on its way into it.

    Attributes:
        name: What its sender has called it.
        sender: Where it came from.
        arrived: When, in seconds since 1970.
        content: What is in it.
        digest: SHA-256 of that.
        number: Its number in the table.
        mark: For which document it was claimed.
        repeated: Whether it was decided about before: it is sent again, and is worth no
            word when nobody asks for it.
    """

    name: UploadName
    sender: Sender
    arrived: float
    content: bytes
    digest: str
    number: int = 0
    mark: str = ""
    repeated: bool = False


@frozen
class Wanted:
    """
    A document that waits for its signature.

    Attributes:
        name: What both have in common in their names.
        arrived: When it arrived, in seconds since 1970.
        mark: What tells this document from another one of its name.
    """

    name: str
    arrived: float
    mark: str


@frozen
class Outcome:
    """
    What became of signatures that were offered.

    Attributes:
        stored: How many of them, from the first one on, are in the table's keeping; for
            others there is no room.
        replaced: What made room, under the same names, and is in nobody's keeping now.
    """

    stored: int
    replaced: tuple[Offered, ...] = ()


class IHalves(Protocol):
    """
    The table, for `nodecomm.inventory.exchange`. Each Deferred fails when the database
    does not answer; whatever was asked may have happened then.
    """

    def start(self) -> Deferred[None]: ...

    def stop(self) -> Deferred[None]: ...

    def offer(self, found: Sequence[Offered], limit: int) -> Deferred[Outcome]:
        """
        Put signatures into the table, which holds so many at the most.
        """

    def claim(
        self, wanted: Sequence[Wanted], owner: str, within: float
    ) -> Deferred[list[Offered]]:
        """
        Signatures of documents that this server has, which arrived within so many
        seconds of them. Nobody else gets them.
        """

    def claimed(self, owner: str) -> Deferred[list[Offered]]:
        """
        What this server has claimed and said no more about.
        """

    def taken(self, numbers: Sequence[int]) -> Deferred[None]:
        """
        Whoever has claimed them has stored them.
        """

    def old(self, before: float, limit: int) -> Deferred[list[Offered]]:
        """
        Some of those that arrived earlier and that nobody has asked for, the oldest
        first.
        """

    def count(self) -> Deferred[int]:
        """
        How many there are.
        """

    def forget(self, numbers: Sequence[int], before: float) -> Deferred[None]:
        """
        Remove some, and what else was done with before that time.
        """


_COLUMNS = "file, box, address, arrived, content, digest, number, mark"


class HalfTable:
    """
    The statements. Each method is within a transaction.
    """

    def __init__(self, connection: Connection) -> None:
        self._execute = connection.execute

    def _found(self, where: str, **parameters: Any) -> list[Offered]:
        rows = self._execute(f"SELECT {_COLUMNS} FROM halves {where}", parameters)  # noqa: S608
        return [
            Offered(
                read_name(file),
                Sender(Box(box), address),
                float(arrived),
                bytes(content),
                digest,
                int(number),
                mark or "",
            )
            for file, box, address, arrived, content, digest, number, mark in rows
        ]

    def offer(self, found: Sequence[Offered], limit: int) -> Outcome:
        room = limit - self.count()
        replaced: list[Offered] = []
        for place, each in enumerate(found):
            row = self._execute(
                "SELECT state, digest, arrived FROM halves WHERE name = :name",
                {"name": each.name.pair},
            ).fetchone()
            repeated = int(each.repeated)
            if row is None:
                if room <= 0:
                    return Outcome(place, tuple(replaced))
                room -= 1
            else:
                state, digest, arrived = row
                same = digest == each.digest
                if same and (state != "taken" or arrived == each.arrived):
                    # It was put in before, and whoever did so died before he knew; or
                    # its sender did not hear that it had arrived.
                    continue
                repeated = int(each.repeated or same)
                if state == "offered":
                    replaced += self._found("WHERE name = :name", name=each.name.pair)
            self._put(each, repeated)
        return Outcome(len(found), tuple(replaced))

    def _put(self, each: Offered, repeated: int) -> None:
        self._execute(
            "INSERT INTO halves (name, number, file, box, address, arrived, content, "
            "digest, state, repeated) VALUES (:name, nextval('half_numbers'), :file, "
            ":box, :address, :arrived, :content, :digest, 'offered', :repeated) "
            "ON CONFLICT (name) DO UPDATE SET number = excluded.number, "
            "file = excluded.file, box = excluded.box, address = excluded.address, "
            "arrived = excluded.arrived, content = excluded.content, "
            "digest = excluded.digest, state = 'offered', "
            "repeated = excluded.repeated, owner = NULL, mark = NULL",
            {
                "name": each.name.pair,
                "file": each.name.text,
                "box": each.sender.box.value,
                "address": each.sender.address,
                "arrived": each.arrived,
                "content": each.content,
                "digest": each.digest,
                "repeated": repeated,
            },
        )

    def claim(
        self, wanted: Sequence[Wanted], owner: str, within: float
    ) -> list[Offered]:
        by_name = {each.name: each for each in wanted}
        rows = self._execute(
            "SELECT name, number, arrived FROM halves "
            "WHERE name = ANY(:names) AND state = 'offered'",
            {"names": list(by_name)},
        )
        numbers = []
        for name, number, arrived in list(rows):
            want = by_name[name]
            if abs(want.arrived - arrived) <= within:
                self._execute(
                    "UPDATE halves SET state = 'claimed', owner = :owner, "
                    "mark = :mark WHERE number = :number",
                    {"owner": owner, "mark": want.mark, "number": number},
                )
                numbers.append(int(number))
        if not numbers:
            return []
        return self._found("WHERE number = ANY(:numbers)", numbers=numbers)

    def claimed(self, owner: str) -> list[Offered]:
        where = "WHERE owner = :owner AND state = 'claimed' ORDER BY number"
        return self._found(where, owner=owner)

    def taken(self, numbers: Sequence[int]) -> None:
        # The row stays for a while, for whoever has put it in and died before he knew.
        self._execute(
            "UPDATE halves SET state = 'taken', content = '', owner = NULL "
            "WHERE number = ANY(:numbers) AND state = 'claimed'",
            {"numbers": list(numbers)},
        )

    def old(self, before: float, limit: int) -> list[Offered]:
        return self._found(
            "WHERE arrived < :before AND state <> 'taken' AND repeated = 0 "
            "ORDER BY arrived LIMIT :limit",
            before=before,
            limit=limit,
        )

    def count(self) -> int:
        row = self._execute("SELECT count(*) FROM halves", {}).fetchone()
        return int(row[0])

    def forget(self, numbers: Sequence[int], before: float) -> None:
        self._execute(
            "DELETE FROM halves WHERE number = ANY(:numbers) "
            "OR (arrived < :before AND (state = 'taken' OR repeated = 1))",
            {"numbers": list(numbers), "before": before},
        )


class SharedHalves:
    """
    The table in PostgreSQL, whose work is done on a thread.

    Args:
        place: Where it is.
        reactor: Where results arrive.
        options: As for `nodecomm.storage.postgres_database.PostgresDatabase`.
    """

    def __init__(self, place: PostgresPlace, reactor: Any, **options: Any) -> None:
        self.database = PostgresDatabase(place, HALVES, reactor, **options)

    def start(self) -> Deferred[None]:
        return self.database.start()

    def stop(self) -> Deferred[None]:
        return self.database.stop()

    def _write(self, work: Callable[[HalfTable], T]) -> Deferred[T]:
        return self.database.write(lambda connection: work(HalfTable(connection)))

    def _read(self, work: Callable[[HalfTable], T]) -> Deferred[T]:
        return self.database.read(lambda connection: work(HalfTable(connection)))

    def offer(self, found: Sequence[Offered], limit: int) -> Deferred[Outcome]:
        return self._write(lambda table: table.offer(found, limit))

    def claim(
        self, wanted: Sequence[Wanted], owner: str, within: float
    ) -> Deferred[list[Offered]]:
        return self._write(lambda table: table.claim(wanted, owner, within))

    def claimed(self, owner: str) -> Deferred[list[Offered]]:
        return self._read(lambda table: table.claimed(owner))

    def taken(self, numbers: Sequence[int]) -> Deferred[None]:
        return self._write(lambda table: table.taken(numbers))

    def old(self, before: float, limit: int) -> Deferred[list[Offered]]:
        return self._read(lambda table: table.old(before, limit))

    def count(self) -> Deferred[int]:
        return self._read(lambda table: table.count())

    def forget(self, numbers: Sequence[int], before: float) -> Deferred[None]:
        return self._write(lambda table: table.forget(numbers, before))
