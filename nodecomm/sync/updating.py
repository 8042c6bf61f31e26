# SPDX-License-Identifier: MIT
"""
One update, from the look at the destination to the new set in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import define, field
from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from nodecomm.sync.books import Books
from nodecomm.sync.comparing import Verdict, judge
from nodecomm.sync.digests import LocalDigests, as_local
from nodecomm.sync.errand import FreshConnectionNeeded, Sink, State
from nodecomm.sync.errors import LocalError, SourceRefused
from nodecomm.sync.fetching import Errands
from nodecomm.sync.jobs import Jobs
from nodecomm.sync.lane import Lane
from nodecomm.sync.local import Local, look_here, remember
from nodecomm.sync.manifests import (
    ask_for_listings,
    ask_for_manifest,
    read_manifest,
    tree_of,
)
from nodecomm.sync.model import (
    Change,
    Kind,
    LocalEntry,
    Phase,
    Progress,
    RemoteEntry,
    RemoteTree,
    SyncRequest,
    Wanted,
    Watch,
)
from nodecomm.sync.notes import Notes
from nodecomm.sync.place import Destination
from nodecomm.sync.planning import Plan, make_file_plan, make_plan
from nodecomm.sync.record import ServerState
from nodecomm.sync.refusals import Refusals
from nodecomm.sync.staging import Commit, Staging
from nodecomm.sync.walking import walk
from nodecomm.wire.text import to_text

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from nodecomm.server.pools import Pool
    from nodecomm.sync.asking import Asking
    from nodecomm.sync.clocks import Moment

__all__ = ["Update"]

#: Requests that may be out. The client goes on reading while it writes, so that
#: neither side can block the other, and files of a folder rarely are more.
WINDOW = 4096

#: Seconds between two reports of progress.
PROGRESS_PAUSE = 0.1


@define(eq=False)
class Update:
    """
    One run for one request, over as many connections as it takes.

    Args:
        request: What is wanted.
        destination: Where, held until `close`.
        server: Whom the record is about.
        state_dir: Where records are.
        jobs: For what may wait.
        clock: For timers.
        monotonic: Seconds, for progress.
        steady: The clock that nobody sets.
        watch: Told of progress.

    Attributes:
        books: The files that the network is needed for.
        errands: What is done about them.
        refusals: What the server is known to refuse, where that costs a connection.
        tree: What the server has, when that is known.
        manifest_used: Whether the server's manifest answered.
    """

    request: SyncRequest
    destination: Destination
    _server: str
    _state_dir: str
    _jobs: Jobs
    _pool: Pool
    _clock: IReactorTime
    _monotonic: Callable[[], float]
    _steady: Callable[[], Moment]
    _watch: Watch | None
    books: Books = field(init=False)
    errands: Errands = field(init=False)
    lane: Lane = field(init=False)
    refusals: Refusals = field(factory=Refusals, init=False)
    tree: RemoteTree | None = field(default=None, init=False)
    manifest_used: bool = field(default=False, init=False)
    _notes: Notes = field(factory=Notes, init=False)
    _local: Local | None = field(default=None, init=False)
    _held: Mapping[bytes, bytes] = field(factory=dict, init=False)
    _staging: Staging | None = field(default=None, init=False)
    _phase: Phase = field(default=Phase.CONNECTING, init=False)
    _told: float | None = field(default=None, init=False)
    # The files of the source, and the digests of those that are here.
    _seen: dict[bytes, RemoteEntry] = field(factory=dict, init=False)
    _digests: LocalDigests = field(init=False)
    # The manifest: whether to ask for it, and what came.
    _manifest: bytes | None = field(default=None, init=False)
    _manifest_md5: bytes | None = field(default=None, init=False)
    _manifest_tries: int = field(default=0, init=False)
    _connected: object = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.lane = Lane(self._pool, self._disk_failed)
        self.books = Books(self.request.limits, self._progressed)
        self.errands = Errands(
            self.request,
            self.books,
            self._clock,
            self.lane,
            self.refusals,
            self._prepare,
            self._create,
            self._steady,
        )
        self._digests = LocalDigests(self.destination, self._jobs, self.errands)

    # What is here.

    async def look_here(self) -> None:
        """
        Read the record and look through the destination.

        Raises:
            LocalError: It cannot be looked through.
        """
        self._local = local = await self._jobs.run(
            look_here, self.destination, self.request, self._state_dir, self._server
        )
        if local.record.warning:
            self._notes.add(local.record.warning)
        for line in self.destination.warnings:
            self._notes.add(line)
        self.books.space = local.space
        self._manifest = local.manifest
        self._manifest_md5 = local.record.manifest_md5

    @property
    def here(self) -> Local:
        """
        What `look_here` found.
        """
        assert self._local is not None  # noqa: S101 - the order of calls
        return self._local

    # One connection.

    async def work(self, asking: Asking) -> None:
        """
        Do on this connection what can be done. Fails with whatever ended it; call
        `interrupted` then.
        """
        asking.session.window = WINDOW
        self._connected = asking
        self._phase = Phase.LISTING
        self._seen.clear()
        done = self.errands.attach(asking)
        self.errands.expecting = 1 + self._digests.jobs
        described = Deferred.fromCoroutine(self._describe(asking))
        described.addCallback(self._described, asking)
        described.addErrback(self._not_described, asking)
        try:
            await done
        finally:
            self._connected = None
            described.cancel()

    async def interrupted(self, error: Exception | None) -> None:
        """
        The connection is over, because of *error*.

        Raises:
            VerificationFailed: Some file had all the care that it may have.
        """
        try:
            self.errands.detach(error)
        finally:
            await self.lane.when_idle()

    async def _describe(self, asking: Asking) -> RemoteTree:
        if getattr(asking.session, "is_nodecomm", False) and self._manifest_tries < 2:
            tree = await self._by_manifest(asking)
            if tree is not None:
                self.manifest_used = True
                return tree
            self._manifest_tries = 2
        self.manifest_used = False
        if asking.doubtful and not asking.can_check:
            raise FreshConnectionNeeded
        hints = dict(self.here.record.hints())
        for name, entry in self._seen_before().items():
            hints[name] = entry.kind
        return await walk(asking, self.request, hints, self._found, self.refusals)

    def _seen_before(self) -> Mapping[bytes, RemoteEntry]:
        if self.tree is not None:
            return self.tree.entries
        return {name: errand.entry for name, errand in self.books.files.items()}

    async def _by_manifest(self, asking: Asking) -> RemoteTree | None:
        data = await ask_for_manifest(
            asking,
            self.request.source,
            self._manifest,
            self._manifest_md5,
            new=self.request.new,
        )
        if data is None:
            return None
        entries = await self._jobs.run(
            read_manifest, data, self.request.limits.entries + 1
        )
        if entries is None:
            return None
        if self.request.compare == "auto":
            self._held = await self._jobs.run(self.here.sums_held)
        if asking.doubtful and not asking.can_check:
            raise FreshConnectionNeeded
        listings = await ask_for_listings(asking, self.request, entries)
        tree = await self._jobs.run(
            tree_of, entries, self.request, self.here.entries, listings
        )
        self._manifest = data
        for name, entry in tree.entries.items():
            self._found(name, entry)
        return tree

    def contradicted(self) -> None:
        """
        A file was not what the manifest says: the next connection fetches it anew,
        and the one after that does without.
        """
        self._manifest_tries += 1
        self._manifest = self._manifest_md5 = None

    def _described(self, tree: RemoteTree, asking: Asking) -> None:
        if self._connected is not asking:
            return
        self.tree = tree
        errands = self.errands
        for name in list(self.books.files):
            entry = tree.entries.get(name)
            if entry is None or entry.kind is not Kind.FILE:
                errands.forget(name)
        self._digests.hash_rest()
        errands.expecting -= 1
        self._phase = Phase.FETCHING
        errands.begin()

    def _not_described(self, failure: Failure, asking: Asking) -> None:
        if self._connected is asking:
            self.errands.fail(failure)

    # File by file.

    def _found(self, name: bytes, entry: RemoteEntry) -> None:
        """
        The server has this.
        """
        if not name:
            self._check_kinds(entry)
        if entry.kind is not Kind.FILE:
            return
        self._seen[name] = entry
        if name in self.refusals.contents:
            self.errands.leave(name, entry)
            return
        errand = self.books.files.get(name)
        if errand is not None:
            if _is_unchanged(errand.entry, entry) and errand.state is not State.LEFT:
                self.errands.again(name)
                return
            if errand.state is State.FETCHED:
                # It was received, and maybe has changed since.
                self.errands.verify(name, entry)
                return
        elif name in self._digests.awaited:
            self._digests.awaited[name] = entry
            return
        here = self.here
        verdict = judge(
            self.request.compare,
            name,
            entry,
            here.entries.get(name),
            here.record,
            self._held,
        )
        if verdict is Verdict.FETCH:
            self.errands.fetch(name, entry)
        elif verdict is Verdict.ASK:
            known = here.record.files[name]
            self.errands.ask(name, entry, known.md5)
        elif verdict is Verdict.HASH:
            self._digests.compare(name, entry)
        elif errand is not None:
            self.errands.forget(name)

    def _check_kinds(self, entry: RemoteEntry) -> None:
        """
        A file becomes a file, a folder a folder.
        """
        here, shown = self.destination.kind, to_text(self.request.destination)
        if entry.kind is Kind.FILE and here is Kind.FOLDER:
            msg = (
                f"{shown} is a folder, and the source is a file: name the file that it"
                " is to become"
            )
            raise LocalError("exists", msg)
        if entry.kind is Kind.FOLDER and here is Kind.FILE:
            msg = f"{shown} is a file, and the source is a folder"
            raise LocalError("not-a-folder", msg)

    # The disk.

    def _prepare(self) -> Deferred[None]:
        if self._staging is not None:
            return succeed(None)
        return self._jobs.run(self._stage)

    def _stage(self) -> None:
        tree_is_file = self._source_is_file()
        self._staging = self.destination.stage(single=tree_is_file)

    def _source_is_file(self) -> bool:
        return b"" in self._seen

    def _create(self, name: bytes, algorithms: Sequence[str]) -> Sink:
        assert self._staging is not None  # noqa: S101 - prepared before
        return self._staging.create(name, algorithms)

    def _disk_failed(self, failure: Failure) -> None:
        self.errands.fail(as_local(failure, "write what was fetched"))

    # Putting it in place.

    def plan(self) -> tuple[Plan, bool]:
        """
        The new set, and whether it is another one.
        """
        assert self.tree is not None  # noqa: S101 - the order of calls
        files = self.books.files
        fetched = {
            name
            for name, errand in files.items()
            if errand.state in (State.FETCHED, State.WOULD)
        }
        left = {name for name, each in files.items() if each.state is State.LEFT}
        for name in sorted(left):
            self._notes.add(f"{to_text(name)}: the server does not tell its content")
        if self._source_is_file():
            if left:
                raise self._source_left()
            plan = make_file_plan(self.request, self.tree, self.here.entries, fetched)
        else:
            plan = make_plan(self.request, self.tree, self.here.entries, fetched, left)
            if self.destination.kind is None:
                changes = (Change(b"", "added"), *plan.changes)
                plan = Plan(plan.wanted, changes, plan.warnings)
        for line in plan.warnings:
            self._notes.add(line)
        return plan, bool(plan.changes)

    def _source_left(self) -> SourceRefused:
        msg = (
            f"{to_text(self.request.source)}: the server describes it and does not give"
            " its content, as it does when its owner or mode do not let this host read"
            " it; give that right there"
        )
        return SourceRefused("refused", msg)

    async def place(
        self, plan: Plan, before: Callable[[Commit], None] | None
    ) -> Mapping[bytes, LocalEntry]:
        """
        Put the new set in place; what is in place then.

        Args:
            before: Called in a thread, right before.
        """
        self._phase = Phase.PLACING
        self._tell()
        await self._prepare()
        report = await self._jobs.run(self._place, plan.wanted, before)
        for name in report.conflicts:
            self._notes.add(
                f"{to_text(name)}: changed here while the new set was made; that change"
                " is in the previous set, beside the destination"
            )
        for line in report.warnings:
            self._notes.add(line)
        locals_: Mapping[bytes, LocalEntry] = report.locals
        return locals_

    def _place(
        self, wanted: tuple[Wanted, ...], before: Callable[[Commit], None] | None
    ) -> Any:
        staging = self._staging
        assert staging is not None  # noqa: S101 - prepared before
        staging.assemble(wanted)
        return staging.commit(before)

    async def remember(self, locals_: Mapping[bytes, LocalEntry]) -> None:
        """
        Write the record.

        Args:
            locals_: What is in place now.
        """
        assert self.tree is not None  # noqa: S101 - the order of calls
        try:
            await self._jobs.run(
                remember,
                self.request,
                self.here,
                self.tree,
                locals_,
                self.books.files,
                self._digests,
                self._steady(),
                self._manifest if self.manifest_used else None,
            )
        except OSError as error:
            self._notes.add(f"the record of this copy cannot be written: {error}")

    # Telling.

    def warnings(self) -> tuple[str, ...]:
        """
        What to tell people.
        """
        for line in self.tree.warnings if self.tree is not None else ():
            self._notes.add(line)
        return self._notes.lines()

    def checked(self) -> int:
        """
        Files of the source.
        """
        return len(self._seen)

    def refused(self) -> tuple[bytes, ...]:
        """
        Names that the server lists and does not describe.
        """
        left = {
            name
            for name, errand in self.books.files.items()
            if errand.state is State.LEFT
        }
        return tuple(sorted(left.union(self.tree.refused if self.tree else ())))

    def _progressed(self) -> None:
        if self._watch is not None:
            now = self._monotonic()
            if self._told is None or now - self._told >= PROGRESS_PAUSE:
                self._told = now
                self._tell()

    def _tell(self) -> None:
        if self._watch is None:
            return
        books = self.books
        total = len(self._seen) if self.tree is not None else 0
        open_files = sum(each.state.is_open for each in books.files.values())
        self._watch(
            Progress(
                self._phase,
                max(0, len(self._seen) - open_files - len(self._digests.awaited)),
                total,
                books.bytes_come,
                books.bytes_wanted,
            )
        )


def _is_unchanged(before: RemoteEntry, now: RemoteEntry) -> bool:
    return ServerState.of(before) == ServerState.of(now) and before.sha256 == now.sha256
