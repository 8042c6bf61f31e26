# SPDX-License-Identifier: MIT
"""
Making this machine a node of a policy server, in steps that may be interrupted
anywhere and run again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from attrs import field, frozen

from nodecomm.client.errors import (
    ClientError,
    Refused,
    Rejected,
    Unreachable,
    UntrustedServer,
)
from nodecomm.identity.files import ensure_folder
from nodecomm.identity.keys import KeyPair, PublicKey
from nodecomm.identity.own import KEYS_FOLDER
from nodecomm.identity.servers import SERVER_KEYS_FOLDER, ServerKeyStore, ServerTrust
from nodecomm.service.agent_outbox import ask_for_inventory
from nodecomm.service.agent_status import StatusUnreadable, read_status
from nodecomm.service.bootstrap_model import (
    COPIES,
    Ask,
    BootstrapError,
    BootstrapRequest,
    BootstrapResult,
    Copied,
    Link,
    StarterFor,
)
from nodecomm.service.own_addresses import (
    AddressUnknown,
    ResolvedServer,
    resolve_server,
)
from nodecomm.service.own_key import ensure_own_key
from nodecomm.service.recorded_agent import (
    agent_files,
    path_text,
    record,
    refuse_contradictions,
)
from nodecomm.service.starting import Started, Starter, choose_starter
from nodecomm.service.units import AGENT, Program
from nodecomm.sync.errors import SourceRefused
from nodecomm.sync.model import SyncRequest, SyncResult
from nodecomm.wire.text import safe

__all__ = ["Bootstrap"]

#: Held as long as a bootstrap works in a state folder.
LOCK_NAME = "bootstrap.lock"

#: Seconds that this machine's own server may take until it answers as configured,
#: and between two looks.
OWN_SERVER_PATIENCE = 30.0
OWN_SERVER_PAUSE = 0.2

#: Seconds that an agent may take to begin; it works all the same when it takes longer.
AGENT_PATIENCE = 10.0


def no_policy_server(bootstrap: Bootstrap, resolved: ResolvedServer) -> None:
    """
    For a `Bootstrap` that makes nodes only.
    """
    msg = "this bootstrap makes no policy servers"
    raise BootstrapError(msg)


@frozen(kw_only=True)
class Bootstrap:
    """
    One bootstrap.

    Args:
        request: What is asked for.
        link: The way to the server.
        ask: Asks whether its key is trusted.
        say: Takes lines for people about what is done.
        sleep: Waits for so many seconds.
        become_server: Makes this machine the policy server, before it becomes its
            own node.
        starter_for: Starts programs; None: as systemd or its absence asks for.
        resolve: Looks up the server.
        kill: Sends a signal to a process.
        now: Civil time.
        monotonic: Seconds of a clock that nobody sets.

    Attributes:
        served: Shortcut and folder of what this machine's own server has.
        files, warnings, started, windows: As in `BootstrapResult`, so far.
    """

    request: BootstrapRequest
    link: Link
    ask: Ask
    say: Callable[[str], object]
    sleep: Callable[[float], Awaitable[object]]
    become_server: Callable[[Bootstrap, ResolvedServer], object] = no_policy_server
    starter_for: StarterFor | None = None
    resolve: Callable[[str, int], ResolvedServer] = resolve_server
    kill: Callable[[int, int], object] = os.kill
    now: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    served: dict[str, str] = field(factory=dict, init=False)
    files: list[Path] = field(factory=list, init=False)
    warnings: list[str] = field(factory=list, init=False)
    started: dict[str, Started] = field(factory=dict, init=False)
    windows: list[tuple[str, str | None]] = field(factory=list, init=False)

    async def run(self) -> BootstrapResult:
        """
        Do all of it.

        Raises:
            BootstrapError: This machine is in the way.
            ClientError: The server cannot be reached, trusted, or refuses.
            SyncError: What it serves could not be brought here.
            OSError: A file cannot be written.
            OwnKeyError: This machine's key is damaged.
            ConfigError: Its configuration is.
            CannotStart: The program does not start.
        """
        ensure_folder(str(self.request.state_dir))
        with _locked(self.request.state_dir / LOCK_NAME):
            try:
                return await self._run()
            finally:
                await self.link.close()

    async def _run(self) -> BootstrapResult:
        resolved = self._resolved()
        is_server = self.request.role == "server" or (
            self.request.role == "auto" and bool(resolved.own)
        )
        # Whatever a person has set against this is told before anything is done.
        agent = agent_files(self.request)
        refuse_contradictions(self.request, agent)
        starter = self.starter(AGENT, agent.main) if self.request.start else None
        if starter is not None:
            starter.check()
        if is_server:
            self.become_server(self, resolved)
        pair = self.own_key()
        key = await self._connect(resolved, pair, is_own=is_server)
        copies = await self._fetch(is_own=is_server)
        await self.link.close()
        record(self, agent, copies, key)
        # Whatever it was told before: this server shall know what the node is.
        ask_for_inventory(str(self.request.state_dir))
        if starter is not None:
            await self._run_now(self.start(AGENT, starter).pid)
        role: Literal["node", "server"] = "server" if is_server else "node"
        return BootstrapResult(
            role,
            self.request.server,
            key,
            pair.public,
            tuple(copies),
            tuple(self.files),
            dict(self.started),
            tuple(self.warnings),
            tuple(self.windows),
        )

    # Parts that becoming the policy server uses too.

    def warn(self, text: str) -> None:
        """
        Tell what may need a person's attention.
        """
        self.warnings.append(text)
        self.say(f"warning: {text}")

    def starter(self, program: Program, config: Path) -> Starter:
        """
        The way to start *program*.
        """
        if self.starter_for is not None:
            return self.starter_for(program, config)
        request = self.request
        return choose_starter(program, config, request.state_dir, system=request.system)

    def start(self, program: Program, starter: Starter) -> Started:
        """
        Start *program*, or have it read its configuration again.
        """
        started = starter.start(reload=True)
        self.started[program.name] = started
        self.say(f"{started.text}; its log: {started.log}")
        return started

    async def _run_now(self, pid: int | None) -> None:
        """
        Have the agent look at once, and not at its time: then its status is that of a
        node that works, or says why not. It takes the signal when it has written its
        status; before, that would end it.
        """
        end = self.monotonic() + AGENT_PATIENCE
        while pid is not None and self.monotonic() < end:
            with contextlib.suppress(OSError, StatusUnreadable):
                status = read_status(str(self.request.state_dir))
                if status is not None and status.pid == pid:
                    self.kill(pid, signal.SIGUSR1)
                    return
            await self.sleep(OWN_SERVER_PAUSE)

    def own_key(self) -> KeyPair:
        """
        This machine's key, made if there is none.
        """
        folder = self.request.state_dir / KEYS_FOLDER
        pair, made = ensure_own_key(folder)
        if made:
            self.say(f"made a key for this machine, {pair.public.md5}, in {folder}")
        return pair

    def wrote(self, paths: Sequence[Path]) -> None:
        """
        Note and tell which files were written.
        """
        for path in paths:
            if path not in self.files:
                self.files.append(path)
            self.say(f"wrote {path}")

    # The server.

    def _resolved(self) -> ResolvedServer:
        server = self.request.server
        try:
            return self.resolve(server.host, server.port)
        except AddressUnknown as error:
            raise Unreachable(error.code, str(error)) from error

    async def _connect(
        self, resolved: ResolvedServer, pair: KeyPair, *, is_own: bool
    ) -> PublicKey:
        request = self.request
        store = ServerKeyStore(str(request.state_dir / SERVER_KEYS_FOLDER))
        if is_own:
            own = ServerTrust(store, pinned=[pair.public])
            key: PublicKey = await self._patiently(lambda: self.link.connect(own))
            self.say(f"{request.server} answers with this machine's own key, {key.md5}")
            return key
        trust = ServerTrust(
            store, pinned=request.server_keys, first_use=request.trust_server
        )
        try:
            key = await self._welcomed(pair, trust)
            self.say(f"{request.server} has the key {key.md5} ({key.sha})")
            return key
        except UntrustedServer as error:
            if error.code != "key-unknown" or error.key is None:
                raise
            shown = error.key
            # The connection has ended: nobody waits while a person compares.
            answer = self.ask(request.server, resolved.addresses, shown)
            if answer is None:
                raise UntrustedServer(
                    error.code,
                    f"{error.text}. (There is no terminal to ask on.)",
                    error.server,
                    shown,
                ) from None
            if not answer:
                raise UntrustedServer(
                    "key-unknown",
                    f"the key {shown.md5} of {request.server} was not accepted; "
                    "nothing was sent to it and nothing fetched",
                    error.server,
                    shown,
                ) from None
        # The whole key, so that another one with the same digest is another.
        return await self._welcomed(pair, ServerTrust(store, pinned=[shown]))

    async def _welcomed(self, pair: KeyPair, trust: ServerTrust) -> PublicKey:
        """
        Connect; a server that does not want us is told with what to do there.
        """
        try:
            return await self.link.connect(trust)
        except Rejected as error:
            own = pair.public.md5
            raise Rejected(
                error.code,
                f"{error.text}. If the server does not know this machine's key {own} "
                "yet, its administrator lets it in: `nodecomm key trust-digest "
                f"{own}` there, or `cf-key --trust-key` with this machine's "
                "localhost.pub, or a trust window (trustkeysfrom)",
            ) from error

    async def _fetch(self, *, is_own: bool) -> list[Copied]:
        copies = []
        for copy in COPIES:
            destination = self.request.state_dir / copy.folder
            if os.path.realpath(self.served.get(copy.source, "/")) == os.path.realpath(
                destination
            ):
                self.say(f"{copy.source}: served from {destination} itself")
                continue
            request = SyncRequest(
                copy.source.encode(),
                os.fsencode(destination),
                purge=copy.purge,
                new=True,
            )
            try:
                result = await self._fetched(request, patiently=is_own and copy.needed)
            except (Refused, SourceRefused) as error:
                if copy.needed:
                    raise
                self.warn(
                    f"the server does not give {copy.source} ({safe(str(error))}); "
                    "the node works without; when the server has it, run this again"
                )
                continue
            for line in result.warnings:
                self.warn(f"{copy.source}: {line}")
            done = "unchanged"
            if result.changed:
                done = f"{result.fetched} fetched, {result.removed} removed"
            self.say(f"{copy.source}: {done}; files in {destination}: {result.checked}")
            copies.append(Copied(copy.source, path_text(destination), result))
        return copies

    async def _fetched(self, request: SyncRequest, *, patiently: bool) -> SyncResult:
        if not patiently:
            return await self.link.fetch(request)
        result: SyncResult = await self._patiently(lambda: self.link.fetch(request))
        return result

    async def _patiently(self, attempt: Callable[[], Awaitable[Any]]) -> Any:
        """
        Try until this machine's own server, which has just been started or told to
        read its configuration, does as it says.
        """
        end = self.monotonic() + OWN_SERVER_PATIENCE
        while True:
            try:
                return await attempt()
            except (ClientError, SourceRefused) as error:
                if isinstance(error, UntrustedServer):
                    raise BootstrapError(
                        f"the server on port {self.request.server.port} is not this "
                        f"state folder's own: {error}; stop it, or use its state "
                        "folder (--state-dir)"
                    ) from error
                if self.monotonic() >= end:
                    raise
            await self.sleep(OWN_SERVER_PAUSE)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """
    Keep other bootstraps out.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(descriptor, 32).decode("ascii", "replace").strip()
            raise BootstrapError(
                f"another bootstrap is at work here (process {pid or 'unknown'}, "
                f"{path}); wait for it, or end it"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
