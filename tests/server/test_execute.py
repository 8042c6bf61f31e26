# SPDX-License-Identifier: MIT
"""
EXEC: who may have a run, what is said of it, and in which words.
"""

from __future__ import annotations

import re
from ast import literal_eval
from itertools import pairwise
from pathlib import Path
from textwrap import dedent
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.testing import MemoryRunner, memory_server
from nodecomm.wire.framing import TransactionBuffer
from tests.server.descriptors import open_descriptors
from tests.server.execute_case import (
    END,
    REFUSED,
    TERMINATOR,
    VERSIONS,
    ExecuteTestCase,
    frames,
)

ROLE = b"EXEC denied role activation (check cf-serverd verbose output)"
BUNDLE = b"EXEC denied bundle activation (check cf-serverd verbose output)"
NO_CLASS = b"EXEC denied due to failed class match (check cf-serverd verbose output)"
INVALID = b"EXEC denied: invalid arguments: "


class RefusedTests(ExecuteTestCase):
    """
    Those who may not have a run at all.
    """

    def refused(self, code: str, *, user: str = "", **server: Any) -> None:
        """They get the refusal, after all their frames were read, and are left."""
        made = self.make_server(**server) if server else self.server
        for version in VERSIONS:
            node = self.node(version, server=made, user=user)
            for part in (b"EXEC -Dno -x", b"linux", b"other"):
                self.assertEqual([], node.request(part))

            self.assertEqual(REFUSED, node.request(TERMINATOR), version)
            self.assertTrue(node.closed)
        self.assertEqual([], self.runner.runs)
        refusals = self.told("request.refused")
        self.assertEqual([code] * len(VERSIONS), [each["reason"] for each in refusals])

    def test_no_command(self) -> None:
        """The operator has named none."""
        self.refused("no_command", server={"cfruncommand": []})

    def test_no_runner(self) -> None:
        """There is a command, and nobody here who runs it."""
        self.refused("no_runner", execution=None)

    def test_no_program(self) -> None:
        """The program is not there."""
        self.program.unlink()
        self.refused("absent")

    def test_a_folder(self) -> None:
        """The program is no file."""
        self.program.unlink()
        self.program.mkdir()
        rules = [{"path": str(self.root), "admit_ips": ["127.0.0.1"]}]
        self.refused("no_program", rules=rules)

    def test_no_rule(self) -> None:
        """No rule covers the program, whatever is allowed besides."""
        self.refused("no_rule", rules=[])

    def test_another_address(self) -> None:
        """The program's rule admits others."""
        rules = [{"path": str(self.program), "admit_ips": ["10.0.0.1"]}]
        self.refused("not_admitted", rules=rules)

    def test_another_user(self) -> None:
        """Names are compared exactly."""
        made = {"allowusers": ["Bob", "bobby", "bo", "*", ".*"]}
        self.refused("not_in_allowusers", user="bob", server=made)

    def test_order(self) -> None:
        """Program, user: the first thing that is missing is what the log has."""
        self.refused("no_rule", user="bob", rules=[])
        self.events.clear()
        self.refused("not_in_allowusers", user="bob")
        self.assertIn("allowusers does not name", self.events[-2]["text"])

    def test_where_the_program_is(self) -> None:
        """The rule for where a link leads decides."""
        real = self.program.rename(self.root / "real")
        self.program.symlink_to(real)
        rule = {"path": str(self.root / "real"), "admit_ips": ["127.0.0.1"]}

        node = self.node(server=self.make_server(rules=[rule]))

        self.assertIn(b"cf-serverd executing", node.execute()[0])


