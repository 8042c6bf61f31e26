# SPDX-License-Identifier: MIT
"""
Our programs as processes that need not import what they consist of: most tests start
one to see what it does, and to start one is mostly that.

`Forked` is `subprocess.Popen` for `nodecomm`, `twistd` and `python -c`. The process is
a copy of one that has imported all rooms and waits. It is a child of the test's own
process with the streams, folder and environment that it is given, and has no other
descriptor. How Python itself starts, and what each program imports, is not shown so:
tests of that use `subprocess`, and with NODECOMM_FULL=1 all do.
"""

from __future__ import annotations

import ctypes
import gc
import inspect
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

#: Whether every program is started as a user starts it.
FULL = os.environ.get("NODECOMM_FULL") == "1"

#: What of the environment Python or a library reads once, when it starts.
_READ_AT_START = ("PYTHON", "LC_", "LANG", "TZ", "OPENSSL", "SSL_", "CRYPTOGRAPHY_")

#: Linux: whoever has it becomes the parent of those whose parent has ended.
_PR_SET_CHILD_SUBREAPER = 36

_ROOT = Path(__file__).parents[1]


class Forked(subprocess.Popen[bytes]):
    """
    `nodecomm` or `twistd` with these arguments, where what names the program may be a
    path; or this Python with `-c`. The options are those of `Popen` that are used here:
    streams, `cwd`, `env` and `start_new_session`. Anything else is started as ever.
    """

    def _execute_child(self, *given: Any) -> None:
        """
        What `Popen` calls once the streams are made.
        """
        begin = super()._execute_child  # type: ignore[misc]
        asked = inspect.signature(begin).bind(*given).arguments
        program, *words = asked["args"]
        name = "-c" if program == sys.executable else os.path.basename(program)
        other = [asked["executable"], asked["preexec_fn"], asked["pass_fds"]]
        if name == "-c":
            other.append(words[0] != "-c")
        if FULL or name not in _PROGRAMS or any(other) or not _can_adopt():
            begin(*given)
            return
        environment = dict(os.environ if asked["env"] is None else asked["env"])
        order = {
            "program": name,
            "words": [program, *words],
            "environment": environment,
            "folder": os.path.abspath(asked["cwd"] or "."),
            "session": bool(asked["start_new_session"]),
        }
        streams = [asked[end] for end in ("p2cread", "c2pwrite", "errwrite")]
        streams = [number if end < 0 else end for number, end in enumerate(streams)]
        self.pid = _prepared(_fixed(environment)).start(order, streams)
        self._child_created = True
        self._close_pipe_fds(  # type: ignore[attr-defined]
            *(asked[end] for end in ("p2cread", "p2cwrite", "c2pread", "c2pwrite")),
            *(asked[end] for end in ("errread", "errwrite")),
        )


class _Prepared:
    """
    A process that has imported everything and makes copies of itself.
    """

    def __init__(self, fixed: Mapping[str, str]) -> None:
        self._link, other = socket.socketpair(type=socket.SOCK_SEQPACKET)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(_READ_AT_START)}
        with other:
            number = other.fileno()
            code = (
                f"from tests.forking import serve; raise SystemExit(serve({number})())"
            )
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                cwd=_ROOT,
                env={**kept, **fixed},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[number],
                start_new_session=True,
            )

    def start(self, order: Mapping[str, Any], streams: list[int]) -> int:
        """
        Begin a program, and return the number of its process, our child.
        """
        _adopt(True)
        try:
            socket.send_fds(self._link, [json.dumps(order).encode()], streams)
            answer = self._link.recv(100)
        finally:
            _adopt(False)
        assert answer, "the prepared process has ended"
        return int(answer)


def _fixed(environment: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """
    What a process must have had when it began.
    """
    return tuple(
        (name, value)
        for name, value in sorted(environment.items())
        if name.startswith(_READ_AT_START)
    )


@cache
def _prepared(fixed: tuple[tuple[str, str], ...]) -> _Prepared:
    return _Prepared(dict(fixed))


@cache
def _can_adopt() -> bool:
    """
    Whether this system lets a process have grandchildren for children.
    """
    return sys.platform == "linux" and _adopt(True) == 0 == _adopt(False)


def _adopt(wanted: bool) -> int:
    done: int = ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(wanted), 0, 0, 0)
    return done


def _nodecomm() -> object:
    from nodecomm.cli.main import main  # noqa: PLC0415

    return main()


def _twistd() -> object:
    from twisted.scripts.twistd import run  # noqa: PLC0415

    return run()


def _python() -> object:
    """
    `python -c CODE`.
    """
    _, _, code, *rest = sys.argv
    sys.argv[:] = ["-c", *rest]
    sys.path.insert(0, "")
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    return None


_PROGRAMS: dict[str, Callable[[], object]] = {
    "nodecomm": _nodecomm,
    "twistd": _twistd,
    "-c": _python,
}


def _import_all() -> None:
    """
    Import what our programs consist of, but no reactor: it has descriptors.
    """
    from nodecomm.cli.main import COMMANDS  # noqa: PLC0415

    for name in (
        *(module for _, module, _ in COMMANDS),
        *("nodecomm.tap_server", "nodecomm.tap_agent", "nodecomm.client.dialing"),
        *("nodecomm.sync.syncing", "nodecomm.service.server_service"),
        *("twisted.scripts.twistd", "twisted.internet.epollreactor"),
    ):
        import_module(name)
    assert "twisted.internet.reactor" not in sys.modules


def serve(number: int) -> Callable[[], object]:
    """
    Wait on the socket with that number and make copies until it is closed. Returns in
    each copy, with what it has to do.
    """
    link = socket.socket(fileno=number)
    _import_all()
    # The folder in which this began is nobody's place to import from.
    sys.path[:] = [place for place in sys.path if place]
    gc.collect()
    gc.freeze()
    while True:
        data, streams, _, _ = socket.recv_fds(link, 1_000_000, 3)
        if not data:
            os._exit(0)
        told, tells = os.pipe()
        if (between := os.fork()) == 0:
            if (pid := os.fork()) != 0:
                os.write(tells, b"%d" % pid)
                os._exit(0)
            link.detach()
            order = json.loads(data)
            _become(order, streams)
            return _PROGRAMS[order["program"]]
        # Once the one in between has ended, whoever adopts is the parent.
        os.waitpid(between, 0)
        link.send(os.read(told, 100))
        for descriptor in (*streams, told, tells):
            os.close(descriptor)


def _become(order: Mapping[str, Any], streams: list[int]) -> None:
    """
    Be like a process that has just been started.
    """
    if order["session"]:
        os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.argv[:] = order["words"]
    assert sys.stdout is not None
    sys.stdout.reconfigure(line_buffering=os.isatty(1))  # type: ignore[union-attr]
    sys.path.insert(0, os.path.dirname(order["words"][0]))
