# SPDX-License-Identifier: MIT
"""
`nodecomm inventory send`: what it does.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, TextIO, cast

from attrs import evolve, frozen
from cryptography import x509
from twisted.python import usage

from nodecomm.cli.connecting import run_command
from nodecomm.cli.inventory_send import PASSWORD_VARIABLE, SendOptions
from nodecomm.cli.options import GroupOptions, repeat_state_dir, write_error, write_json
from nodecomm.cli.statuses import Status
from nodecomm.client.address import ServerAddress
from nodecomm.config.agent_inventory import AgentInventorySettings, minute_of_day
from nodecomm.config.durations import parse_duration
from nodecomm.identity.files import read_small
from nodecomm.identity.keys import KeyPair, PublicKey
from nodecomm.identity.own import KEYS_FOLDER, OwnKeyError, load_own_key
from nodecomm.identity.server_keys import (
    SERVER_KEYS_FOLDER,
    ServerKeyStore,
    ServerKeysUnreadable,
)
from nodecomm.inventory.commanding import DocumentCommand
from nodecomm.inventory.document import read_document
from nodecomm.inventory.keys import read_agent_key
from nodecomm.inventory.limits import DocumentLimits, is_compressed, uncompress
from nodecomm.inventory.making import UploadFiles
from nodecomm.inventory.names import Half, read_name
from nodecomm.inventory.own import NodeIdError, own_certificate, own_node_id
from nodecomm.inventory.pairs import Box
from nodecomm.inventory.signature import (
    MAX_SIGNATURE_SIZE,
    SignatureRefused,
    read_signature,
    verify,
)
from nodecomm.inventory.upstream import (
    PATHS,
    ClientCertificate,
    InventoryUpstream,
    SendFailed,
    Transient,
    UntrustedServer,
    UpstreamURL,
    parse_url,
)
from nodecomm.inventory.upstream_pins import PINS_NAME, ServerPins
from nodecomm.inventory.upstream_trust import (
    Authorities,
    AuthoritiesUnusable,
    IServerCheck,
    NoneKnown,
    PinnedKeys,
    PinOnFirstUse,
    Unchecked,
    parse_pins,
    read_pins,
)
from nodecomm.server.pools import InlinePool
from nodecomm.service.agent_inventory_making import (
    InventoryOrder,
    MadeFiles,
    Maker,
    MakingFailed,
    make_files,
)
from nodecomm.service.agent_inventory_prepared import (
    InventoryTarget,
    PreparedInventory,
    inventory_problems,
    prepare,
)
from nodecomm.service.agent_prepared import prepare_agent
from nodecomm.service.loading import AGENT_FILE, load_agent
from nodecomm.wire.text import safe

__all__ = ["run"]

_ADVICE = "if its key was changed on purpose, name the new one with --server-key"

#: Bytes of the longest password.
_PASSWORD_LIMIT = 4096

#: Stands for standard input in the place of a file, and for the authorities of the
#: system.
_STREAM, _SYSTEM = "-", "system"


@frozen
class _Job:
    """
    What is to be done.

    Attributes:
        prepared: Where to, and how.
        state: The state folder.
        servers: The policy servers, by which a server may be known.
        box: Where it is put.
        files: What is sent; None: one is made.
        facts: What is known of it already.
    """

    prepared: PreparedInventory
    state: str
    box: Box
    files: UploadFiles | None
    facts: dict[str, Any]


def run(group: GroupOptions, stdout: TextIO, stderr: TextIO) -> int:
    """
    Send an inventory; see `nodecomm.cli.inventory_send.send`.
    """
    options = cast(SendOptions, group.subOptions)
    job = _job(options, group, stderr)

    async def work(reactor: Any) -> int:
        return await _Sending(reactor, job, options, group, stdout, stderr).run()

    return run_command(
        work,
        stdout,
        stderr,
        as_json=group.as_json,
        state_dir=group.named_state_dir,
    )


def _job(options: SendOptions, group: GroupOptions, stderr: TextIO) -> _Job:
    """
    What the configuration and the command line say together.

    Raises:
        UsageError: It is not enough, or contradicts itself.
        NotMade: A file cannot be used.
    """
    prepared, state = _configured(options, group)
    prepared = _with_server(options, prepared)
    box = Box.UPDATE if options["updates"] else Box.FIRST
    prepared = evolve(prepared, accounts=_accounts(options, prepared, box))
    if options["document"] is None:
        return _Job(prepared, state, box, None, {})
    files, facts = _given(options, stderr)
    return _Job(prepared, state, box, files, facts)


def _configured(
    options: SendOptions, group: GroupOptions
) -> tuple[PreparedInventory, str]:
    """
    What the agent's configuration says, and where its state is. What would be without
    one, if there is none.
    """
    named = options["config"]
    if named is None and not os.access(AGENT_FILE, os.R_OK):
        return _defaults(AgentInventorySettings()), os.fspath(group.state_dir)
    loaded = load_agent(
        None if named is None else Path(named), state_dir=group.named_state_dir
    )
    agent, checked = prepare_agent(loaded)
    if agent is None:
        raise usage.UsageError(next(str(p) for p in checked.problems if p.is_error))
    # Somebody asks for it, whatever the agent does by itself.
    whole = evolve(
        agent.configuration,
        inventory=evolve(agent.configuration.inventory, enabled=True),
    )
    pins = inventory_problems(whole, lambda *_, **__: None)
    prepared = prepare(whole, agent.servers, agent.pinned, pins)
    return prepared or _defaults(whole.inventory), agent.state


def _defaults(settings: AgentInventorySettings) -> PreparedInventory:
    begin, end = map(minute_of_day, settings.between)
    return PreparedInventory(
        targets=(),
        trust=settings.server_trust,
        pins=(),
        ca_file=None,
        accounts={
            Box.FIRST: (settings.first_user, settings.first_password.reveal()),
        },
        command=(),
        timeout=parse_duration(settings.timeout),
        begin=begin,
        end=end,
        is_asked_for=True,
    )


def _with_server(
    options: SendOptions, prepared: PreparedInventory
) -> PreparedInventory:
    """
    With the server that is named, and how it is known.
    """
    if options["to"] is not None:
        try:
            url = parse_url(options["to"])
        except ValueError as error:
            raise usage.UsageError(f"--to: {error}") from error
        # Whichever of their keys it has: the policy servers are known.
        servers = tuple(s for t in prepared.targets for s in t.servers)
        named = ServerAddress(url.host)
        target = InventoryTarget(str(url), (*servers, named), url.host)
        prepared = evolve(prepared, targets=(target,))
    if not prepared.targets:
        msg = "where to? Name the server: --to https://HOST/"
        raise usage.UsageError(msg)
    trust: Literal["policy-server-key", "pin", "ca", "none"] | None = None
    if options["insecure"]:
        trust = "none"
    elif options["first-use"]:
        trust = "pin"
    elif options["ca"] is not None:
        file = None if options["ca"] == _SYSTEM else options["ca"]
        return evolve(prepared, trust="ca", ca_file=file, pins=())
    elif options["server-key"] is not None:
        pins = _server_keys(options["server-key"])
        return evolve(prepared, trust="policy-server-key", pins=pins)
    return prepared if trust is None else evolve(prepared, trust=trust, pins=())


def _server_keys(text: str) -> tuple[str, ...]:
    """
    The keys that a command line names.
    """
    try:
        return parse_pins(text)
    except ValueError as error:
        if not os.path.exists(text):
            msg = f"--server-key: {error}; and there is no such file"
            raise usage.UsageError(msg) from error
    try:
        return read_pins(read_small(text)[1])
    except ValueError as error:
        raise usage.UsageError(f"--server-key: {text}: {error}") from error


def _accounts(
    options: SendOptions, prepared: PreparedInventory, box: Box
) -> dict[Box, tuple[str, str]]:
    user, password = prepared.accounts.get(box, (None, None))
    named = _password(options)
    user = options["user"] if options["user"] is not None else user
    password = named if named is not None else password
    if user is None and password is None:
        if options["document"] is not None:
            msg = "whose password? --updates wants --user and --password-file"
            raise usage.UsageError(msg)
        # A node that the server has accepted is known by its key.
        return {}
    if user is None or password is None:
        missing = "--user" if user is None else "--password-file"
        raise usage.UsageError(f"there is no {missing} for this box")
    return {box: (user, password)}


def _password(options: SendOptions) -> str | None:
    file = options["password-file"]
    if file is None:
        return os.environ.get(PASSWORD_VARIABLE)
    if file == _STREAM:
        data = sys.stdin.buffer.read(_PASSWORD_LIMIT)
    else:
        with Path(file).open("rb") as stream:
            data = stream.read(_PASSWORD_LIMIT)
    try:
        return data.split(b"\n", 1)[0].rstrip(b"\r").decode("utf-8")
    except UnicodeDecodeError as error:
        raise usage.UsageError("the password is not in UTF-8") from error


def _given(options: SendOptions, stderr: TextIO) -> tuple[UploadFiles, dict[str, Any]]:
    """
    The files that are named, as far as a server could use them.
    """
    document = Path(options["document"])
    signature = options["signature"]
    if signature is None:
        signature = f"{str(document).removesuffix('.gz')}.sign"
    names = _names(document.name, Path(signature).name)
    limits = DocumentLimits()
    data = _read(document, limits.size)
    plain = uncompress(data, limits) if is_compressed(data) else data
    inventory = read_document(plain, limits)
    own = read_agent_key(inventory.agent, inventory.node_id).key
    signed = _read(Path(signature), MAX_SIGNATURE_SIZE)
    try:
        verify(plain, read_signature(signed), own)
    except SignatureRefused as error:
        if error.refusal.code not in _OTHER_KEY:
            raise
        stderr.write(
            "warning: it is not signed with the key that it brings; the server will "
            "believe it only if it was signed with the one that the node had before\n"
        )
    facts = {
        "node_id": inventory.node_id,
        "hostname": inventory.hostname,
        "key": own.md5,
    }
    return UploadFiles(names[0], data, names[1], signed), facts


#: The refusal of a signature that may be one of another key.
_OTHER_KEY = ("bad-signature",)


def _names(document: str, signature: str) -> tuple[str, str]:
    """
    What the two files are called, if they belong together by that.
    """
    try:
        first, second = read_name(document), read_name(signature)
    except ValueError as error:
        raise usage.UsageError(f"no server takes these names: {error}") from error
    if first.half is not Half.DOCUMENT or second.half is not Half.SIGNATURE:
        raise usage.UsageError("first the document, then its signature (FILE.ocs.sign)")
    if first.pair != second.pair:
        msg = (
            f"a server would not see that they belong together: the signature of "
            f"{document} is called {first.pair}.sign"
        )
        raise usage.UsageError(msg)
    return document, signature


def _read(path: Path, limit: int) -> bytes:
    with path.open("rb") as stream:
        return stream.read(limit + 1)


class _Sending:
    """
    Sends one inventory, to the first server that takes it.
    """

    def __init__(
        self,
        reactor: Any,
        job: _Job,
        options: SendOptions,
        group: GroupOptions,
        stdout: TextIO,
        stderr: TextIO,
    ) -> None:
        self._reactor = reactor
        self._job = job
        self._options = options
        self._group = group
        self._stdout = stdout
        self._stderr = stderr
        self._pair: KeyPair | None = None
        self._facts: dict[str, Any] = {}

    async def run(self) -> int:
        """
        Do it, and return the exit status.
        """
        targets = self._job.prepared.targets
        for target in targets:
            is_last = target is targets[-1]
            try:
                await self._send(target)
            except MakingFailed as error:
                failure = error.failure
                if failure.code == "no-document" and self._options["from"] is not None:
                    remedy = "--from names an inventory of the machine"
                    failure = evolve(failure, remedy=remedy)
                text = failure.text + (f"; {failure.remedy}" if failure.remedy else "")
                return self._fail(Status.LOCAL, failure.code, text)
            except SendFailed as error:
                if is_last or not isinstance(error, Transient):
                    return self._refused(error, target)
                self._stderr.write(f"warning: {safe(f'{target.url}: {error}')}\n")
            except OwnKeyError as error:
                return self._fail(Status.LOCAL, "no-key", str(error))
            except NodeIdError as error:
                return self._fail(Status.LOCAL, "node-id", str(error))
            except ServerKeysUnreadable as error:
                return self._fail(Status.LOCAL, "store-unusable", str(error))
            except AuthoritiesUnusable as error:
                return self._fail(Status.USAGE, "ca", str(error))
            except ValueError as error:
                return self._fail(Status.USAGE, "usage", str(error))
            else:
                break
        if self._group.as_json:
            write_json(self._facts, self._stdout)
        return 0

    async def _send(self, target: InventoryTarget) -> None:
        job = self._job
        url = parse_url(target.url)
        upstream = InventoryUpstream(
            self._reactor,
            url,
            job.prepared.accounts,
            self._check(url, target),
            pool=InlinePool(),
            certificate=self._certificate(),
        )
        self._facts = {"server": str(url), "box": PATHS[job.box], **job.facts}
        try:
            files = job.files or await self._make(upstream, target)
            sent: list[dict[str, Any]] = []
            self._facts["files"] = sent
            for name, content in (
                (files.document_name, files.document),
                (files.signature_name, files.signature),
            ):
                code = await upstream.put(job.box, name, content)
                sent.append({"name": name, "bytes": len(content), "status": code})
                self._tell(
                    f"sent {name} to {url}{PATHS[job.box]}/ ({code}, "
                    f"{len(content)} bytes)"
                )
        finally:
            await upstream.close()
        self._tell(
            "the server has it; whether it believes it is decided there: `nodecomm "
            f"nodes show {self._facts['node_id']}`, or `nodecomm inventory failed`; "
            "of a relay, at the server that it passes inventories on to"
        )

    async def _make(
        self, upstream: InventoryUpstream, target: InventoryTarget
    ) -> UploadFiles:
        """
        Make an inventory for a server.
        """
        options, state = self._options, self._job.state
        pair = self._own_key()
        server_id = options["policy-server-id"]
        if server_id is None:
            server_id = await upstream.server_id()
            self._facts["server_id"] = server_id
            self._tell(f"the server is {server_id}")
        order = InventoryOrder(state, pair, server_id, target.name)
        prepared, making = self._job.prepared, make_files
        if options["from"] is not None:
            prepared, making = evolve(prepared, command=()), _from(options["from"])
        maker = Maker(self._reactor, time.time, make=making)
        made = await maker.make(order, prepared)
        self._facts.update(
            node_id=made.node_id,
            hostname=made.hostname,
            key=pair.public.md5,
            skipped=list(made.skipped),
        )
        self._tell(f"made {made.files.document_name}: {made.hostname}, {made.node_id}")
        for each in made.skipped:
            self._tell(f"without {each}")
        return made.files

    def _own_key(self) -> KeyPair:
        if self._pair is None:
            self._pair = load_own_key(Path(self._job.state) / KEYS_FOLDER)
        return self._pair

    def _certificate(self) -> ClientCertificate | None:
        """
        Who we are, for an own inventory: an accepted node needs no password.
        """
        job = self._job
        if job.files is not None:
            return None
        pair = self._own_key()
        own_id = own_node_id(job.state)
        now = datetime.now(timezone.utc)
        text = own_certificate(job.state, pair, own_id, now)
        return ClientCertificate(
            x509.load_pem_x509_certificate(text.encode("ascii")), pair.private
        )

    def _check(self, url: UpstreamURL, target: InventoryTarget) -> IServerCheck:
        prepared, state = self._job.prepared, self._job.state
        if prepared.trust == "none":
            return Unchecked(self._warn)
        if prepared.trust == "ca":
            return Authorities(prepared.ca_file)
        if prepared.pins:
            return PinnedKeys(prepared.pins, _ADVICE)
        if prepared.trust == "pin":
            return PinOnFirstUse(ServerPins(os.path.join(state, PINS_NAME)))
        store = ServerKeyStore(os.path.join(state, SERVER_KEYS_FOLDER))
        known: list[PublicKey] = []
        for server in target.servers:
            known += store.keys(str(server))
        if known:
            return PinnedKeys(known, _ADVICE)
        return NoneKnown(
            "compare it with what `nodecomm key show` or `cf-key -p` prints on the "
            "server itself, and name it with --server-key; or make the policy server "
            f"known: `nodecomm server-key accept {url.host}`"
        )

    def _warn(self, text: str) -> None:
        self._stderr.write(f"warning: {safe(text)}\n")

    def _tell(self, line: str) -> None:
        if not self._group.as_json:
            self._stdout.write(f"{safe(line)}\n")

    def _refused(self, error: SendFailed, target: InventoryTarget) -> int:
        text = f"{target.url}: {error}"
        if isinstance(error, UntrustedServer):
            return self._fail(
                Status.UNTRUSTED, error.code, str(error), shown=list(error.shown)
            )
        again = isinstance(error, Transient)
        if error.status == 401 and self._job.box not in self._job.prepared.accounts:
            text += (
                ". None was sent: only a node that the server has accepted does without"
            )
        if self._facts.get("files"):
            text += (
                "; the server has the document, which waits there for its signature "
                "for a while"
            )
        if error.status is None:
            return self._fail(Status.UNREACHABLE, "unreachable", text, again=again)
        return self._fail(
            Status.REFUSED, "refused", text, http=error.status, again=again
        )

    def _fail(self, status: Status, code: str, text: str, **more: Any) -> int:
        text = repeat_state_dir(text, self._group.named_state_dir)
        if self._group.as_json:
            write_error(code, text, status, self._stdout, **more)
        self._stderr.write(f"error: {safe(text)}\n")
        return int(status)


def _from(path: str) -> Callable[..., MadeFiles]:
    """
    Makes an inventory of a document that is there.
    """

    def make(order: InventoryOrder, now: datetime, _: object = None) -> MadeFiles:
        return make_files(order, now, cast(DocumentCommand, _Printed(path)))

    return make


@frozen
class _Printed:
    """
    A file in the place of a program that prints a document.
    """

    path: str

    def run(self) -> bytes:
        """What the program would have printed."""
        limit = DocumentLimits().size + 1
        if self.path == _STREAM:
            return sys.stdin.buffer.read(limit)
        return _read(Path(self.path), limit)