class DeniedTests(ExecuteTestCase):
    """
    Those who may have a run, but not this one. They may go on.
    """

    def denied(self, request: bytes, *answer: bytes) -> None:
        """They are told so, as is the log, and the next one is answered."""
        for version in VERSIONS:
            node = self.node(version)
            found = node.request(request, TERMINATOR, b"VERSION")

            self.assertEqual([*answer, END, b"OK: 3.21.0"], found, (version, request))
        self.assertEqual([], self.runner.runs)

    def test_classes_and_bundles(self) -> None:
        """What is not admitted, or cannot be a name; the first one of both decides."""
        for options, answer in (
            (b"-Dno", ROLE),
            (b"-D ok,no", ROLE),
            (b"-Dok -D no", ROLE),
            (b"-D ok,,ok", ROLE),
            (b"-Dok;id", ROLE),
            (b"-Dok\nid", ROLE),
            (b"-Dok$(id)", ROLE),
            (b"-Dok.no", ROLE),
            (b"-D okn\xc3\xa9", ROLE),
            (b"-b other", BUNDLE),
            (b"-bgood,other", BUNDLE),
            (b"-b goodbye", BUNDLE),
            (b"-b good|id", BUNDLE),
            (b"-D no -b other", ROLE),
            (b"-b other -D no", BUNDLE),
            (b"-Dno -b good -x", ROLE),
        ):
            self.denied(b"EXEC " + options, answer)

    def test_arguments(self) -> None:
        """The peer's own words come back, from the first that is no option."""
        for options, rest in (
            (b"-K -I", b"-K -I"),
            (b"-Dok -x", b"-x"),
            (b"-b good  trailing", b"trailing"),
            (b"--define ok", b"--define ok"),
            (b"; id", b"; id"),
        ):
            self.denied(b"EXEC " + options, INVALID + rest)

    def test_long_arguments(self) -> None:
        """Their end is cut where the frame ends."""
        rest = b"x" * 4083

        found = self.node().request(b"EXEC " + rest, TERMINATOR)

        self.assertEqual([(INVALID + rest)[:4088], END], found)

    def test_another_user(self) -> None:
        """One who may ask for runs, but define no class."""
        made = self.make_server(server={"allowusers": ["root", "bob"]})

        node = self.node(server=made, user="bob")

        self.assertEqual([ROLE, END], node.execute([b"ok"]))

    def test_no_such_class(self) -> None:
        """The node says its name, on the classic protocol alone, and that it has no
        such class; that comes before all arguments."""
        for version, name in ((1, b"localhost"), (2, b""), (3, b"")):
            hello = b"Hello %b (127.0.0.1), nothing relevant to do here...\n\n" % name
            for parts in ([b"no"], [b"no", b"nor"], [b"no nor"], [b" "], [b"\0linux"]):
                node = self.node(version)

                found = node.request(b"EXEC -Dno -x", *parts, TERMINATOR)

                self.assertEqual([hello, NO_CLASS, END], found, (version, parts))
                self.assertEqual([b"OK: 3.21.0"], node.request(b"VERSION"))
        self.assertEqual([], self.runner.runs)

    def test_an_empty_frame(self) -> None:
        """It ends the list: what matches before it counts, what is behind it does
        not; the denial comes without a hello, and all is read."""
        nothing = b"t 0\0\0\0\0\0"
        for version in VERSIONS:
            for before, behind in (
                (b"", b""),
                (frames(b"no"), frames(b"linux")),
                (b"", frames(b"linux") + nothing * 90),
            ):
                node = self.node(version)
                node.send(frames(b"EXEC") + before + nothing + behind)
                found = node.request(TERMINATOR, b"VERSION")
                self.assertEqual([NO_CLASS, END, b"OK: 3.21.0"], found)
            self.assertEqual([], self.runner.runs)
            node = self.node(version)
            node.send(frames(b"EXEC", b"linux") + nothing)
            (announced,) = node.request(TERMINATOR)
            self.assertIn(b"executing", announced)
            self.runner.runs.pop().end(0)
            for wire in (nothing, frames(b"EXEC", TERMINATOR) + nothing):
                node = self.node(version)
                node.send(wire)
                if self.runner.runs:
                    self.runner.runs.pop().end(0)
                self.heard(node)
                self.assertTrue(node.closed)

    def test_what_the_log_has(self) -> None:
        """The reason of each, with the rule's place, and the peer."""
        node = self.node()
        node.request(b"EXEC -Dno", TERMINATOR)
        node.request(b"EXEC -bgoodbye", TERMINATOR)
        node.request(b"EXEC x", TERMINATOR)
        node.request(b"EXEC", b"no", TERMINATOR)

        found = self.told("request.refused")
        reasons = [each["reason"] for each in found]
        self.assertEqual(["no_role", "denied", "malformed", "class_match"], reasons)
        self.assertEqual({"127.0.0.1"}, {each["peer"] for each in found})
        self.assertEqual({str(self.program)}, {each["name"] for each in found})
        self.assertIn("goodbye", found[1]["text"])
        self.assertIn("no class that is asked for: no", found[3]["text"])


