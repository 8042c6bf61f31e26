# SPDX-License-Identifier: MIT
"""
Whether an inventory is believed, and what changes when it is.

Pure: what is known of the node goes in, a decision comes out, and whoever keeps what is
known puts it in force, in one transaction with having read it. The rules:

1. The key is the one of the previous inventory; of a node that is not known, the one
   in the document. Its certificate must name the node that the document is about.
2. Once a node has sent a signed inventory, or its key is the operator's word, unsigned
   ones are refused for ever. `Signatures.STRICT` refuses them always.
3. Another key than the known one is taken only from a document that the known key has
   signed, and only in a certificate that the new key has signed itself: both keys say
   yes. The former key is refused from then on.
4. The document's date lies in a window around now, and after that of the last one that
   was taken. So a document that someone has kept cannot bring back what was.
5. The same document again changes nothing and is no fault: senders repeat.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable
from datetime import datetime, timedelta

from attrs import evolve, field, frozen

from nodecomm.config.durations import duration_text
from nodecomm.identity.keys import PublicKey
from nodecomm.inventory.document import read_document
from nodecomm.inventory.keys import AgentKey, KeyRefused, read_agent_key, same_node
from nodecomm.inventory.limits import DocumentLimits, DocumentRefused
from nodecomm.inventory.model import Inventory, Refusal
from nodecomm.inventory.signature import (
    Signature,
    SignatureRefused,
    is_signed,
    key_id,
    read_signature,
    verify,
)

__all__ = [
    "Judgement",
    "Known",
    "Outcome",
    "Rules",
    "Signatures",
    "Taken",
    "judge",
    "judge_files",
    "known_after",
]


#: How many documents of a node are remembered in case that they come again: the newest.
MAX_TAKEN = 64


#: Keys that a node had before, and are refused for ever, with which it may still change
#: to another one by itself. Each of them is looked at with each of its inventories.
MAX_CHANGES = 100


class Signatures(enum.Enum):
    """
    Whether a signature is needed.
    """

    #: Always, as since Rudder 6.0.
    STRICT = "strict"
    #: Not from a node that has never sent one, as in Rudder 4.0.
    COMPAT = "compat"


@frozen
class Rules:
    """
    What an operator may choose.

    Attributes:
        signatures: Whether a signature is needed.
        max_age: How old a document may be. The defaults are those of Rudder 8.3.
        max_ahead: How far the clock of a node may be ahead.
    """

    signatures: Signatures = Signatures.STRICT
    max_age: timedelta = timedelta(days=2)
    max_ahead: timedelta = timedelta(hours=12)


@frozen
class Taken:
    """
    A document that was taken.

    Attributes:
        digest: SHA-256 of the document, in hexadecimal digits.
        written: Its date.
        key: The key that had signed it; None where nothing had.
    """

    digest: str
    written: datetime
    key: PublicKey | None


@frozen
class Known:
    """
    What is known of a node, as far as it decides about its next inventory.

    Attributes:
        node_id: Its id, as it came first.
        key: Its key: that of the last document taken, or what an operator has set. None
            when the next document decides: nothing was taken yet, or an operator has
            said so.
        signed: Whether it has ever sent a signed document, or its key is an operator's
            word. Nothing here makes it False again.
        last: The date of the newest document taken. None for none, or when an operator
            has reset it because a clock was wrong.
        taken: The documents that were taken and may come again.
        refused_keys: The keys that it had before.
        blocked: Nothing of this node is taken.
    """

    node_id: str
    key: PublicKey | None = None
    signed: bool = False
    last: datetime | None = None
    taken: tuple[Taken, ...] = ()
    refused_keys: tuple[PublicKey, ...] = ()
    blocked: bool = False


class Outcome(enum.Enum):
    """
    What becomes of a document.
    """

    #: It is believed, and the newest of its node.
    TAKEN = "taken"
    #: It was taken before. A success; nothing changes.
    REPEATED = "repeated"
    #: It is not believed. Nothing changes.
    REFUSED = "refused"


@frozen
class Judgement:
    """
    The decision about a document.

    Attributes:
        outcome: What becomes of it.
        refusal: Why it is refused; None where it is not.
        inventory: What it says; None if it could not be read.
        digest: SHA-256 of the document, in hexadecimal digits.
        key: The key that the node has when this is in force, and what it came in; None
            if refused before that was clear.
        signer: The key that has signed it; None where nothing has. Of one that is
            refused: only if that is another key than the node's, which the document
            itself brings.
        former_key: The key that `key` replaces, to be refused from now on; None where
            the key does not change.
    """

    outcome: Outcome
    digest: str
    refusal: Refusal | None = None
    inventory: Inventory | None = field(default=None, repr=False)
    key: AgentKey | None = field(default=None, repr=False)
    signer: PublicKey | None = None
    former_key: PublicKey | None = None


class _Refused(Exception):  # noqa: N818
    def __init__(
        self,
        code: str,
        text: str,
        element: str = "",
        signer: PublicKey | None = None,
    ) -> None:
        super().__init__(text)
        self.refusal = Refusal(code, text, element)
        self.signer = signer


def judge_files(
    document: bytes,
    signature: bytes | None,
    find: Callable[[str], Known | None],
    now: datetime,
    rules: Rules | None = None,
    limits: DocumentLimits | None = None,
) -> Judgement:
    """
    Read a document and its signature's file, and decide. Blocks for some 25 ms.

    Args:
        document: The document, not compressed.
        signature: The content of its signature's file; None if there is none.
        find: What is known of the node with an id, whatever its case; None for nothing.
        now: Civil time, with a zone.
        rules: What the operator has chosen.
        limits: How much of a document is read.
    """
    try:
        inventory = read_document(document, limits)
        read = None if signature is None else read_signature(signature)
    except (DocumentRefused, SignatureRefused) as error:
        return Judgement(Outcome.REFUSED, _digest_of(document), refusal=error.refusal)
    known = find(inventory.node_id)
    return judge(document, inventory, read, known, now, rules)


def judge(
    document: bytes,
    inventory: Inventory,
    signature: Signature | None,
    known: Known | None,
    now: datetime,
    rules: Rules | None = None,
) -> Judgement:
    """
    Decide about a document that was read.

    Args:
        document: The document, not compressed.
        inventory: What it says.
        signature: What came beside it; None for nothing.
        known: What is known of this node; None for nothing.
        now: Civil time, with a zone.
        rules: What the operator has chosen.

    Raises:
        ValueError: *known* is about another node, or *now* has no zone: a mistake of
            the caller.
    """
    if known is not None and not same_node(known.node_id, inventory.node_id):
        raise ValueError(f"{inventory.node_id} is judged by {known.node_id}")
    if now.utcoffset() is None:
        raise ValueError("the present has no time zone")
    rules = rules or Rules()
    digest = _digest_of(document)
    try:
        return _judge(document, digest, inventory, signature, known, now, rules)
    except (_Refused, KeyRefused, SignatureRefused) as error:
        refusal = error.refusal
        signer = error.signer if isinstance(error, _Refused) else None
    return Judgement(
        Outcome.REFUSED, digest, refusal=refusal, inventory=inventory, signer=signer
    )


def _digest_of(document: bytes) -> str:
    return hashlib.sha256(document).hexdigest()


def _judge(
    document: bytes,
    digest: str,
    inventory: Inventory,
    signature: Signature | None,
    known: Known | None,
    now: datetime,
    rules: Rules,
) -> Judgement:
    known = known or Known(inventory.node_id)
    if known.blocked:
        raise _Refused("blocked", f"node {known.node_id} is blocked")
    own = read_agent_key(inventory.agent, inventory.node_id)
    if signature is None:
        _check_unsigned(known, rules)
    before = next((x for x in known.taken if x.digest == digest), None)
    if before is not None and (signature is None) == (before.key is None):
        if signature is not None and before.key is not None:
            verify(document, signature, before.key)
        return Judgement(
            Outcome.REPEATED, digest, inventory=inventory, key=own, signer=before.key
        )
    if before is not None and signature is not None and known.key == own.key:
        # It was believed without a signature, which has come now. Of the newest one
        # that is news: from now on there must be one.
        verify(document, signature, own.key)
        is_newest = before.written == known.last
        outcome = Outcome.TAKEN if is_newest else Outcome.REPEATED
        return Judgement(outcome, digest, inventory=inventory, key=own, signer=own.key)
    signer = None
    if signature is not None:
        signer = _signer(document, signature, own, known)
    former = _former_key(own, known, signer)
    _check_date(inventory.written, known, now, rules)
    return Judgement(
        Outcome.TAKEN,
        digest,
        inventory=inventory,
        key=own,
        signer=signer,
        former_key=former,
    )


def _check_unsigned(known: Known, rules: Rules) -> None:
    if rules.signatures is Signatures.STRICT:
        raise _Refused("no-signature", "there is no signature")
    if known.signed:
        msg = f"there is no signature, and node {known.node_id} has signed before"
        raise _Refused("no-signature", msg)


def _signer(
    document: bytes, signature: Signature, own: AgentKey, known: Known
) -> PublicKey:
    """
    The key that has signed the document, which is the one that must have.
    """
    expected = known.key or own.key
    try:
        verify(document, signature, expected)
    except SignatureRefused as error:
        if own.key == expected:
            raise
        _refuse_other_signer(document, signature, own, known, expected)
        msg = f"{error}, nor with the one that it brings, {own.key.md5}"
        raise SignatureRefused("bad-signature", msg, "digest") from None
    return expected


def _refuse_other_signer(
    document: bytes,
    signature: Signature,
    own: AgentKey,
    known: Known,
    expected: PublicKey,
) -> None:
    """
    Refuse a document that another key of the node's has signed, for the operator: is
    it a machine with this id and another key, or a file that was changed on its way?
    Of the keys that the node had before, the one is tried that the signature names.
    """
    if is_signed(document, signature, own.key):
        if own.key in known.refused_keys:
            raise _former(own.key, known, signer=own.key)
        msg = (
            f"node {known.node_id} is known by the key {expected.md5}, and this is "
            f"signed with {own.key.md5}: the node has a new key, or another machine "
            "has its id"
        )
        raise _Refused("id-conflict", msg, signer=own.key)
    for former in known.refused_keys:
        if key_id(former) == signature.key_id.upper():
            if is_signed(document, signature, former):
                raise _former(former, known, signer=former)
            return


def _former(key: PublicKey, known: Known, signer: PublicKey | None) -> _Refused:
    msg = f"node {known.node_id} had the key {key.md5} before: it is refused"
    if known.key is not None:
        msg += f"; the node is known by {known.key.md5}"
    return _Refused("former-key", msg, signer=signer)


def _former_key(
    own: AgentKey, known: Known, signer: PublicKey | None
) -> PublicKey | None:
    """
    The key that the one of the document replaces; None where it replaces none.
    """
    new = own.key
    if new == known.key:
        return None
    if new in known.refused_keys:
        raise _former(new, known, signer if signer == new else None)
    if known.key is None:
        return None
    change = f"node {known.node_id} changes its key from {known.key.md5} to {new.md5}"
    if signer is None:
        raise _Refused("key-change", f"{change} without a signature")
    if own.certificate is None:
        msg = f"{change} without a certificate: only an operator can let it"
        raise _Refused("key-change", msg)
    if not own.certificate.proves_possession():
        msg = f"{change}, and the certificate is not signed with the new one"
        raise _Refused("key-change", msg)
    if len(known.refused_keys) >= MAX_CHANGES:
        msg = (
            f"{change}, after {len(known.refused_keys)} keys that it had before: only "
            "an operator can let it"
        )
        raise _Refused("key-change", msg)
    return known.key


def _check_date(
    written: datetime | None, known: Known, now: datetime, rules: Rules
) -> None:
    element = "ACCESSLOG/LOGDATE"
    if written is None:
        msg = f"{element} is missing, or no date of the form 2023-11-16 10:46:35"
        raise _Refused("no-date", msg, element)
    age = now - written
    if age > rules.max_age:
        most = duration_text(rules.max_age.total_seconds())
        passed = duration_text(age.total_seconds())
        msg = (
            f"written {written.isoformat()}, {passed} ago, more than {most}: it is an "
            "old one, or the clock of the node is behind; set it"
        )
        raise _Refused("too-old", msg, element)
    if -age > rules.max_ahead:
        most = duration_text(rules.max_ahead.total_seconds())
        msg = (
            f"written {written.isoformat()}, more than {most} ahead of now: the clock "
            "of the node is ahead; set it"
        )
        raise _Refused("too-new", msg, element)
    if known.last is not None and written <= known.last:
        msg = (
            f"written {written.isoformat()}, and the last one that was taken "
            f"{known.last.isoformat()}"
        )
        if known.last > now:
            msg += (
                ", which is ahead of now: the clock of the node was wrong then. "
                f"`nodecomm nodes reset-date {known.node_id}` takes older ones again"
            )
        raise _Refused("replay", msg, element)


def known_after(
    known: Known | None, judgement: Judgement, now: datetime, rules: Rules | None = None
) -> Known | None:
    """
    What is known of the node when a judgement is in force: the same as before unless
    the document is taken. Documents so old that their age refuses them are forgotten.
    """
    inventory, key = judgement.inventory, judgement.key
    if judgement.outcome is not Outcome.TAKEN or inventory is None or key is None:
        return known
    written = inventory.written
    assert written is not None  # noqa: S101
    known = known or Known(inventory.node_id)
    oldest = now - (rules or Rules()).max_age
    recent = [
        x for x in known.taken if x.written >= oldest and x.digest != judgement.digest
    ]
    refused = known.refused_keys
    if judgement.former_key is not None:
        refused = (*refused, judgement.former_key)
    taken = Taken(judgement.digest, written, judgement.signer)
    return evolve(
        known,
        key=key.key,
        signed=known.signed or judgement.signer is not None,
        last=written,
        taken=(*recent[-MAX_TAKEN + 1 :], taken),
        refused_keys=refused,
    )
