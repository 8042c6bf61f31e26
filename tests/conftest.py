# SPDX-License-Identifier: MIT
"""
How tests run here. hypothesis: a test says what must hold, never how fast, because a
busy machine would fail it; nor how fast its examples are made. trial: the folders of
its tests are temporary ones.
"""

from __future__ import annotations

import gc
import importlib.metadata
import os
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from unittest import mock

import hypothesis
import pytest
from twisted.trial.unittest import SynchronousTestCase

hypothesis.settings.register_profile(
    "nodecomm",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("nodecomm")

#: How many examples of a property are tried at most, for runs that look for what a
#: version of Python or of a dependency breaks; not given: as many as the test asks for.
_EXAMPLES = os.environ.get("NODECOMM_EXAMPLES")

#: The markers of what takes longest, the longest first.
_LONGEST = ("slow", "interop", "programs", "postgresql")

#: Bytes that may stand in the name of a test.
_NAME = 24


def pytest_configure(config: pytest.Config) -> None:
    """
    Each of several processes begins to collect elsewhere: what one of them has compiled
    the others need not compile again. Their tests are sorted afterwards.
    """
    given: dict[str, object] | None = getattr(config, "workerinput", None)
    if given is None or config.args != config.getini("testpaths"):
        return
    top = Path(__file__).parent
    rooms = sorted(
        str(place)
        for place in top.iterdir()
        if place.match("test_*.py") or any(place.glob("**/test_*.py"))
    )
    number = int(str(given["workerid"]).removeprefix("gw"))
    first = number * len(rooms) // int(str(given["workercount"]))
    config.args[:] = rooms[first:] + rooms[:first]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """
    Tests that are spread over processes begin with those that take longest, so that no
    process goes on alone at the end. One process begins with the quick ones.
    """
    if _EXAMPLES is not None:
        for item in items:
            if item.get_closest_marker("hypothesis"):
                _limit_examples(item, int(_EXAMPLES))
    ranks: dict[Path, int] = {}
    for item in items:
        found = [n for n, name in enumerate(_LONGEST) if item.get_closest_marker(name)]
        # A file stays in one piece: its tests may share what takes long to make.
        before = ranks.get(item.path, len(_LONGEST))
        ranks[item.path] = min([before, *found])
    spread = hasattr(config, "workerinput")
    # Of the same rank, and in a file, they are in the order of their names and lines.
    items.sort(
        key=lambda item: (
            ranks[item.path] if spread else -ranks[item.path],
            item.path,
        )
    )
    # What all have made so far stays: nobody looks through it for garbage again.
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """
    The commands leave the reactor without waiting for its threads, which would keep
    this process when all is done.
    """
    reactor = sys.modules.get("twisted.internet.reactor")
    threads = getattr(reactor, "threadpool", None)
    if threads is not None and threads.started:
        threads.stop()


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """
    Long bytes give their test no name: they may hold a key, a signature or a time, and
    each of the processes that tests are spread over must find the same names.
    """
    if isinstance(val, bytes) and len(val) > _NAME:
        return argname
    return None


def _limit_examples(item: pytest.Item, most: int) -> None:
    """
    Let a property have no more examples than that.
    """
    assert isinstance(item, pytest.Function)
    test = getattr(item.obj, "__func__", item.obj)
    # hypothesis keeps a test's settings there, in all versions that are supported.
    name = "_hypothesis_internal_use_settings"
    own = getattr(test, name, None) or hypothesis.settings()
    examples = min(own.max_examples, most)
    setattr(test, name, hypothesis.settings(own, max_examples=examples))


@pytest.fixture(scope="session", autouse=True)
def read_once() -> Iterator[None]:
    """
    pytest looks before and after each test for Twisted's version, which is in a file.
    """
    known = cache(importlib.metadata.version)
    with mock.patch.object(importlib.metadata, "version", known):
        yield


@pytest.fixture(scope="session", autouse=True)
def trial_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """
    `mktemp` of trial makes its folders where pytest makes those of a session; trial's
    own leaves them in the current folder.
    """
    root = tmp_path_factory.mktemp("trial")

    def mktemp(self: SynchronousTestCase) -> str:
        return os.path.join(tempfile.mkdtemp(dir=root), "temp")

    with mock.patch.object(SynchronousTestCase, "mktemp", mktemp):
        yield


@pytest.fixture(scope="session", autouse=True)
def own_postgres() -> Iterator[None]:
    """
    A PostgreSQL server that some test has started ends with the last one.
    """
    yield
    started = sys.modules.get("tests.postgres")
    if started is not None:
        started.stop_cluster()
