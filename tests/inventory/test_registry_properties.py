# SPDX-License-Identifier: MIT
"""
What holds of a registry whatever happens to it, and in whichever order.
"""

from __future__ import annotations

import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from functools import lru_cache, partial
from pathlib import Path

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from nodecomm.identity.keys import PublicKey
from nodecomm.inventory.judgement import Known, Outcome, Taken
from nodecomm.inventory.keys import AgentKey
from nodecomm.inventory.lifecycle import (
    Accept,
    Block,
    Decision,
    Delete,
    Lift,
    NotPossible,
    Refuse,
    Register,
    ResetDate,
    SetKey,
    TrustAgain,
)
from nodecomm.inventory.model import Refusal
from nodecomm.inventory.node_sqlite import open_nodes
from nodecomm.inventory.node_text import decode_node, encode_node
from nodecomm.inventory.nodes import (
    Alternation,
    Conflict,
    Facts,
    Machine,
    Node,
    Rejected,
    Status,
)
from nodecomm.inventory.records import (
    ReadDocument,
    Received,
    Records,
    news,
    put_decision,
    put_document,
    read_files,
)
from nodecomm.inventory.signature import sign
from nodecomm.testing.nodes import _MemoryRecords
from tests.identity.sample import key, pair
from tests.inventory.documents import (
    NODE,
    OTHER_NODE,
    REAL,
    WRITTEN,
    certificate,
    document,
    node_document,
    real,
    rudder,
)
from tests.inventory.documents import agent as agent_section

MINUTE = timedelta(minutes=1)

IDS = (NODE, OTHER_NODE)
KEYS = (0, 1)


@lru_cache(maxsize=256)
def sent(node_id: str, own: int, signer: int, minute: int) -> ReadDocument:
    """
    A document of a node with a key, signed by one.
    """
    data = node_document(pair(own), WRITTEN + minute * MINUTE, node_id=node_id)
    return read_files(data, sign(data, pair(signer)))


DECISIONS: tuple[Callable[[str, int], Decision], ...] = (
    lambda node_id, number: Accept(node_id, duplicate_hostname=True),
    lambda node_id, number: Accept(node_id, key(number).md5, duplicate_hostname=True),
    lambda node_id, number: Refuse(node_id),
    lambda node_id, number: Delete(node_id),
    lambda node_id, number: Block(node_id),
    lambda node_id, number: Lift(node_id),
    lambda node_id, number: TrustAgain(node_id),
    lambda node_id, number: ResetDate(node_id),
    lambda node_id, number: SetKey(node_id, AgentKey(key(number))),
    lambda node_id, number: Register(node_id, AgentKey(key(number))),
)

Step = Callable[[Records, datetime], Received | Node]

documents = st.builds(
    lambda *x: lambda records, now: put_document(records, sent(*x), now),
    st.sampled_from(IDS),
    st.sampled_from(KEYS),
    st.sampled_from(KEYS),
    st.integers(0, 3),
)
decisions = st.builds(
    lambda make, node_id, number: (
        lambda records, now: (
            put_decision(records, make(node_id, number), now, "alice").node
        )
    ),
    st.sampled_from(DECISIONS),
    st.sampled_from(IDS),
    st.sampled_from(KEYS),
)


def outcome(work: Callable[[], Received | Node]) -> object:
    """
    What a step gives, or the reason why it gives nothing.
    """
    try:
        return work()
    except NotPossible as error:
        return error.code


def then(step: Step, now: datetime, records: Records) -> Received | Node:
    """
    A step, at a time that is known before what it is about.
    """
    return step(records, now)


def everything(records: Records) -> object:
    """
    All that is kept.
    """
    return [
        records.nodes(),
        records.generation(),
        [(records.document(x), list(records.events(x))) for x in IDS],
        news(records, -1, 0),
        [news(records, x, 1) for x in range(records.generation())],
    ]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(documents, decisions), min_size=3, max_size=14))
