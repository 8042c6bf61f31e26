# SPDX-License-Identifier: MIT
"""
A policy server inside another Twisted application, from one table of settings.

Whoever wants each part in his own hands builds `nodecomm.server.TLSFactory` himself;
this is that, with keys in a folder and nothing else on disk.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from twisted.logger import Logger

from nodecomm.access.compile import compile_snapshot
from nodecomm.access.evaluator import AccessEvaluator
from nodecomm.config.errors import ConfigError, Problem
from nodecomm.config.structure import structure
from nodecomm.identity.own import PRIVATE_NAME, create_own_key, load_own_key
from nodecomm.identity.store import FileKeyStore
from nodecomm.identity.trust import MemoryCounter, TrustPolicy
from nodecomm.server.execution.runner import Runner
from nodecomm.server.factory import ClassicFactory, PortFactory, TLSFactory
from nodecomm.service.classic import classic_problems, tell_classic
from nodecomm.service.inventory_checks import inventory_problems
from nodecomm.service.loading import resolve_path
from nodecomm.service.prepared import trust_windows
from nodecomm.service.reloading import run_user_problems
from nodecomm.service.run_checks import execution_problems, sync_command
from nodecomm.service.telling import tell_problems
from nodecomm.transport.context import server_context

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nodecomm.config.model import Settings
    from nodecomm.identity.keys import KeyPair
    from nodecomm.server.execution.orders import IRunner
    from nodecomm.service.nodes_followed import NodesFollowed

__all__ = ["follow_nodes", "port_factory"]

_log = Logger()


def port_factory(
    reactor: Any,
    settings: Mapping[str, Any],
    *,
    keys: str | os.PathLike[str],
    counter: Any = None,
    execution: IRunner | None = None,
    **more: Any,
) -> PortFactory:
    """
    Make a factory for any endpoint that serves what *settings* say, over TLS, and to
    the addresses of `allowlegacyconnects` over the classic protocol as well.

    Blocks for as long as it takes to read a few files, and to make a key pair if
    *keys* has none.

    Args:
        reactor: The application's reactor.
        settings: Tables as in the configuration file: `server`, `access`, `roles`,
            `run`, `limits`, and `inventory`, `registered`, `node_files` and
            `common_files` for `follow_nodes`, without which a request that may be
            about the folder of a node ends the connection.
            What concerns a process of its own (`listen`, `state_dir`, `log`,
            `plugins`) is checked and otherwise left to the application.
        keys: The folder with this server's key pair, which is made if it is missing,
            and the trusted keys of nodes.
        counter: Remembers how often a trust window with a `count` was used, across
            restarts. Needed if there is such a window.
        execution: Runs what peers may have run; None: as the settings say, if there
            is a `cfruncommand` in them. `PortFactory.tls.stop` ends all runs.
        more: Further arguments of `nodecomm.server.TLSFactory`, such as `sources`,
            `commands`, `digests` and `seen`.

    Raises:
        ConfigError: *settings* are wrong; it has all that is wrong with them.
        OwnKeyError: The key pair in *keys* cannot be used.
        OSError: *keys* cannot be written.
    """
    checked, problems = _structured(settings)
    snapshot, wrong = compile_snapshot(
        checked,
        resolve=resolve_path,
        sync=sync_command(checked, "server.state_dir", checked.server.state_dir),
    )
    wrong += execution_problems(checked, "server", snapshot.execution)
    wrong += run_user_problems(checked)
    windows, misplaced = trust_windows(checked)
    problems += wrong + misplaced + inventory_problems(checked)
    problems += [
        Problem(
            f"server.trustkeysfrom[{index}].count",
            "a count that a restart forgets would admit more nodes than it says",
            str(window.count),
            "pass a counter, such as nodecomm.storage.windows.WindowCounter",
        )
        for index, window in enumerate(checked.server.trustkeysfrom)
        if window.count is not None and counter is None
    ]
    if any(problem.is_error for problem in problems):
        raise ConfigError(problems)
    pair = _own_key(keys)
    problems += classic_problems(checked, snapshot, pair.public)
    tell_problems(problems, _log)
    tell_classic(checked, _log)
    server = checked.server
    trust = TrustPolicy(
        FileKeyStore(keys),
        windows,
        server.trustusers,
        MemoryCounter() if counter is None else counter,
    )
    if execution is None and snapshot.execution is not None:
        runner = Runner(reactor, checked.run)
        runner.find_hostname()
        execution = runner
    tls = TLSFactory(
        reactor,
        context=server_context(
            pair,
            ciphers=server.allowciphers,
            min_version=server.allowtlsversion,
        ),
        trust=trust,
        evaluator=AccessEvaluator(snapshot),
        limits=checked.limits,
        max_connections=server.maxconnections,
        deny_bad_clocks=server.denybadclocks,
        manifest_max_age=server.manifest_max_age,
        execution=execution,
        **more,
    )
    return PortFactory(tls, ClassicFactory.beside(tls, pair))


def follow_nodes(
    reactor: Any,
    settings: Mapping[str, Any],
    factory: PortFactory,
    *,
    folder: str | os.PathLike[str],
    **more: Any,
) -> NodesFollowed:
    """
    Have a factory of `port_factory` know the nodes: the keys of those that are accepted
    are trusted, their folders (`node_files`) are open to them, and both end with the
    decision that ends them, whichever process it is made in.

    What is returned does so between `await start()` and `await stop()`. Its `registry`
    has the nodes, and takes inventories and decisions.

    Blocks for as long as it takes to open the database.

    Args:
        reactor: The application's reactor.
        settings: The tables that the factory was made from, with `inventory`.
        factory: What `port_factory` has made.
        folder: Where the database is, if it is a file, and what else has to be kept;
            it exists.
        more: Further arguments of `nodecomm.service.nodes_followed.NodesFollowed`, such
            as `registry` and `pool`.

    Raises:
        ConfigError: *settings* are wrong.
        ValueError: They have no `inventory`.
        StartError: The database, or *folder*, cannot be used.
    """
    from nodecomm.service.nodes_followed import NodesFollowed  # noqa: PLC0415

    checked, _ = _structured(settings)
    if checked.inventory is None:
        raise ValueError("the settings have no table inventory, so there are no nodes")
    return NodesFollowed(
        checked, os.fspath(folder), factory.tls, reactor=reactor, **more
    )


def _structured(settings: Mapping[str, Any]) -> tuple[Settings, list[Problem]]:
    checked, problems = structure(settings)
    if checked is None:
        raise ConfigError(problems)
    return checked, problems


def _own_key(folder: str | os.PathLike[str]) -> KeyPair:
    """
    The key pair in *folder*, made if it is not there.
    """
    if os.path.lexists(os.path.join(folder, PRIVATE_NAME)):
        return load_own_key(folder)
    return create_own_key(folder)
