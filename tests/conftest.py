# SPDX-License-Identifier: MIT
"""
How tests run here. hypothesis: a test says what must hold, never how fast, because a
busy machine would fail it. trial: the folders of its tests are temporary ones.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from unittest import mock

import hypothesis
import pytest
from twisted.trial.unittest import SynchronousTestCase

hypothesis.settings.register_profile("nodecomm", deadline=None)
hypothesis.settings.load_profile("nodecomm")


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