def test_any_order(steps: list[Step]) -> None:
    """
    Whatever documents come and whatever is decided: no two accepted nodes have one key;
    what follows from anybody changes only with the generation, and the news tell whose;
    no key of a node is among those that it had before; what has signed goes on having
    signed; and SQLite keeps the same as the memory.
    """
    memory = _MemoryRecords()
    with (
        tempfile.TemporaryDirectory() as folder,
        open_nodes(Path(folder) / "nodes.sqlite") as run,
    ):
        for place, step in enumerate(steps):
            now = WRITTEN + (4 + place) * MINUTE
            before = {node.node_id: node for node in memory.nodes()}
            generation = memory.generation()
            found = outcome(partial(step, memory, now))
            same = outcome(partial(run, partial(then, step, now), True))
            if isinstance(found, Received) and isinstance(same, Received):
                assert found.judgement == same.judgement
                assert found.node == same.node
            else:
                assert found == same
            check(memory, before, generation)
        assert everything(memory) == run(everything, False)


def check(records: Records, before: dict[str, Node], generation: int) -> None:
    """
    What always holds.
    """
    after = records.nodes()
    accepted = [x.key for x in after if x.status is Status.ACCEPTED and x.key]
    assert len(set(accepted)) == len(accepted)
    changed = [
        x.node_id
        for x in after
        if x.node_id not in before or x.follows != before[x.node_id].follows
    ]
    assert len(changed) <= 2  # accepted as soon as it came
    told = news(records, generation, 0)
    ids = [x.node_id for x in told.accepted] + [x.node_id for x in told.others]
    assert sorted(ids) == changed
    assert bool(changed) == (records.generation() > generation)
    for name, node in before.items():
        # A key that was accepted, or had signed, and is the node's no more.
        now = next(x for x in after if x.node_id == name)
        if node.key is not None and node.opens is not None and now.opens is None:
            assert (name, node.key) in [(x.node_id, x.key) for x in told.withdrawn]
    for node in after:
        assert node.key not in node.known.refused_keys
        earlier = before.get(node.node_id)
        if earlier is None:
            continue
        assert node.known.signed >= earlier.known.signed
        assert records.events(node.node_id)
        if node.key != earlier.key or node.status is not earlier.status:
            assert node.opens is None or node.opens != earlier.opens


#: Those that documents have: UTC, and so many minutes from it.
zones = st.integers(-1439, 1439).map(lambda x: timezone(timedelta(minutes=x)))
moments = st.datetimes(timezones=zones)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
keys = st.builds(PublicKey, st.integers(1, 2**80), st.integers(1, 2**20))
machines = st.builds(Machine, texts, st.none() | texts, texts)
nodes = st.builds(
    Node,
    st.builds(
        Known,
        st.just(NODE),
        key=st.none() | keys,
        signed=st.booleans(),
        last=st.none() | moments,
        taken=st.lists(
            st.builds(Taken, texts, moments, st.none() | keys), max_size=3
        ).map(tuple),
        refused_keys=st.lists(keys, max_size=3).map(tuple),
    ),
    st.sampled_from(Status),
    moments,
    st.none()
    | st.builds(
        Facts,
        *(texts,) * 6,
        st.lists(texts, max_size=3).map(tuple),
        texts,
        st.none() | texts,
        st.booleans(),
    ),
    st.none() | moments,
    st.lists(machines, max_size=3).map(tuple),
    st.none() | st.builds(Conflict, moments, texts, texts),
    st.none() | st.builds(Alternation, moments, machines, machines),
    st.none() | st.builds(Rejected, moments, st.builds(Refusal, texts, texts, texts)),
)


@settings(max_examples=60, deadline=None)
@given(nodes)
def test_text_and_back(node: Node) -> None:
    """
    A node is read from its text as it was.
    """
    text = encode_node(node)

    assert decode_node(NODE, node.status, node.since, text) == node


def test_long_refusals() -> None:
    """
    What was quoted of a document that nobody believes is kept in part.
    """
    refusal = Refusal("not-inventory", "x" * 100_000, "y" * 100_000)
    node = Node(Known(NODE), Status.PENDING, WRITTEN)
    node = evolve(node, rejected=Rejected(WRITTEN, refusal))
    text = encode_node(node)

    assert len(text) < 5000
    found = decode_node(NODE, node.status, node.since, text).rejected
    assert found is not None
    assert found.refusal.text == "x" * 2000


