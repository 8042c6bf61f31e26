# SPDX-License-Identifier: MIT
"""
How tests run here. hypothesis: a test says what must hold, never how fast, because a
busy machine would fail it. trial: the folders of its tests are temporary ones.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import hypothesis
import pytest
from twisted.trial.unittest import SynchronousTestCase

hypothesis.settings.register_profile("nodecomm", deadline=None)
hypothesis.settings.load_profile("nodecomm")

#: The markers of what takes longest, the longest first.
_LONGEST = ("slow", "interop", "programs")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """
    Tests that are spread over processes begin with those that take longest, so that no
    process goes on alone at the end. One process begins with the quick ones.
    """

    ranks: dict[Path, int] = {}
    for item in items:
        found = [n for n, name in enumerate(_LONGEST) if item.get_closest_marker(name)]
        # A file stays in one piece: its tests may share what takes long to make.
        before = ranks.get(item.path, len(_LONGEST))
        ranks[item.path] = min([before, *found])
    spread = hasattr(config, "workerinput")
    items.sort(key=lambda item: ranks[item.path] if spread else -ranks[item.path])


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
