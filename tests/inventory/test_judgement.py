# SPDX-License-Identifier: MIT
"""
Which documents are believed.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from nodecomm.identity.keys import KeyPair, PublicKey
from nodecomm.inventory.document import read_document
from nodecomm.inventory.judgement import (
    MAX_CHANGES,
    MAX_TAKEN,
    Judgement,
    Known,
    Outcome,
    Rules,
    Signatures,
    judge,
    judge_files,
    known_after,
)
from nodecomm.inventory.signature import sign
from tests.identity.sample import key, pair
from tests.inventory.documents import (
    DAY,
    NODE,
    OTHER_NODE,
    REAL,
    WRITTEN,
    agent,
    certificate,
    document,
    node_document,
    real,
    rudder,
)

MINUTE = timedelta(minutes=1)
COMPAT = Rules(signatures=Signatures.COMPAT)


class Registry:
    """
    What is known of nodes, as whoever keeps it would.
    """

    def __init__(self, rules: Rules | None = None) -> None:
        self.rules = rules or Rules()
        self.now = WRITTEN + MINUTE
        self.nodes: dict[str, Known] = {}

    def find(self, node_id: str) -> Known | None:
        """
        A node in any case.
        """
        return self.nodes.get(node_id.lower())

    def receive(self, data: bytes, signature: bytes | None) -> Judgement:
        """
        Judge a pair, and put that in force.
        """
        found = judge_files(data, signature, self.find, self.now, self.rules)
        if found.inventory is not None:
            node_id = found.inventory.node_id
            after = known_after(self.find(node_id), found, self.now, self.rules)
            if after is not None:
                self.nodes[node_id.lower()] = after
        return found

    def signed(self, data: bytes, by: KeyPair) -> Judgement:
        """
        Receive a document that this key signs.
        """
        return self.receive(data, sign(data, by))

    def change(self, **values: Any) -> None:
        """
        What an operator changes about the node.
        """
        self.nodes[NODE] = evolve(self.nodes[NODE], **values)


def code(found: Judgement) -> str:
    """
    What became of a document, or why it was refused.
    """
    assert (found.outcome is Outcome.REFUSED) == (found.refusal is not None)
    return found.refusal.code if found.refusal else found.outcome.value


def node(registry: Registry) -> Known:
    """
    What is known of the one node.
    """
    (found,) = registry.nodes.values()
    return found


@pytest.mark.parametrize("name", REAL)
def test_real_pairs(name: str) -> None:
    """
    Real pairs are believed at their date, and too old today.
    """
    data, signature = real(name)
    written = read_document(data).written
    assert written is not None
    then, today = Registry(), Registry()
    then.now = written + MINUTE
    today.now = written + 500 * DAY

    assert code(then.receive(data, signature)) == "taken"
    assert node(then).key is not None
    assert node(then).key.md5 == REAL[name][1]  # type: ignore[union-attr]
    assert code(then.receive(data, signature)) == "repeated"
    assert code(today.receive(data, signature)) == "too-old"
    assert code(today.receive(data, None)) == "no-signature"
    assert code(today.receive(data + b"\n", signature)) == "bad-signature"
    assert today.nodes == {}


def test_new_node() -> None:
    """
    A node that is not known is believed with the key that it brings and proves to have.
    """
    registry = Registry()
    found = registry.signed(node_document(pair()), pair())

    assert code(found) == "taken"
    assert found.signer == key()
    assert found.key is not None
    assert found.key.key == key()
    assert found.former_key is None
    assert node(registry) == Known(
        NODE, key=key(), signed=True, last=WRITTEN, taken=node(registry).taken
    )
    assert node(registry).taken[0].digest == found.digest


def test_crossed() -> None:
    """
    A new node whose document is signed with another key is not believed.
    """
    assert code(Registry().signed(node_document(pair()), pair(1))) == "bad-signature"


@pytest.mark.parametrize("key_alone", [True, False])
def test_next_inventory(key_alone: bool) -> None:
    """
    The next inventory is checked with the key of the previous one, in either form.
    """
    registry = Registry()
    registry.signed(node_document(pair(), key_alone=key_alone), pair())
    data = node_document(pair(), WRITTEN + MINUTE, key_alone=key_alone)

    assert code(registry.signed(data, pair(1))) == "bad-signature"
    assert code(registry.signed(data, pair())) == "taken"
    assert node(registry).last == WRITTEN + MINUTE


def test_id_in_another_case() -> None:
    """
    An id in another case is the same node.
    """
    registry = Registry()
    registry.signed(node_document(pair()), pair())
    data = node_document(pair(1), WRITTEN + MINUTE, node_id=NODE.upper())

    assert code(registry.signed(data, pair(1))) == "id-conflict"
    assert code(registry.signed(data, pair())) == "taken"
    assert list(registry.nodes) == [NODE]


def test_key_in_another_container() -> None:
    """
    The same key in a certificate, or on its own, is no change of the key.
    """
    registry = Registry()
    for minutes, alone in enumerate((True, False, True)):
        data = node_document(pair(), WRITTEN + minutes * MINUTE, key_alone=alone)
        found = registry.signed(data, pair())

        assert code(found) == "taken"
        assert found.former_key is None


def test_new_key_of_the_same_node() -> None:
    """
    Another machine with a known id, or a node that has lost its key, is told apart from
    a document that was altered: the reason names both keys.
    """
    registry = Registry()
    registry.signed(node_document(pair()), pair())
    before = node(registry)
    found = registry.signed(node_document(pair(1), WRITTEN + MINUTE), pair(1))

    assert (code(found), found.signer) == ("id-conflict", key(1))
    assert found.refusal is not None
    assert key().md5 in found.refusal.text
    assert key(1).md5 in found.refusal.text
    assert node(registry) == before


def test_key_change() -> None:
    """
    A key changes when the old one signs the document and the new one the certificate;
    then the old one is refused.
    """
    registry = Registry()
    registry.signed(node_document(pair()), pair())
    change = node_document(pair(1), WRITTEN + MINUTE)
    found = registry.signed(change, pair())

    assert code(found) == "taken"
    assert found.signer == found.former_key == key()
    assert found.key is not None
    assert found.key.key == key(1)
    assert node(registry).refused_keys == (key(),)
    # The change itself may be sent again.
    assert code(registry.signed(change, pair())) == "repeated"
    assert code(registry.signed(change, pair(1))) == "bad-signature"
    later = node_document(pair(), WRITTEN + 2 * MINUTE)
    found = registry.signed(later, pair())
    assert (code(found), found.signer) == ("former-key", key())
    assert found.refusal is not None
    assert key().md5 in found.refusal.text
    assert key(1).md5 in found.refusal.text
    # Not even with the new key's consent does the old one come back.
    found = registry.signed(later, pair(1))
    assert (code(found), found.signer) == ("former-key", None)
    last = node_document(pair(1), WRITTEN + 3 * MINUTE)
    assert code(registry.signed(last, pair(1))) == "taken"


def test_another_change_with_the_former_key() -> None:
    """
    A copy of a node that has changed its key does not change it once more, and that is
    told as what it is; what nobody known has signed names both keys.
    """
    registry = Registry()
    registry.signed(node_document(pair()), pair())
    registry.signed(node_document(pair(1), WRITTEN + MINUTE), pair())
    other = node_document(pair(2), WRITTEN + 2 * MINUTE)

    found = registry.signed(other, pair())
    assert (code(found), found.signer) == ("former-key", key())
    nameless = sign(other, pair()).replace(b"keyid=", b"other=")
    for signature in (nameless, sign(other + b" ", pair())):
        found = registry.receive(other, signature)
        assert (code(found), found.signer) == ("bad-signature", None)
        assert found.refusal is not None
        assert key(1).md5 in found.refusal.text
        assert key(2).md5 in found.refusal.text
    assert node(registry).key == key(1)


def test_endless_key_changes() -> None:
    """
    Former keys are never forgotten, so a node does not change its key for ever; it
    goes on with the one that it has.
    """
    registry = Registry()
    registry.signed(node_document(pair()), pair())
    former = tuple(PublicKey(2**2047 + 2 * n + 1, 65537) for n in range(MAX_CHANGES))
    registry.change(refused_keys=former)
    change = node_document(pair(1), WRITTEN + MINUTE)

    assert code(registry.signed(change, pair())) == "key-change"
    last = node_document(pair(), WRITTEN + 2 * MINUTE)
    assert code(registry.signed(last, pair())) == "taken"
    registry.change(refused_keys=former[1:])
    change = node_document(pair(1), WRITTEN + 3 * MINUTE)
    assert code(registry.signed(change, pair())) == "taken"
    assert len(node(registry).refused_keys) == MAX_CHANGES


def test_key_change_without_proof() -> None:
    """
    A key does not change to one that nobody has proved to have: not in a certificate
    that another key has signed, nor without a certificate.
    """
    registry = Registry()
    registry.signed(node_document(pair()), pair())
    before = node(registry)
    pasted = certificate(pair(1), signer=pair())
    for data in (
        node_document(pair(1), WRITTEN + MINUTE, pem=pasted),
        node_document(pair(1), WRITTEN + MINUTE, key_alone=True),
    ):
        assert code(registry.signed(data, pair())) == "key-change"
    other = node_document(
        pair(1), WRITTEN + MINUTE, pem=certificate(pair(1), OTHER_NODE)
    )
    assert code(registry.signed(other, pair())) == "subject-mismatch"
    assert node(registry) == before


def test_certificate_of_another_node() -> None:
    """
    A document with another node's certificate is refused, signed or not.
    """
    data = node_document(pair(), pem=certificate(pair(), OTHER_NODE))

    for rules in (Rules(), COMPAT):
        assert code(Registry(rules).signed(data, pair())) == "subject-mismatch"
        assert code(Registry(rules).receive(data, None)) == "subject-mismatch"


@pytest.mark.parametrize(
    ("text", "reason"),
    [("broken", "bad-certificate"), (certificate(pair(), None), "subject-mismatch")],
)
def test_unusable_key(text: str, reason: str) -> None:
    """
    A document whose key cannot be used is refused for that.
    """
    data = document(rudder(agent(certificate=text)))

    assert code(Registry().signed(data, pair())) == reason


def test_strict() -> None:
    """
    By default there is no inventory without a signature.
    """
    assert code(Registry().receive(node_document(pair()), None)) == "no-signature"


def test_once_signed_never_unsigned() -> None:
    """
    A node that never signed may go on so where an operator allows it; from its first
    signature on it may not, not even with a document of before, nor after a restart of
    its trust.
    """
    registry = Registry(COMPAT)
    first = node_document(pair())
    assert code(registry.receive(first, None)) == "taken"
    assert not node(registry).signed
    assert code(registry.receive(first, None)) == "repeated"
    assert code(registry.signed(node_document(pair(), WRITTEN + MINUTE), pair())) == (
        "taken"
    )
    assert node(registry).signed

    unsigned = node_document(pair(), WRITTEN + 2 * MINUTE)
    assert code(registry.receive(unsigned, None)) == "no-signature"
    assert code(registry.receive(first, None)) == "no-signature"
    registry.change(key=None)
    assert code(registry.receive(unsigned, None)) == "no-signature"
    assert code(registry.signed(unsigned, pair(1))) == "bad-signature"
    assert code(registry.signed(unsigned, pair())) == "taken"


def test_the_signature_came_too_late() -> None:
    """
    A document that was believed without its signature, sent again with it, is no
    replay: from then on the node has signed. Nobody else can bring that about, nor
    bring a node back with it.
    """
    registry = Registry(COMPAT)
    first = node_document(pair())
    second = node_document(pair(), WRITTEN + MINUTE)
    for data in (first, second):
        assert code(registry.receive(data, None)) == "taken"

    assert code(registry.signed(second, pair(1))) == "bad-signature"
    assert code(registry.signed(first, pair())) == "repeated"
    assert not node(registry).signed
    assert code(registry.signed(second, pair())) == "taken"
    assert node(registry).signed
    assert node(registry).last == WRITTEN + MINUTE
    assert code(registry.signed(second, pair())) == "repeated"
    assert code(registry.receive(second, None)) == "no-signature"

    registry.change(key=None)
    assert code(registry.signed(first, pair())) == "replay"


def test_unsigned_key_change() -> None:
    """
    A key never changes without a signature.
    """
    registry = Registry(COMPAT)
    registry.receive(node_document(pair()), None)
    found = registry.receive(node_document(pair(1), WRITTEN + MINUTE), None)

    assert code(found) == "key-change"
    assert node(registry).key == key()


def test_trust_again() -> None:
    """
    When an operator lets the next document decide, its own key counts; a key that was
    replaced before does not come back so.
    """
    registry = Registry()
    registry.signed(node_document(pair()), pair())
    registry.change(key=None, refused_keys=(key(2),))
    old = node_document(pair(2), WRITTEN + MINUTE)
    new = node_document(pair(1), WRITTEN + MINUTE)

    assert code(registry.signed(old, pair(2))) == "former-key"
    assert code(registry.signed(new, pair(1))) == "taken"
    assert node(registry).key == key(1)


def test_registered_node() -> None:
    """
    The key that an operator has named counts for the first inventory already.
    """
    registry = Registry(COMPAT)
    registry.nodes[NODE] = Known(NODE, key=key(), signed=True)

    for data in (node_document(pair(1)), node_document(pair())):
        assert code(registry.receive(data, None)) == "no-signature"
    assert code(registry.signed(node_document(pair(1)), pair(1))) == "id-conflict"
    assert code(registry.signed(node_document(pair()), pair())) == "taken"


def test_blocked_node() -> None:
    """
    Nothing of a blocked node is taken.
    """
    registry = Registry()
    registry.signed(node_document(pair()), pair())
    registry.change(blocked=True)

    assert code(registry.signed(node_document(pair()), pair())) == "blocked"
    later = node_document(pair(), WRITTEN + MINUTE)
    assert code(registry.signed(later, pair())) == "blocked"


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        (2 * DAY, "taken"),
        (2 * DAY + timedelta(seconds=1), "too-old"),
        (timedelta(hours=-12), "taken"),
        (timedelta(hours=-12, seconds=-1), "too-new"),
    ],
)
def test_age(age: timedelta, expected: str) -> None:
    """
    A document is neither older nor further ahead than it may be.
    """
    registry = Registry()
    registry.now = WRITTEN + age

    assert code(registry.signed(node_document(pair()), pair())) == expected


def test_no_date() -> None:
    """
    A document that does not say when it was made cannot be put in order.
    """
    data = document(rudder(agent(certificate=certificate(pair()))), written=None)

    assert code(Registry().signed(data, pair())) == "no-date"


def test_order() -> None:
    """
    An older document never replaces a newer one, nor does another of the same time; one
    that was taken may come again and changes nothing.
    """
    registry = Registry()
    older = node_document(pair(), WRITTEN - MINUTE)
    first = node_document(pair())
    second = node_document(pair(), WRITTEN + MINUTE)
    twin = node_document(pair(), WRITTEN + MINUTE, more="<X/>")
    registry.signed(first, pair())
    registry.signed(second, pair())
    before = node(registry)

    assert code(registry.signed(older, pair())) == "replay"
    assert code(registry.signed(twin, pair())) == "replay"
    assert code(registry.signed(first, pair())) == "repeated"
    assert code(registry.signed(second, pair())) == "repeated"
    assert code(registry.receive(first, None)) == "no-signature"
    assert node(registry) == before
    registry.change(last=None)
    assert code(registry.signed(older, pair())) == "taken"


def test_memory_is_bounded() -> None:
    """
    Documents too old to be taken are forgotten, and only the newest are remembered.
    """
    registry = Registry()
    first = node_document(pair())
    registry.signed(first, pair())
    registry.now = WRITTEN + 3 * DAY
    registry.signed(node_document(pair(), WRITTEN + 3 * DAY), pair())

    assert len(node(registry).taken) == 1
    assert code(registry.signed(first, pair())) == "too-old"
    for seconds in range(1, MAX_TAKEN + 5):
        moment = WRITTEN + 3 * DAY + timedelta(seconds=seconds)
        registry.signed(node_document(pair(), moment, key_alone=True), pair())
    taken = [each.written for each in node(registry).taken]
    assert len(taken) == MAX_TAKEN
    last = node(registry).last
    assert last == taken[-1]
    assert taken == [last - timedelta(seconds=s) for s in reversed(range(MAX_TAKEN))]


def test_a_clock_that_was_ahead() -> None:
    """
    What is refused because of a wrong clock says so, and what to do.
    """

    def text(minutes: int) -> str:
        found = registry.signed(
            node_document(pair(), WRITTEN + minutes * MINUTE), pair()
        )
        assert found.refusal is not None
        return found.refusal.text

    registry = Registry()
    ahead = node_document(pair(), WRITTEN + 600 * MINUTE)
    assert code(registry.signed(ahead, pair())) == "taken"
    assert f"nodecomm nodes reset-date {NODE}" in text(0)
    assert "12h ahead of now: the clock of the node is ahead" in text(1000)
    assert "more than 2d: it is an old one, or the clock" in text(-5000)
    registry.now = WRITTEN + 700 * MINUTE
    assert "reset-date" not in text(0)


def test_unreadable() -> None:
    """
    What cannot be read is refused for that, whatever is known.
    """
    data = node_document(pair())

    assert code(Registry().receive(b"<x>", sign(b"<x>", pair()))) == "not-xml"
    assert code(Registry().receive(data, b"")) == "bad-signature-file"
    assert Registry().receive(b"", None).inventory is None


def test_mistakes_of_callers() -> None:
    """
    What is known of another node, and a clock without a zone, are not judged with.
    """
    data = node_document(pair())
    inventory = read_document(data)

    with pytest.raises(ValueError, match="is judged by"):
        judge(data, inventory, None, Known(OTHER_NODE), WRITTEN)
    with pytest.raises(ValueError, match="time zone"):
        judge(data, inventory, None, None, datetime(2024, 3, 21))


@given(
    events=st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 1), st.none() | st.integers(0, 1)),
        max_size=8,
    ),
    rules=st.sampled_from([Rules(), COMPAT]),
)
@settings(max_examples=40)
def test_any_history(events: list[tuple[int, int, int | None]], rules: Rules) -> None:
    """
    Whatever comes in whatever order: dates only go forward, but for a signature that
    came late, a signature stays needed, a key changes only with the consent of the one
    before, and never back.
    """
    registry = Registry(rules)
    past: list[PublicKey] = []
    for minutes, own, signer in events:
        before = registry.find(NODE) or Known(NODE)
        data = node_document(pair(own), WRITTEN + minutes * MINUTE)
        by = None if signer is None else pair(signer)
        found = registry.receive(data, sign(data, by) if by else None)
        after = registry.find(NODE) or Known(NODE)

        if found.outcome is not Outcome.TAKEN:
            assert after == before
            continue
        if found.digest in (x.digest for x in before.taken):
            assert not before.signed
            assert (by and by.public) == before.key == after.key
            assert after.last == before.last
        else:
            assert before.last is None or (after.last or WRITTEN) > before.last
        assert after.signed or not before.signed
        assert after.signed == (before.signed or by is not None)
        if before.key is not None and after.key != before.key:
            assert by is not None
            assert by.public == before.key
            past.append(before.key)
        assert after.key not in past
