# SPDX-License-Identifier: MIT
"""
The programs of a node, each in a work folder of its own.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path
from typing import NamedTuple

from nodecomm.identity.keys import KeyPair, PublicKey
from tests.interop.machine import KEPT, RUN_TIMEOUT, isolation, peer_program, wait_until
from tests.interop.pairs import new_pair

#: Arguments: cf-agent and the server. It stands in a file and not on a command line,
#: because the agent takes any process with cf-execd in its arguments for cf-execd.
_BOOTSTRAP = """\
"$1" --bootstrap "$2" -v
status=$?
# It goes to the background first, and then says which process it is.
left=300
while [ $status = 0 ] && [ ! -s cf-execd.pid ] && [ $left -gt 0 ]
do
    left=$((left - 1))
    sleep 0.1
done
if pid=$(cat cf-execd.pid) && kill -0 "$pid"
then
    echo "cf-execd runs"
    kill "$pid"
    while kill -0 "$pid" 2>/dev/null && [ -e cf-execd.pid ]; do sleep 0.1; done
fi
exit $status
"""


class Run(NamedTuple):
    """
    How a program ended and what it said, both streams together.
    """

    status: int
    output: str

    @property
    def tls_version(self) -> str | None:
        """
        What was negotiated, such as "TLSv1.3". Only verbose runs say it.
        """
        found = re.search(r"TLS version negotiated:\s*(\S+);", self.output)
        return found[1] if found else None


class WorkFolder:
    """
    A work directory of the CFEngine programs with everything that they insist on.

    Args:
        path: The folder to make.
        key: Make a key pair too, or have this one. cf-key, which looks long for one,
            makes it where a test says so.
    """

    def __init__(self, path: Path, *, key: bool | KeyPair = True) -> None:
        self.path = path
        for name in ("inputs", "ppkeys", "state", "modules", "outputs", "bin"):
            (path / name).mkdir(parents=True, mode=0o700)
        path.chmod(0o700)
        # Without cf-promises here the programs put the given policy aside and run
        # their built-in one; the rest is for a bootstrap, which would also start a
        # cf-serverd on the usual port.
        for name in ("cf-agent", "cf-execd", "cf-key", "cf-promises"):
            (path / "bin" / name).symlink_to(peer_program(name))
        (path / "bin" / "cf-serverd").symlink_to(peer_program("true"))
        if key:
            pair = key if isinstance(key, KeyPair) else new_pair()
            put_key(path / "ppkeys", pair)

    @property
    def environment(self) -> dict[str, str]:
        """
        The environment for a program that lives in this folder.
        """
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        kept["CFENGINE_TEST_OVERRIDE_WORKDIR"] = str(self.path)
        kept["LC_ALL"] = "C"
        return kept

    def know(self, address: str, key: PublicKey) -> None:
        """
        Trust the server at *address* to have *key*, and remember that it was seen
        there: a classic client then challenges it (form `y`).
        """
        path = self.path / "known.pub"
        path.write_bytes(key.to_pem())
        self.cf_key("--trust-key", f"{address}:{path}")

    def write_policy(self, name: str, text: str) -> Path:
        """
        Put a policy file into `inputs`, with the mode that the programs insist on.
        """
        path = self.path / "inputs" / name
        path.write_text(text)
        path.chmod(0o600)
        return path

    def run(self, program: str, *arguments: str, timeout: float = RUN_TIMEOUT) -> Run:
        """
        Run one of CFEngine's programs to its end.
        """
        done = subprocess.run(
            [peer_program(program), *arguments],
            env=self.environment,
            cwd=self.path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
        )
        return Run(done.returncode, os.fsdecode(done.stdout))

    def cf_key(self, *arguments: str) -> Run:
        """
        Run cf-key; without arguments it makes the key pair.
        """
        done = self.run("cf-key", *arguments)
        assert done.status == 0, done.output
        return done

    def cf_net(
        self, host: str, port: int, *words: str, options: tuple[str, ...] = ()
    ) -> Run:
        """
        Run cf-net against *host*, which may be an IPv6 address. Its exit status says
        little; look at the output.
        """
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return self.run("cf-net", "-H", where, *words)

    def bootstrap(self, host: str, port: int) -> Run:
        """
        Run `cf-agent --bootstrap`, see whether the cf-execd that it started runs, say
        so in the output, and end cf-execd by its pid file.
        """
        script = self.path / "bootstrap.sh"
        script.write_text(_BOOTSTRAP)
        agent = peer_program("cf-agent")
        return self.run_isolated("/bin/sh", str(script), agent, f"{host}:{port}")

    def run_isolated(self, *command: str) -> Run:
        """
        Run a command where it sees no process but its own; see `isolation`.
        """
        done = subprocess.run(
            [*isolation(), *command],
            env=self.environment,
            cwd=self.path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=RUN_TIMEOUT,
            check=False,
        )
        return Run(done.returncode, os.fsdecode(done.stdout))

    def end_daemons(self) -> None:
        """
        End every process that lives in this folder.
        """
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                _end(int(entry.name), self)


def put_key(folder: Path, key: KeyPair) -> None:
    """
    Make *key* the own key pair of whoever has *folder* for its `ppkeys`.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    for name, text in (("priv", key.to_pem()), ("pub", key.public.to_pem())):
        path = folder / f"localhost.{name}"
        path.write_bytes(text)
        path.chmod(0o600)


