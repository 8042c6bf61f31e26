# SPDX-License-Identifier: MIT
"""
The tutorial runs as it is written.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

from nodecomm.service.sample import write_sample
from tests.interop.harness import NodecommServer, config_for, isolation, peer_program

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.rst"


def commands() -> list[str]:
    """
    Every line that a reader of the tutorial types, in order.
    """
    return re.findall(r"^   [$#] (.+)$", TUTORIAL.read_text(), re.MULTILINE)


def test_tutorial(tmp_path: Path) -> None:
    """
    Typed as they stand, with other folders and another port, the tutorial's commands
    succeed: the node bootstraps, fetches a change, and the server tells of it.
    """
    peer_program("cf-agent")
    node = tmp_path / "node"
    state = tmp_path / "server" / "state"
    state.mkdir(parents=True, mode=0o700)
    write_sample(state, time.time())
    shares = {name: state / name for name in ("masterfiles", "modules")}
    run, shell, *inside, leave, remove = commands()
    assert run == "make run"
    assert shell == "sudo unshare --pid --fork --mount-proc bash"
    assert leave == "exit"
    assert remove == "sudo rm -r /tmp/node"
    with NodecommServer(tmp_path / "server", config_for(shares)) as server:
        script = "set -e\n" + "\n".join(inside) + "\n"
        for written, meant in (
            ("/tmp/node", str(node)),
            ("-H 127.0.0.1 ", f"-H 127.0.0.1:{server.port} "),
            ("--bootstrap 127.0.0.2", f"--bootstrap 127.0.0.2:{server.port}"),
            (".venv/bin/nodecomm", str(Path(sys.executable).with_name("nodecomm"))),
            ("--state-dir var ", f"--state-dir {state} "),
            ("--state-dir var\n", f"--state-dir {state}\n"),
            (" var/", f" {state}/"),
            ("/usr/bin/$p", f"{Path(peer_program('cf-agent')).parent}/$p"),
        ):
            assert written in script, written
            script = script.replace(written, meant)
        # In a file: the agent takes any process with cf-execd in its arguments for it.
        typed = tmp_path / "typed"
        typed.write_text(script)
        done = subprocess.run(
            [*isolation(), "/bin/sh", str(typed)],
            cwd=tmp_path,
            env={"PATH": f"{os.environ['PATH']}:/usr/sbin"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )

    assert done.returncode == 0, done.stdout
    assert "completed successfully" in done.stdout
    # By the run that is typed, or by one of cf-execd's, whose time may have come.
    assert (node / "inputs" / "promises.cf").read_text().endswith("# changed\n")
    assert "root-MD5=" in done.stdout
    assert "allowed" in done.stdout
    assert (node / "cf-execd.pid").exists(), done.stdout
