# SPDX-License-Identifier: MIT
"""The work folder of a run: what is served, and the keys that both servers share."""

from __future__ import annotations

import hashlib
import random
import shutil
import subprocess
from pathlib import Path

from benchmarks.client import write_identity
from benchmarks.errors import BenchmarkError

#: Files and bytes of the small tree: the size of a usual policy.
TREE_FILES = 398
TREE_BYTES = 2_600_000
_FILES_PER_FOLDER = 10
#: Files of the wide tree, each of a few hundred bytes, and how many share a folder.
WIDE_FILES = 20_000
_FILES_PER_WIDE_FOLDER = 200
#: Bytes of the big file.
BIG_BYTES = 300_000_000
_CHUNK = 1_000_000

MISSING_PEER = (
    "{program} is not installed. The comparison needs CFEngine 3.21 beside us: "
    "apt-get install cfengine3 (Debian 12). For our own figures alone: --servers ours"
)


def find_program(name: str) -> Path:
    """
    Return where the CFEngine program *name* is installed.

    Raises:
        BenchmarkError: It is not installed.
    """
    for folder in ("/usr/bin", "/usr/sbin", "/var/cfengine/bin"):
        path = Path(folder, name)
        if path.exists():
            return path
    raise BenchmarkError(MISSING_PEER.format(program=name))


class Site:
    """
    A folder of its own for one run.

    Attributes:
        root: The folder.
        tree: 398 small files, 2.6 MB in all.
        wide: 20,000 files of at most 600 bytes, 6 MB in all.
        big: The big file, alone in its folder.
        big_digest: Its MD5.
        paths: The files of the tree, as they are asked for.
        identity: Key and certificate of the benchmark's client.
        keys: A `ppkeys` folder with the servers' key pair.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.served = root / "served"
        self.tree = self.served / "tree"
        self.wide = self.served / "wide"
        self.big = self.served / "big" / "big.bin"
        self.identity = root / "client.pem"
        self.keys = root / "keys" / "ppkeys"
        self.paths: list[bytes] = []
        self.big_digest = b""

    def build(self, *, with_big_file: bool, with_wide_tree: bool = False) -> None:
        """Write everything below `root`."""
        self._write_tree()
        if with_wide_tree:
            self._write_wide_tree()
        if with_big_file:
            self._write_big_file()
        write_identity(self.identity)
        self._make_keys()

    def _write_tree(self) -> None:
        # The same tree at every run: what is measured must not depend on the draw.
        draw = random.Random(398)
        weights = [draw.lognormvariate(0, 1) for _ in range(TREE_FILES)]
        sizes = [int(TREE_BYTES * weight / sum(weights)) for weight in weights]
        sizes[0] += TREE_BYTES - sum(sizes)
        for number, size in enumerate(sizes):
            folder = self.tree / f"part{number // _FILES_PER_FOLDER:02d}"
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"promises_{number:03d}.cf"
            path.write_bytes(draw.randbytes(size))
            path.chmod(0o644)
            self.paths.append(bytes(path))

    def _write_wide_tree(self) -> None:
        draw = random.Random(20_000)
        for number in range(WIDE_FILES):
            folder = self.wide / f"part{number // _FILES_PER_WIDE_FOLDER:03d}"
            if number % _FILES_PER_WIDE_FOLDER == 0:
                folder.mkdir(parents=True)
            path = folder / f"data_{number:05d}.cf"
            path.write_bytes(draw.randbytes(draw.randrange(601)))
            path.chmod(0o644)

    def _write_big_file(self) -> None:
        draw = random.Random(300)
        self.big.parent.mkdir(parents=True)
        digest = hashlib.md5(usedforsecurity=False)
        with self.big.open("wb") as file:
            for _ in range(BIG_BYTES // _CHUNK):
                chunk = draw.randbytes(_CHUNK)
                digest.update(chunk)
                file.write(chunk)
        self.big_digest = digest.digest()

    def _make_keys(self) -> None:
        # cf-key makes the pair where it is installed, so that both servers use a
        # key as CFEngine makes them.
        self.keys.mkdir(parents=True, mode=0o700)
        try:
            program = find_program("cf-key")
        except BenchmarkError:
            return
        cfengine_folder(self.keys.parent)
        subprocess.run(
            [program],
            env=cfengine_environment(self.keys.parent),
            check=True,
            stdout=subprocess.DEVNULL,
        )

    def copy_keys(self, folder: Path) -> None:
        """Copy the servers' key pair to `folder/ppkeys`."""
        target = folder / "ppkeys"
        target.mkdir(mode=0o700, exist_ok=True)
        for name in ("localhost.priv", "localhost.pub"):
            if (self.keys / name).exists():
                shutil.copy(self.keys / name, target / name)


def cfengine_folder(folder: Path) -> None:
    """Make *folder* a private work folder of the CFEngine programs."""
    for name in ("inputs", "ppkeys", "state", "modules", "outputs"):
        (folder / name).mkdir(parents=True, mode=0o700, exist_ok=True)
    folder.chmod(0o700)
    link = folder / "bin"
    if not link.is_symlink():
        link.symlink_to(find_program("cf-promises").parent)


def cfengine_environment(folder: Path) -> dict[str, str]:
    """Return the environment in which the CFEngine programs use *folder*."""
    return {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C",
        "CFENGINE_TEST_OVERRIDE_WORKDIR": str(folder),
    }


def write_policy(path: Path, text: str) -> None:
    """Write a policy file with the mode that the CFEngine programs ask for."""
    path.write_text(text)
    path.chmod(0o600)
