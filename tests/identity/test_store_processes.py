# SPDX-License-Identifier: MIT
"""
Many first connections at once, in several processes.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.identity.keys import PublicKey
from nodecomm.identity.store import FileKeyStore
from nodecomm.storage.database import DATABASE_NAME, connect
from nodecomm.storage.windows import window_used
from tests.identity.sample import MODULUS, temporary_folder

PROCESSES = 4
CONNECTIONS = 200
WINDOW = 150

#: One worker: each line of input is a modulus; the answer is the decision's code.
WORKER = """
import sys
from nodecomm.identity.keys import PublicKey
from nodecomm.identity.store import FileKeyStore
from nodecomm.identity.trust import TrustPolicy, TrustWindow
from nodecomm.storage.database import connect
from nodecomm.storage.windows import take_from_window, window_has_room

class Counter:
    def __init__(self, connection):
        self.connection = connection
    def take(self, *call):
        return take_from_window(self.connection, *call)
    def has_room(self, *call):
        return window_has_room(self.connection, *call)

folder, database, count = sys.argv[1:]
window = TrustWindow(lambda address: True, "any", None, int(count))
policy = TrustPolicy(
    FileKeyStore(folder), [window], ["root"], Counter(connect(database))
)
print("ready", flush=True)
for line in sys.stdin:
    key = PublicKey(int(line), 65537)
    if policy.check_key(key, "10.0.0.1").trusted:
        print(policy.check_identity(key, "root", "10.0.0.1").code)
    else:
        print("closed")
"""


@pytest.mark.programs
class ManyProcessesTests(SynchronousTestCase):
    """
    Several worker processes share a folder of keys and a database.
    """

    def setUp(self) -> None:
        self.root = temporary_folder(self)
        self.folder = self.root / "ppkeys"
        self.database = self.root / DATABASE_NAME

    def run_workers(self, work: list[list[PublicKey]], count: int) -> list[list[str]]:
        command = [sys.executable, "-c", WORKER]
        command += [str(self.folder), str(self.database), str(count)]
        workers = [
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for _ in work
        ]
        answers = []
        for worker in workers:
            assert worker.stdout is not None
            self.assertEqual("ready\n", worker.stdout.readline())
        for worker, keys in zip(workers, work, strict=True):
            assert worker.stdin is not None
            worker.stdin.write("".join(f"{key.modulus}\n" for key in keys))
            worker.stdin.close()
        for worker in workers:
            assert worker.stdout is not None
            answers.append(worker.stdout.read().split())
            worker.stdout.close()
            self.assertEqual(0, worker.wait())
        return answers

    def used(self) -> int:
        connection = connect(self.database)
        try:
            return window_used(connection, "any")
        finally:
            connection.close()

    def test_no_key_is_lost_or_mixed(self) -> None:
        """
        Each of 200 keys arrives in two processes; all are saved once, whole, under
        their own names, and each takes one place.
        """
        keys = [PublicKey(MODULUS + 2 * n, 65537) for n in range(CONNECTIONS)]
        orders = [keys[::2], keys[1::2], keys[::2], keys[1::2]]
        dice = random.Random(5)
        work = [dice.sample(order, len(order)) for order in orders]

        answers = self.run_workers(work, CONNECTIONS)

        for order, codes in zip(work, answers, strict=True):
            self.assertEqual(len(order), len(codes))
            self.assertLessEqual(set(codes), {"first_use", "stored"})
        store = FileKeyStore(self.folder)
        self.assertEqual(set(keys), {entry.key for entry in store.entries()})
        names = {f"root-{key.md5}.pub" for key in keys}
        self.assertEqual(names, set(os.listdir(self.folder)))
        self.assertEqual(CONNECTIONS, self.used())

    def test_a_window_is_never_overdrawn(self) -> None:
        """
        More keys than the window has places arrive at once: exactly as many as it
        has are saved.
        """
        keys = [PublicKey(MODULUS + 2 * n, 65537) for n in range(CONNECTIONS)]
        work = [keys[start::PROCESSES] for start in range(PROCESSES)]

        answers = self.run_workers(work, WINDOW)

        codes = [code for answer in answers for code in answer]
        self.assertEqual(WINDOW, codes.count("first_use"))
        self.assertEqual(CONNECTIONS, len(codes))
        self.assertEqual(WINDOW, len(os.listdir(self.folder)))
        self.assertEqual(WINDOW, self.used())