def test_text_of_an_older_release() -> None:
    """
    What is missing in a text is missing in the node.
    """
    node = decode_node(NODE, Status.BLOCKED, WRITTEN, "{}")

    assert node == Node(Known(NODE), Status.BLOCKED, WRITTEN)


@pytest.mark.parametrize("name", REAL)
def test_real_documents(name: str) -> None:
    """
    The real pairs make nodes that can be accepted when they are of that day, and are
    too old today. Without their signatures, or with those of each other, they are
    refused.
    """
    data, signature = real(name)
    other = next(real(x)[1] for x in REAL if x != name)
    records = _MemoryRecords()
    written = read_files(data, signature).inventory
    assert written is not None
    assert written.written is not None
    now = written.written + MINUTE

    def code(signed: bytes | None, when: datetime) -> str | None:
        found = put_document(records, read_files(data, signed), when)
        refusal = found.judgement.refusal
        return refusal.code if refusal else None

    assert code(None, now) == "no-signature"
    assert code(other, now) == "bad-signature"
    assert code(signature, now + timedelta(days=3)) == "too-old"
    assert records.nodes() == []
    assert code(signature, now) is None
    node_id, digest = REAL[name]
    node = put_decision(records, Accept(node_id, digest), now, "alice").node
    assert node.status is Status.ACCEPTED


@contextmanager
def threads(work: Callable[[int], None], count: int) -> Iterator[None]:
    """
    So many threads that each do something, joined at the end.
    """
    started = [threading.Thread(target=work, args=(x,)) for x in range(count)]
    for thread in started:
        thread.start()
    yield
    for thread in started:
        thread.join()


def test_at_once(tmp_path: Path) -> None:
    """
    Of several processes that take one document at once, one does, and the others find
    that it was done; of two that accept two nodes with one key, one does.
    """
    path = tmp_path / "nodes.sqlite"
    outcomes: list[Outcome] = []
    decided: list[object] = []
    barrier = threading.Barrier(4, timeout=60)

    def take(number: int) -> None:
        with open_nodes(path) as run:
            barrier.wait()
            read = sent(NODE, 0, 0, 0)
            found = run(lambda x: put_document(x, read, WRITTEN + MINUTE), True)
            outcomes.append(found.judgement.outcome)

    def accept(number: int) -> None:
        with open_nodes(path) as run:
            barrier.wait()
            wanted = Accept(IDS[number % 2], duplicate_hostname=True)
            by = f"process {number}"
            decided.append(
                outcome(
                    lambda: run(
                        lambda x: put_decision(x, wanted, WRITTEN, by).node, True
                    )
                )
            )

    with threads(take, 4):
        pass
    assert sorted(x.value for x in outcomes) == ["repeated"] * 3 + ["taken"]
    with open_nodes(path) as run:
        read = sent(OTHER_NODE, 0, 0, 0)
        run(lambda x: put_document(x, read, WRITTEN + MINUTE), True)
    with threads(accept, 4):
        pass
    assert decided.count("key-in-use") == 2
    with open_nodes(path) as run:
        assert run(lambda x: x.count(Status.ACCEPTED), False) == 1
        assert run(lambda x: x.generation(), False) == 3


def test_odd_texts(tmp_path: Path) -> None:
    """
    What documents say is kept, whatever characters it is of.
    """
    owner = "O'Neil \\ \u202e \U0001f600 -- ; DROP"
    own = agent_section(certificate=certificate(pair()), owner=owner)
    data = document(rudder(own))
    read = read_files(data, sign(data, pair()))
    with open_nodes(tmp_path / "nodes.sqlite") as run:
        run(lambda x: put_document(x, read, WRITTEN + MINUTE), True)
        facts = run(lambda x: x.node(NODE), False).facts

    assert read.inventory is not None
    assert facts.owner == read.inventory.owner
    assert "O'Neil" in facts.owner


def test_a_broken_table_fails(tmp_path: Path) -> None:
    """
    An error of the database is an error, and not an empty answer.
    """
    path = tmp_path / "nodes.sqlite"
    with open_nodes(path):
        pass
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE nodes")
    connection.close()

    with open_nodes(path) as run, pytest.raises(sqlite3.OperationalError):
        run(lambda x: x.nodes(), False)
