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

from collections.abc import Callable, Mapping, Sequence
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
    "REPLACED",
    "Entry",
    "HalfTable",
    "IHalves",
    "Offered",
    "Outcome",
    "SharedHalves",
    "Wanted",
]

T = TypeVar("T")

#: For what a signature is claimed, instead of a document, by whoever has a later one of
#: its name: to be put aside.
REPLACED = "replaced"

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
        mark: For which document it was claimed, or `REPLACED`.
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
        stored: Which of them are in the table's keeping, by their places among what was
            offered, and under which numbers. Others are to be offered again: there is
            no room, or another one of the name is claimed and not taken yet.
        replaced: What is in the way of some, and is to be put aside now: claimed for
            `REPLACED`.
    """

    stored: Mapping[int, int]
    replaced: tuple[Offered, ...] = ()


@frozen
class Entry:
    """
    What tells a signature in the table from others.

    Attributes:
        number: Its number in the table.
        name: What both halves have in common in their names.
        digest: SHA-256 of its content.
    """

    number: int
    name: str
    digest: str


class IHalves(Protocol):
    """
    The table, for `nodecomm.inventory.exchange`. Each Deferred fails when the database
    does not answer; whatever was asked may have happened then.
    """

    def start(self) -> Deferred[None]: ...

    def stop(self) -> Deferred[None]: ...

    def offer(
        self, found: Sequence[Offered], owner: str, limit: int
    ) -> Deferred[Outcome]:
        """
        Put signatures that this server has into the table, which holds so many at the
        most.
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
        Whoever has claimed them has stored them, or put them aside.
        """

    def release(self, numbers: Sequence[int]) -> Deferred[None]:
        """
        Whoever has claimed them has no use for them: they wait on.
        """

    def listed(self, after: int, limit: int) -> Deferred[list[Entry]]:
        """
        Some that nobody has asked for and that are worth a word, by their numbers, from
        the next one on.
        """

    def repeated(self, numbers: Sequence[int]) -> Deferred[None]:
        """
        They are of pairs that were decided about, and worth no word.
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

    def offer(self, found: Sequence[Offered], owner: str, limit: int) -> Outcome:
        room = limit - self.count()
        stored: dict[int, int] = {}
        replaced: list[Offered] = []
        for place, each in enumerate(found):
            row = self._execute(
                "SELECT number, state, digest, arrived, repeated, mark FROM halves "
                "WHERE name = :name",
                {"name": each.name.pair},
            ).fetchone()
            was_decided = each.repeated
            if row is None:
                if room <= 0:
                    continue
                room -= 1
            else:
                number, state, digest, arrived, repeated, mark = row
                aside = state == "claimed" and mark == REPLACED
                same = digest == each.digest
                if state == "claimed" and not aside and not same:
                    # It is in the keeping of whoever has claimed it until he is done.
                    continue
                if same and not aside and (state != "taken" or arrived == each.arrived):
                    # It was put in before, and whoever did so died before he knew; or
                    # its sender did not hear that it had arrived.
                    stored[place] = int(number)
                    continue
                if aside or (state == "offered" and not repeated):
                    # Also what another server was about to put aside, which may have
                    # ended: rather twice than never.
                    self._claim(int(number), owner, REPLACED)
                    replaced += self._found("WHERE number = :number", number=number)
                    continue
                was_decided = was_decided or same
            stored[place] = self._put(each, int(was_decided))
        return Outcome(stored, tuple(replaced))

    def _put(self, each: Offered, repeated: int) -> int:
        row = self._execute(
            "INSERT INTO halves (name, number, file, box, address, arrived, content, "
            "digest, state, repeated) VALUES (:name, nextval('half_numbers'), :file, "
            ":box, :address, :arrived, :content, :digest, 'offered', :repeated) "
            "ON CONFLICT (name) DO UPDATE SET number = excluded.number, "
            "file = excluded.file, box = excluded.box, address = excluded.address, "
            "arrived = excluded.arrived, content = excluded.content, "
            "digest = excluded.digest, state = 'offered', "
            "repeated = excluded.repeated, owner = NULL, mark = NULL RETURNING number",
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
        ).fetchone()
        return int(row[0])

    def _claim(self, number: int, owner: str, mark: str) -> None:
        self._execute(
            "UPDATE halves SET state = 'claimed', owner = :owner, mark = :mark "
            "WHERE number = :number",
            {"owner": owner, "mark": mark, "number": number},
        )

    def claim(
        self, wanted: Sequence[Wanted], owner: str, within: float
    ) -> list[Offered]:
        by_name: dict[str, list[Wanted]] = {}
        for each in wanted:
            by_name.setdefault(each.name, []).append(each)
        rows = self._execute(
            "SELECT name, number, arrived FROM halves "
            "WHERE name = ANY(:names) AND state = 'offered'",
            {"names": list(by_name)},
        )
        numbers = []
        for name, number, arrived in list(rows):
            apart, mark = min(
                (abs(each.arrived - arrived), each.mark) for each in by_name[name]
            )
            if apart <= within:
                self._claim(int(number), owner, mark)
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

    def release(self, numbers: Sequence[int]) -> None:
        self._execute(
            "UPDATE halves SET state = 'offered', owner = NULL, mark = NULL "
            "WHERE number = ANY(:numbers) AND state = 'claimed'",
            {"numbers": list(numbers)},
        )

    def listed(self, after: int, limit: int) -> list[Entry]:
        rows = self._execute(
            "SELECT number, name, digest FROM halves "
            "WHERE number > :after AND state = 'offered' AND repeated = 0 "
            "ORDER BY number LIMIT :limit",
            {"after": after, "limit": limit},
        )
        return [Entry(int(number), name, digest) for number, name, digest in rows]

    def repeated(self, numbers: Sequence[int]) -> None:
        self._execute(
            "UPDATE halves SET repeated = 1 "
            "WHERE number = ANY(:numbers) AND state = 'offered'",
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

    def offer(
        self, found: Sequence[Offered], owner: str, limit: int
    ) -> Deferred[Outcome]:
        return self._write(lambda table: table.offer(found, owner, limit))

    def claim(
        self, wanted: Sequence[Wanted], owner: str, within: float
    ) -> Deferred[list[Offered]]:
        return self._write(lambda table: table.claim(wanted, owner, within))

    def claimed(self, owner: str) -> Deferred[list[Offered]]:
        return self._read(lambda table: table.claimed(owner))

    def taken(self, numbers: Sequence[int]) -> Deferred[None]:
        return self._write(lambda table: table.taken(numbers))

    def release(self, numbers: Sequence[int]) -> Deferred[None]:
        return self._write(lambda table: table.release(numbers))

    def listed(self, after: int, limit: int) -> Deferred[list[Entry]]:
        return self._read(lambda table: table.listed(after, limit))

    def repeated(self, numbers: Sequence[int]) -> Deferred[None]:
        return self._write(lambda table: table.repeated(numbers))

    def old(self, before: float, limit: int) -> Deferred[list[Offered]]:
        return self._read(lambda table: table.old(before, limit))

    def count(self) -> Deferred[int]:
        return self._read(lambda table: table.count())

    def forget(self, numbers: Sequence[int], before: float) -> Deferred[None]:
        return self._write(lambda table: table.forget(numbers, before))