class RunTests(ExecuteTestCase):
    """
    What a peer is told of a run.
    """

    def announced(self, words: str = "") -> bytes:
        """The announcement."""
        return f"cf-serverd executing cfruncommand: {self.program} -K{words}\n".encode()

    def test_nothing_is_held_open(self) -> None:
        """The program is looked at and let go of: no descriptor for as long as it
        runs."""
        node = self.node()
        self.heard(node, b"EXEC", TERMINATOR)
        self.last.say(b"it runs\n")
        program = str(self.program.resolve())
        self.assertNotIn(program, open_descriptors().values())

    def test_a_run(self) -> None:
        """Each line is there as soon as it is whole, then the exit code, and the
        connection may be used again."""
        for version in VERSIONS:
            node = self.node(version)
            self.assertEqual([self.announced()], node.execute())

            for said, heard in (
                (b"one\n", [b"> one\n"]),
                (b"tw", []),
                (b"o\n\nthr", [b"> two\n", b"> \n"]),
                (b"ee", []),
            ):
                self.last.say(said)
                self.assertEqual(heard, self.heard(node), said)
            self.last.end(3)

            ends = [b"> three\n", b"(exit code: 3)\n", END]
            self.assertEqual(ends, self.heard(node))
            self.assertEqual([self.announced()], node.execute())
            self.last.end(0)
            ends = [b"(exit code: 0)\n", END]
            self.assertEqual([*ends, b"OK: 3.21.0"], self.heard(node, b"VERSION"))
            self.assertFalse(node.closed)

    def test_no_exit_code(self) -> None:
        """Where there is none to tell, none is told."""
        node = self.node()
        node.execute()

        self.last.end(None, signal=15)

        self.assertEqual([END], self.heard(node))

    def test_what_is_run(self) -> None:
        """The order has all that was asked for, as it was asked for."""
        for options, words, defined, bundles in (
            (b"", b"", (), ()),
            (b" ", b"", (), ()),
            (b"\0x", b"", (), ()),
            (b" -Dok", b"-D ok", (b"ok",), ()),
            (b" -D ok1,ok_2:x", b"-D ok1,ok_2:x", (b"ok1", b"ok_2:x"), ()),
            (b" -D ok,", b"-D ok,", (b"ok",), ()),
            (b" -D  ok -b good", b"-D ok --bundlesequence good", (b"ok",), (b"good",)),
            (
                b" -bgood,good2 -Dok -D ok1",
                b"--bundlesequence good,good2 -D ok -D ok1",
                (b"ok", b"ok1"),
                (b"good", b"good2"),
            ),
        ):
            node = self.node()
            node.request(b"EXEC" + options, b"linux other", b"x", TERMINATOR)
            order = self.last.order
            self.assertEqual(words, b" ".join(order.words), options)
            self.assertEqual((defined, bundles), (order.defined, order.bundles))
            self.assertEqual((b"linux", b"other", b"x"), order.selected)
            self.assertEqual("root", order.peer.user)
            self.assertEqual((str(self.program), "-K"), order.execution.command)

    def test_classes(self) -> None:
        """One of them is enough, wherever it stands."""
        for parts in (
            [b"linux"],
            [b"no", b"linux"],
            [b"linux", b"no"],
            [b"no nor linux"],
            [b" linux "],
            [*[b"no"] * 15, b"any"],
        ):
            node = self.node()
            found = node.request(b"EXEC", *parts, TERMINATOR, b"VERSION")
            self.assertEqual([self.announced()], found, parts)
            self.last.end(0)
            answers = [b"(exit code: 0)\n", END, b"OK: 3.21.0"]
            self.assertEqual(answers, self.heard(node))

    def test_what_looks_like_something_else(self) -> None:
        """A program's words are lines, whatever they are."""
        node = self.node()
        node.execute()

        for line in (END[:-1], b"(exit code: 0)", b"BAD: x", b"> y", b"\x1b[2J\r"):
            self.last.say(line + b"\n")
            self.assertEqual([b"> " + line + b"\n"], self.heard(node))

    def test_words_of_the_server(self) -> None:
        """They are lines of their own, before a run and in it."""
        node = self.node()
        node.execute()
        self.last.say(b"half")
        self.last.tell("the output is\ntoo long")
        self.last.say(b" and more\n")
        self.last.end(0)

        lines = [b"> half\n", b"> nodecomm: the output is too long\n"]
        ends = [b">  and more\n", b"(exit code: 0)\n", END]
        self.assertEqual([*lines, *ends], self.heard(node))

    def test_no_run_after_all(self) -> None:
        """The peer is told why, and may go on."""
        self.runner.at_once = False
        node = self.node()
        self.assertEqual([], node.execute())
        self.last.tell("it must wait")
        self.assertEqual([b"> nodecomm: it must wait\n"], self.heard(node))

        self.last.refuse("too many runs wait")

        found = [b"> nodecomm: too many runs wait\n", END, b"OK: 3.21.0"]
        self.assertEqual(found, self.heard(node, b"VERSION"))

    def test_a_text(self) -> None:
        """The program of a text for the shell is its first word."""
        made = self.make_server(server={"cfruncommand": f"{self.program} -K; id"})

        found = self.node(server=made).execute([b"ok"])

        command = f"{self.program} -K; id -D ok\n".encode()
        self.assertEqual([b"cf-serverd executing cfruncommand: " + command], found)

    def test_rules_that_change_before_all_is_read(self) -> None:
        """Those count that are in force when the request is complete."""
        node = self.node()
        node.request(b"EXEC")
        evaluator = self.server.factory.serving.evaluator
        other = self.make_server(server={"cfruncommand": []})
        evaluator.snapshot = other.factory.serving.evaluator.snapshot

        self.assertEqual(REFUSED, node.request(TERMINATOR))
        self.assertEqual([], self.runner.runs)


