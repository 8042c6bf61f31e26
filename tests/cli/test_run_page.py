# SPDX-License-Identifier: MIT
"""
What the page about remote runs tells to type on a hub.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import textwrap
from pathlib import Path

from nodecomm.cli.main import run as nodecomm
from nodecomm.identity.store import FileKeyStore
from nodecomm.storage.database import DATABASE_NAME, connect
from tests.identity.sample import key

PAGE = Path(__file__).parents[2] / "docs" / "remote-run.rst"

#: Who was seen, in order.
SEEN = [
    ("192.0.2.7", "incoming", 1),
    ("2001:db8::7", "incoming", 1),
    ("192.0.2.7", "incoming", 0),
    ("192.0.2.9", "outgoing", 2),
    ("192.0.2.8", "incoming", 9),
]

#: Source: CFEngine 3.21, `cf-key -s -N`.
LISTED = f"""\
Direction\tIP\tName\tLast connection\tKey
Incoming\t192.0.2.7\tweb7\tSun Nov 22 13:28:55 2026\t{key(1).md5}
Outgoing\t192.0.2.7\tweb7\tSun Nov 22 13:28:55 2026\t{key(1).md5}
Incoming\t2001:db8::9\t-\tSun Nov 22 13:28:55 2026\t{key(2).sha}
Total Entries: 3
"""

#: A `nodecomm` that shows how it is called.
OURS = """\
#!/bin/sh
if [ "$1" = key ]; then cat "{folder}/listed"; else echo "$@"; fi
"""


def seen(folder: Path) -> str:
    """
    What `nodecomm key list --seen` prints on a hub with some nodes.
    """
    store = FileKeyStore(folder / "ppkeys")
    for number in range(3):
        store.add("root", key(number))
    database = connect(folder / DATABASE_NAME)
    database.executemany(
        "INSERT INTO seen VALUES (?, ?, ?, ?)",
        [
            (key(number).md5, address, direction, 1e9 + at)
            for at, (address, direction, number) in enumerate(SEEN)
        ],
    )
    database.close()
    listed = io.StringIO()
    words = ["key", "list", "--seen", "--state-dir", str(folder)]
    assert nodecomm(words, listed, listed) == 0
    return listed.getvalue()


def test_keys_that_a_hub_has(tmp_path: Path) -> None:
    """
    The commands on the page take over the keys of a hub's nodes, each for the address
    where it was seen last.
    """
    (tmp_path / "listed").write_text(seen(tmp_path / "state"))
    (tmp_path / "cf-listed").write_text(LISTED)
    programs = {
        "nodecomm": OURS.format(folder=tmp_path),
        "cf-key": f'#!/bin/sh\ncat "{tmp_path}/cf-listed"\n',
    }
    (tmp_path / "bin").mkdir()
    for name, text in programs.items():
        program = tmp_path / "bin" / name
        program.write_text(text)
        program.chmod(0o700)
    environment = {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}

    found = re.findall(r"\.\. code-block:: sh\n\n((?:   .*\n|\n)+)", PAGE.read_text())
    said = [
        subprocess.run(
            ["/bin/sh", "-c", textwrap.dedent(text)],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        for text in found
    ]

    ours, theirs = "/var/lib/nodecomm/ppkeys", "/var/cfengine/ppkeys"
    assert said == [
        [
            f"server-key accept {host} {ours}/root-{key(number).md5}.pub"
            for host, number in (
                ("192.0.2.7", 1),
                ("2001:db8::7", 1),
                ("192.0.2.7", 0),
            )
        ],
        [
            f"server-key accept --state-dir /var/cfengine {host} "
            f"{theirs}/root-{digest}.pub"
            for host, digest in (
                ("192.0.2.7", key(1).md5),
                ("2001:db8::9", key(2).sha),
            )
        ],
    ]
