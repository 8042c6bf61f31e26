# SPDX-License-Identifier: MIT
"""
Files with keys that a command line names.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from nodecomm.cli.key_file import read_key_file
from nodecomm.identity.own import create_own_key
from nodecomm.inventory.keys import KeyRefused
from tests.identity.sample import pair


def test_the_wrong_one_of_two_files(tmp_path: Path) -> None:
    """
    Of the two files of a key the public one is wanted, and that is said.
    """
    create_own_key(tmp_path, pair())

    assert read_key_file(str(tmp_path / "localhost.pub")).key == pair().public
    with pytest.raises(KeyRefused, match="a private key; give its public half"):
        read_key_file(str(tmp_path / "localhost.priv"))
