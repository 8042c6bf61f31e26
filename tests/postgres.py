# SPDX-License-Identifier: MIT
"""
A PostgreSQL server of the tests' own: made when the first test needs it, ended with the
test run.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from nodecomm.storage.postgres_place import PostgresPlace
from tests.interop.machine import missing

__all__ = ["Cluster", "SharedCase", "cluster", "stop_cluster"]

#: Where Debian, and others, put the server's programs.
_PLACES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin")

#: Seconds that the server may take to start, or to end.
_TIMEOUT = 60.0

#: What makes it quick. Nothing in it outlives a test.
_QUICK = {
    "fsync": "off",
    "full_page_writes": "off",
    "listen_addresses": "",
    "max_connections": "60",
    "shared_buffers": "16MB",
    "autovacuum": "off",
    "logging_collector": "off",
    "log_min_messages": "panic",
}


def _program(name: str) -> str:
    found = shutil.which(name)
    for place in _PLACES:
        for folder in sorted(Path("/").glob(place[1:]), reverse=True):
            found = found or shutil.which(name, path=str(folder))
    if found is None:
        missing(f"{name} is not installed (Debian: apt-get install postgresql)")
    return found


class Cluster:
    """
    A server that listens on a socket in a folder of its own, and its databases. Whoever
    runs the tests may do everything in it.
    """

    def __init__(self) -> None:
        try:
            import psycopg  # noqa: F401, PLC0415
        except ImportError:
            missing("psycopg is not installed (pip install 'nodecomm[postgresql]')")
        initdb, self._postgres = _program("initdb"), _program("postgres")
        # Short, for the name of a socket must be.
        self.folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))
        self._data = self.folder / "data"
        self._numbers = itertools.count()
        self._process: subprocess.Popen[bytes] | None = None
        # It refuses to run as root.
        self._user = None if os.getuid() else _other_user()
        if self._user is not None:
            shutil.chown(self.folder, self._user)
        self.folder.chmod(0o711)
        command = [initdb, "--no-sync", "--auth=trust", "--username=tests"]
        command += ["--encoding=UTF8", "--locale=C", "--pgdata", str(self._data)]
        self._run(command)
        access = self._data / "pg_hba.conf"
        guarded = "local all guarded scram-sha-256\n"
        access.write_text(guarded + access.read_text())

    def _run(self, command: list[str]) -> None:
        done = subprocess.run(
            command,
            capture_output=True,
            check=False,
            timeout=_TIMEOUT,
            **self._as_user(),
        )
        if done.returncode:
            text = done.stderr.decode(errors="replace")
            raise AssertionError(f"{command[0]} failed: {text}")

    def _as_user(self) -> dict[str, Any]:
        # The current folder may be closed to that user.
        return (
            {"user": self._user, "extra_groups": [], "cwd": "/"}
            if (self._user)
            else {"cwd": "/"}
        )

    def start(self) -> None:
        """
        Start the server, and wait until it answers. Harmless while it runs.
        """
        if self._process is not None:
            return
        options = {**_QUICK, "unix_socket_directories": str(self.folder)}
        command = [self._postgres, "-D", str(self._data)]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, **self._as_user()
            )
        deadline = time.monotonic() + _TIMEOUT
        while not self._answers():
            assert time.monotonic() < deadline, self.log()
            assert self._process.poll() is None, self.log()
            time.sleep(0.02)

    def _answers(self) -> bool:
        import psycopg  # noqa: PLC0415

        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def log(self) -> str:
        """
        What the server has written.
        """
        return (self.folder / "log").read_text(errors="replace")

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """
        End the server: with SIGINT it closes all connections, with SIGQUIT it crashes.
        """
        process, self._process = self._process, None
        if process is not None:
            # One that a test has stopped does not hear of it.
            process.send_signal(how)
            process.send_signal(signal.SIGCONT)
            process.wait(_TIMEOUT)

    def remove(self) -> None:
        """
        End the server, and leave nothing of it.
        """
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def connect(self, database: str = "postgres") -> Any:
        """
        A connection that may do everything.
        """
        import psycopg  # noqa: PLC0415

        return psycopg.connect(self.url(database), autocommit=True)

    def url(self, database: str, user: str = "tests") -> str:
        """
        How a configuration would name a database.
        """
        return f"postgresql://{user}@/{database}?host={self.folder}"

    def place(self, database: str) -> PostgresPlace:
        """
        Where a database is.
        """
        return PostgresPlace(self.url(database))

    def make_database(self, options: str = "") -> str:
        """
        A new database with nothing in it; returns its name.
        """
        name = f"test{next(self._numbers)}"
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name} {options}")
        return name

    def do(self, statement: str, database: str = "postgres") -> list[Any]:
        """
        Execute a statement, and give its rows.
        """
        with self.connect(database) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []


def _other_user() -> int:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            continue
    return missing("root needs another user to run a PostgreSQL server as")


_clusters: list[Cluster] = []


def cluster() -> Cluster:
    """
    The server of this test run, running. Where there can be none, the test is skipped,
    or fails if nothing may be missing.
    """
    if not _clusters:
        made = Cluster()
        _clusters.append(made)
        made.start()
    return _clusters[0]


def stop_cluster() -> None:
    """
    End it, if there is one.
    """
    while _clusters:
        _clusters.pop().remove()


#: What removes all that is ours.
CLEAN = "DROP SCHEMA IF EXISTS nodecomm CASCADE"


class SharedCase(SynchronousTestCase):
    """
    A database with nothing in it.
    """

    #: One for all of these tests: to make one takes longer than most of them.
    _database = ""

    def setUp(self) -> None:
        self.cluster = cluster()
        if not SharedCase._database:
            SharedCase._database = self.cluster.make_database()
        self.database = SharedCase._database
        self.place = self.cluster.place(self.database)
        self.addCleanup(self.sql, CLEAN)

    def strict(self) -> PostgresPlace:
        """
        The same, where transactions see nothing that others write unless they ask to.
        """
        options = "-c%20default_transaction_isolation%3Dserializable"
        return PostgresPlace(f"{self.place.url}&options={options}")

    def sql(self, statement: str) -> list[Any]:
        """
        What an operator may do with the database.
        """
        return self.cluster.do(statement, self.database)