class DocumentedTests(SynchronousTestCase):
    """
    The example in docs/embedding.rst.
    """

    def test_the_example(self) -> None:
        """Each line gives what stands behind it."""
        page = Path(__file__).parents[2] / "docs" / "embedding.rst"
        found = re.search(
            r"    runner = MemoryRunner\(\)\n(    .*\n)+", page.read_text()
        )
        assert found is not None
        names = {"MemoryRunner": MemoryRunner, "memory_server": memory_server}
        before: list[str] = []
        seen = []
        for line in dedent(found[0]).splitlines():
            code, _, says = line.partition("# ")
            if says:
                exec("\n".join(before), names)
                before.clear()
                says = says.replace("/...", "/cfXen/gine---\\0")
                self.assertEqual(literal_eval(says), eval(code, names))
                seen.append(says)
            else:
                before.append(code)

        self.assertEqual(2, len(seen))


class SplitTests(ExecuteTestCase):
    """
    However the bytes come.
    """

    @settings(max_examples=40)
    @given(
        cuts=st.lists(st.integers(0, 400), max_size=8), version=st.sampled_from((1, 3))
    )
    def test_any_split(self, cuts: list[int], version: int) -> None:
        """Several runs, denials and other requests, all sent ahead, are answered alike
        and in order."""
        asked = [
            *(b"EXEC -Dok", b"no", b"linux", TERMINATOR + b"\0 x"),
            *(b"VERSION", b"EXEC -x", TERMINATOR),
            *(b"EXEC", TERMINATOR, b"VERSION", b"EXEC", b"no", TERMINATOR, b"VERSION"),
        ]
        node = self.node(version)
        wire = frames(*asked)
        places = sorted({0, len(wire), *(cut for cut in cuts if cut < len(wire))})
        found: list[bytes] = []
        begun = len(self.runner.runs)
        for begin, end in pairwise(places):
            node.send(wire[begin:end])
            found += node.transactions()
        for count in (1, 2):
            self.assertEqual(begun + count, len(self.runner.runs))
            self.last.say(b"run %d\n" % count)
            self.last.end(count)
            found += self.heard(node)

        name = b"localhost" if version == 1 else b""
        hello = b"Hello %b (127.0.0.1), nothing relevant to do here...\n\n" % name
        program = str(self.program).encode()
        announced = b"cf-serverd executing cfruncommand: " + program + b" -K"
        self.assertEqual(
            [
                *(announced + b" -D ok\n", b"> run 1\n", b"(exit code: 1)\n", END),
                *(b"OK: 3.21.0", INVALID + b"-x", END),
                *(announced + b"\n", b"> run 2\n", b"(exit code: 2)\n", END),
                *(b"OK: 3.21.0", hello, NO_CLASS, END, b"OK: 3.21.0"),
            ],
            found,
        )

    @settings(max_examples=60)
    @given(
        st.lists(
            st.one_of(
                st.binary(min_size=1, max_size=40),
                st.sampled_from((b"EXEC", b"EXEC -Dok", TERMINATOR, b"linux", b"no")),
            ),
            max_size=12,
        )
    )
    def test_any_frames(self, payloads: list[bytes]) -> None:
        """Whatever comes behind EXEC is answered by one run or by words that end with
        the terminator, once that has come; nothing of it is taken for a request."""
        node = self.node()
        classes = [each for each in payloads if not each.startswith(TERMINATOR)]
        before = len(self.runner.runs)

        self.assertEqual([], node.request(b"EXEC", *classes))
        found = node.request(TERMINATOR)

        if len(self.runner.runs) > before:
            self.assertEqual(1, len(found))
            self.last.end(0)
            found = self.heard(node)
        self.assertEqual(END, found[-1])
        self.assertEqual([b"OK: 3.21.0"], node.request(b"VERSION"))


class OutputTests(ExecuteTestCase):
    """
    What leaves for the peer, as TLS records.
    """

    def test_records(self) -> None:
        """No record divides a frame, and none is longer than TLS allows; lines are
        cut where a frame ends."""
        lines = [b"x" * (7 * count % 5000) for count in range(1000)]
        data = b"\n".join(lines)
        node = self.server.connect()
        node.execute()
        node.records.clear()

        for begin in range(0, len(data), 60_000):
            self.last.say(data[begin : begin + 60_000])
            node.pump()
        self.last.end(0)
        node.pump()

        found: list[bytes] = []
        for record in node.records:
            self.assertLessEqual(len(record), 16384)
            buffer = TransactionBuffer()
            buffer.feed(record)
            while (payload := buffer.next_payload()) is not None:
                found.append(payload)
            self.assertEqual(0, len(buffer))
        sent = [b"> " + line[:4083] + b"\n" for line in lines]
        self.assertEqual([*sent, b"(exit code: 0)\n", END], found)
