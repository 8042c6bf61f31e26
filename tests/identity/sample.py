# SPDX-License-Identifier: MIT
"""
Keys to test with, made once per run.
"""

from __future__ import annotations

import shutil
import tempfile
from functools import cache
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from nodecomm.identity.keys import KeyPair, PublicKey

#: A sane modulus that nobody has the factors of.
MODULUS = (1 << 2047) | (1 << 1000) | 1


@cache
def _pair(number: int) -> KeyPair:
    return KeyPair.generate(1024)


def pair(number: int = 0) -> KeyPair:
    """
    Key pair *number*; small, because making it takes time.
    """
    return _pair(number)


def key(number: int = 0) -> PublicKey:
    """
    The public half of pair *number*.
    """
    return pair(number).public


def temporary_folder(case: SynchronousTestCase) -> Path:
    """
    A folder that is gone after the test.
    """
    folder = tempfile.mkdtemp()
    case.addCleanup(shutil.rmtree, folder)
    return Path(folder)