def _end(pid: int, work: WorkFolder) -> None:
    """
    End a process if it lives in *work*, and wait until it has.
    """

    def lives_here() -> bool:
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return False
        mark = f"CFENGINE_TEST_OVERRIDE_WORKDIR={work.path}".encode()
        return mark in environment.split(b"\0")

    for number in (signal.SIGTERM, signal.SIGKILL):
        if not lives_here():
            return
        try:
            os.kill(pid, number)
            wait_until(lambda: not lives_here(), f"the end of process {pid}", 10)
        except ProcessLookupError:
            return
        except AssertionError:
            continue


class RealAgent:
    """
    cf-agent with a policy that copies.
    """

    def __init__(self, work: WorkFolder) -> None:
        self.work = work

    def copy(
        self,
        host: str,
        port: int,
        source: str,
        destination: Path,
        *,
        recursive: bool = True,
        tls_ciphers: str | None = None,
        tls_min_version: str | None = None,
        verbose: bool = False,
        timeout: int = 60,
        promise: str = "",
        **copy_from: str,
    ) -> Run:
        """
        Copy *source* of the server to *destination* in one agent run.

        Args:
            host: The server's address.
            port: The server's port.
            source: What is asked for: a path on the server, or a shortcut.
            destination: The local folder, or the file if not *recursive*.
            recursive: Copy a whole tree.
            tls_ciphers: As in `body common control`. A list without a `TLS_` suite
                turns TLS 1.3 off.
            tls_min_version: As in `body common control`.
            verbose: Run with -v: the output says what was negotiated.
            timeout: Seconds until the agent gives up a connection attempt.
            promise: More attributes of the promise itself.
            copy_from: Attributes of `body copy_from`, over the defaults here.
        """
        wanted = {
            "compare": "digest",
            "trustkey": "true",
            "preserve": "true",
            "purge": "false",
            "verify": "false",
            "copy_backup": "false",
            "protocol_version": "latest",
            **copy_from,
        }
        control = ""
        if tls_ciphers is not None:
            control += f'  tls_ciphers => "{tls_ciphers}";\n'
        if tls_min_version is not None:
            control += f'  tls_min_version => "{tls_min_version}";\n'
        create = f'  "{destination}/." create => "true";\n' if recursive else ""
        more = ", depth_search => d" if recursive else ""
        if promise:
            more += f", {promise}"
        body = "".join(f'  {name} => "{value}";\n' for name, value in wanted.items())
        policy = self.work.write_policy(
            "copy.cf",
            "body common control {\n"
            '  bundlesequence => { "main" };\n'
            f"{control}}}\n"
            f'body agent control {{ default_timeout => "{timeout}"; }}\n'
            "bundle agent main {\n files:\n"
            f"{create}"
            f'  "{destination}" copy_from => c{more};\n'
            "}\n"
            'body depth_search d { depth => "inf"; }\n'
            "body copy_from c {\n"
            f'  source => "{source}";\n'
            f'  servers => {{ "{host}" }};\n'
            f'  portnumber => "{port}";\n'
            f"{body}}}\n",
        )
        return self.work.run(
            "cf-agent", "-K", "-v" if verbose else "-I", "-f", str(policy)
        )
