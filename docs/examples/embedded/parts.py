# SPDX-License-Identifier: MIT
"""
A policy server inside another Twisted application, each part in its own hands.
"""

from __future__ import annotations

import os
from typing import Any

from nodecomm.access.compile import Resolved, compile_snapshot
from nodecomm.access.evaluator import AccessEvaluator
from nodecomm.config.errors import ConfigError
from nodecomm.config.structure import structure
from nodecomm.identity.keys import KeyPair
from nodecomm.identity.trust import MemoryCounter, TrustPolicy
from nodecomm.server import PortFactory, TLSFactory
from nodecomm.transport.context import server_context


def resolve(path: bytes) -> Resolved:
    """
    What a path of a rule is; rules are about real paths, links followed.
    """
    real = os.path.realpath(path)
    return Resolved(real, os.path.isdir(real))


def make_factory(
    reactor: Any, key_pair: KeyPair, store: Any, folder: str
) -> PortFactory:
    """
    Serve *folder* as `masterfiles` to everyone in 10.0.0.0/8 whose key is in *store*,
    which is any `nodecomm.interfaces.IKeyStore`. Nobody is trusted on first use.
    """
    rule = {"path": folder, "shortcut": "masterfiles", "admit_ips": ["10.0.0.0/8"]}
    settings, problems = structure({"access": [rule]})
    if settings is None:
        raise ConfigError(problems)
    snapshot, problems = compile_snapshot(settings, resolve=resolve)
    if any(problem.is_error for problem in problems):
        raise ConfigError(problems)
    tls = TLSFactory(
        reactor,
        context=server_context(key_pair),
        trust=TrustPolicy(store, windows=(), users=(), counter=MemoryCounter()),
        evaluator=AccessEvaluator(snapshot),
    )
    return PortFactory(tls)
