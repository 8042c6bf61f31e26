# SPDX-License-Identifier: MIT
"""
From a name to a held object of the file system.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import SkipTest, mock

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.server import filesystem, posix
from nodecomm.server.digests import DigestCache
from nodecomm.server.filesystem import MAX_PATH, FileSystemSource, HeldFile
from nodecomm.server.held import Kind
from nodecomm.server.pools import InlinePool
from tests.server.descriptors import no_descriptor_lost


class TreeCase(SynchronousTestCase):
    """
    A folder, and a source that serves the host.
    """

    def setUp(self) -> None:
        # A short name: sockets have no room for long ones.
        self.root = Path(tempfile.mkdtemp()).resolve()
        self.addCleanup(shutil.rmtree, self.root)
        (self.root / "file").write_bytes(b"content\n")
        (self.root / "sub").mkdir()
        (self.root / "sub" / "inner").write_bytes(b"inner")
        self.time = 0.0
        self.source = self.make_source()

    def make_source(self) -> FileSystemSource:
        pool = InlinePool()
        digests = DigestCache(pool, None, 10, lambda: 0)
        return FileSystemSource(digests, pool, monotonic=lambda: self.time)

    def path(self, name: bytes | str = b"") -> bytes:
        return os.path.join(os.fsencode(self.root), os.fsencode(name))

    def resolve(self, name: bytes | str) -> HeldFile:
        """Hold the object, and let go of it after the test."""
        held = self.source.resolve(None, self.path(name))
        self.addCleanup(held.close)
        return held

    def assert_absent(self, name: bytes | str) -> None:
        with no_descriptor_lost(), self.assertRaises(FileNotFoundError):
            self.source.resolve(None, self.path(name))


class ResolveTests(TreeCase):
    """
    What a name leads to.
    """

    def test_real_names(self) -> None:
        """Links, dots and slashes are resolved by the system, not by the text."""
        (self.root / "to-file").symlink_to("file")
        (self.root / "to-sub").symlink_to(self.root / "sub")
        (self.root / "sub" / "up").symlink_to("..")
        for name, real in [
            (b"file", b"file"),
            (b"to-file", b"file"),
            (b"to-sub", b"sub"),
            (b"sub/", b"sub"),
            (b"sub//", b"sub"),
            (b"to-sub/", b"sub"),
            (b"to-sub/inner", b"sub/inner"),
            (b"sub/../file", b"file"),
            # `..` of the folder that the link leads to.
            (b"to-sub/../file", b"file"),
            (b"sub/up/file", b"file"),
            (b"./sub/.//inner", b"sub/inner"),
            (b".//sub///inner", b"sub/inner"),
        ]:
            self.assertEqual(self.path(real), self.resolve(name).path, name)

    def test_root(self) -> None:
        """The root's real name is a slash, also by way of too many `..`."""
        for name in (b"/", b"//", b"/..", b"/../../"):
            held = self.source.resolve(None, name)
            self.assertEqual((b"/", True), (held.path, held.stat().is_directory))
            held.close()

    def test_absent(self) -> None:
        """What does not exist is told apart from every failure of ours."""
        (self.root / "lost").symlink_to("nowhere")
        for name in [
            b"nothing",
            b"nothing/below",
            b"file/",
            b"file/below",
            b"sub/..file",
            b"lost/",
            b"lost/below",
            b"n" * 256,
            b"sub/" * 1200,
        ]:
            self.assert_absent(name)

    def test_no_absolute_name(self) -> None:
        """Neither a relative name nor one with a NUL nor a too long one is one."""
        for name in [b"", b"file", b"./file", self.path(b"file\0"), b"/" * MAX_PATH]:
            with self.assertRaises(FileNotFoundError):
                self.source.resolve(None, name)

    def test_names_of_any_bytes(self) -> None:
        """255 bytes, no UTF-8, controls, white space: a name is bytes."""
        for name in [b"n" * 255, b"\xff\xfe", b" a b ", b"a\nb", b"\x1b[m", b"\\x41"]:
            with open(self.path(name), "wb"):
                pass
            self.assertEqual(self.path(name), self.resolve(name).path)

    def test_dangling_link(self) -> None:
        """It is held itself, under its own name, with its text."""
        (self.root / "lost").symlink_to("no/where")
        (self.root / "bytes").symlink_to(os.fsdecode(b"\xff"))
        for name, text in [(b"lost", b"no/where"), (b"bytes", b"\xff")]:
            held = self.resolve(name)
            self.assertEqual(
                (Kind.LINK, text, self.path(name)),
                (held.stat().kind, held.stat().target, held.path),
            )

    def test_loops(self) -> None:
        """A link that leads to itself leads nowhere; below it there is nothing."""
        (self.root / "self").symlink_to("self")
        (self.root / "a").symlink_to("b")
        (self.root / "b").symlink_to("a")
        for name in (b"self", b"a"):
            self.assertEqual(Kind.LINK, self.resolve(name).stat().kind)
        self.assert_absent(b"self/below")

    def test_a_link_into_a_file(self) -> None:
        """A link whose way goes through a plain file is held itself."""
        (self.root / "through").symlink_to("file/below")

        self.assertEqual(b"file/below", self.resolve(b"through").stat().target)

    def test_what_is_never_opened(self) -> None:
        """Fifos, sockets and devices are held and told of, and never opened."""
        os.mkfifo(self.root / "fifo")
        listening = socket.socket(socket.AF_UNIX)
        self.addCleanup(listening.close)
        listening.bind(str(self.root / "socket"))
        for name, kind in [
            (self.path(b"fifo"), Kind.FIFO),
            (self.path(b"socket"), Kind.SOCKET),
            (b"/dev/null", Kind.CHARACTER),
        ]:
            held = self.source.resolve(None, name)
            self.addCleanup(held.close)
            self.assertEqual((kind, name), (held.stat().kind, held.path))
            for opening in (
                lambda held=held: held.read(0, 1),
                lambda held=held: held.digest("md5"),
                held.open,
            ):
                with self.assertRaises(OSError) as raised:
                    opening()
                self.assertEqual(errno.EINVAL, raised.exception.errno)

    def test_status(self) -> None:
        """Each field is the system's."""
        os.chmod(self.path(b"file"), 0o4751)
        os.link(self.path(b"file"), self.path(b"again"))
        found = os.stat(self.path(b"file"))

        status = self.resolve(b"file").stat()

        self.assertEqual(
            (
                Kind.REGULAR,
                0o4751,
                found.st_uid,
                found.st_gid,
                8,
                found.st_mtime_ns,
                found.st_ctime_ns,
                found.st_ino,
                found.st_dev,
                2,
                b"",
            ),
            (
                status.kind,
                status.mode,
                status.uid,
                status.gid,
                status.size,
                status.mtime_ns,
                status.ctime_ns,
                status.ino,
                status.dev,
                status.nlink,
                status.target,
            ),
        )


class RaceTests(TreeCase):
    """
    What others do to the tree between two calls of ours.
    """

    def meanwhile(self, name: str, change: object) -> None:
        """Let *change* happen once, right after the call *name* of posix."""
        real = getattr(posix, name)
        done: list[bool] = []

        def call(*args: object, **options: object) -> object:
            result = real(*args, **options)
            if not done:
                done.append(True)
                change()  # type: ignore[operator]
            return result

        self.patch(posix, name, call)

    def test_removed_at_once(self) -> None:
        """An object that has no name any more does not exist."""
        self.meanwhile("hold", (self.root / "file").unlink)

        self.assert_absent(b"file")

    def test_folder_removed_at_once(self) -> None:
        """Nor does a folder."""
        (self.root / "gone").mkdir()
        self.meanwhile("hold", (self.root / "gone").rmdir)

        self.assert_absent(b"gone")

    def test_one_of_two_names_removed_at_once(self) -> None:
        """A file that has another name left is not held under a name it never had:
        the system would add a remark to it, and rules would not fit."""
        (self.root / "other").hardlink_to(self.root / "file")
        self.meanwhile("hold", (self.root / "file").unlink)

        self.assert_absent(b"file")

    def test_a_name_like_the_remark(self) -> None:
        """A file may well be called like that."""
        (self.root / "x (deleted)").write_bytes(b"here")
        self.assertEqual(self.path(b"x (deleted)"), self.resolve(b"x (deleted)").path)

    def test_replaced_at_once(self) -> None:
        """A file that is replaced is there all the time, so it is never absent."""
        (self.root / "new").write_bytes(b"new content")
        self.meanwhile("hold", lambda: (self.root / "new").rename(self.root / "file"))

        with no_descriptor_lost():
            held = self.source.resolve(None, self.path(b"file"))
            self.assertEqual(11, held.stat().size)
            held.close()

    def test_replaced_again_and_again(self) -> None:
        """A name that stands for another object at each look is a failure in the
        end, and no absence."""
        real = posix.hold

        def hold(path: bytes, *, follow: bool = True) -> int:
            descriptor = real(path, follow=follow)
            (self.root / "new").write_bytes(b"new")
            (self.root / "new").rename(self.root / "file")
            return descriptor

        self.patch(posix, "hold", hold)

        with no_descriptor_lost(), self.assertRaises(OSError) as raised:
            self.source.resolve(None, self.path(b"file"))
        self.assertEqual(errno.ESTALE, raised.exception.errno)

    def test_appeared_at_once(self) -> None:
        """What was absent at the first look is what it is by now."""
        real = posix.hold
        names: list[bool] = []

        def hold(path: bytes, *, follow: bool = True) -> int:
            names.append(follow)
            if len(names) == 1:
                (self.root / "late").write_bytes(b"x")
                raise FileNotFoundError(errno.ENOENT, "not yet", path)
            return real(path, follow=follow)

        self.patch(posix, "hold", hold)

        self.assertEqual(1, self.resolve(b"late").stat().size)
        self.assertEqual([True, False, True], names)

    def test_a_dangling_link_removed_at_once(self) -> None:
        """It does not exist any more."""
        (self.root / "lost").symlink_to("nowhere")
        self.meanwhile("link_text", (self.root / "lost").unlink)

        self.assert_absent(b"lost")

    def test_failures_lose_no_descriptor(self) -> None:
        """Whatever fails between open and the end, the descriptor is closed, and
        what it was is not turned into absence."""
        (self.root / "lost").symlink_to("nowhere")
        for module, call, name in [
            (os, "fstat", b"file"),
            (posix, "real_name", b"file"),
            (os, "fstat", b"lost"),
            (posix, "link_text", b"lost"),
            (posix, "real_name", b"lost"),
        ]:
            for error in (OSError(errno.EIO, "I/O"), MemoryError()):
                with (
                    no_descriptor_lost(),
                    mock.patch.object(module, call, side_effect=error),
                    self.assertRaises(type(error)),
                ):
                    self.source.resolve(None, self.path(name))

    def test_our_own_failures_are_no_absence(self) -> None:
        """Each error that says nothing about the name is passed on as it is."""
        for number in (
            errno.EACCES,
            errno.EPERM,
            errno.EIO,
            errno.EMFILE,
            errno.ENFILE,
            errno.ENOMEM,
            errno.ESTALE,
            errno.ENODEV,
        ):
            error = OSError(number, os.strerror(number))
            with (
                mock.patch.object(posix, "hold", side_effect=error),
                self.assertRaises(OSError) as raised,
            ):
                self.source.resolve(None, self.path(b"file"))
            self.assertEqual(number, raised.exception.errno)
            self.assertNotIsInstance(raised.exception, FileNotFoundError)

    def test_our_own_failure_at_a_dangling_link(self) -> None:
        """The second look may fail for reasons of ours, too."""
        errors = [
            FileNotFoundError(errno.ENOENT, "none"),
            OSError(errno.EMFILE, "too many"),
        ]
        with (
            mock.patch.object(posix, "hold", side_effect=errors),
            self.assertRaises(OSError) as raised,
        ):
            self.source.resolve(None, self.path(b"file"))
        self.assertEqual(errno.EMFILE, raised.exception.errno)


class RememberedTests(TreeCase):
    """
    A real name that is believed for a moment.
    """

    def held_again(self, name: bytes) -> HeldFile:
        """Resolved twice; the second time, without asking for the real name."""
        self.source.resolve(None, self.path(name)).close()
        with mock.patch.object(posix, "real_name", side_effect=AssertionError):
            held = self.source.resolve(None, self.path(name))
        self.addCleanup(held.close)
        return held

    def test_the_same_answers(self) -> None:
        """Name, status, content, names and digest are as without it."""
        (self.root / "link").symlink_to("sub")
        held = self.held_again(b"link")
        self.assertEqual(self.path(b"sub"), held.path)
        self.assertEqual([b".", b"..", b"inner"], held.entries())
        held = self.held_again(b"link/inner")
        self.assertEqual(self.path(b"sub/inner"), held.path)
        self.assertEqual((b"inner", 5), (held.read(0, 100), held.stat().size))

    def test_the_status_is_of_this_moment(self) -> None:
        """Only the name is remembered: size, mode and owner decide as they are."""
        self.source.resolve(None, self.path(b"file")).close()
        (self.root / "file").write_bytes(b"longer content")
        os.chmod(self.path(b"file"), 0o600)

        status = self.held_again(b"file").stat()

        self.assertEqual((14, 0o600), (status.size, status.mode))

    def test_not_for_long(self) -> None:
        """After `REMEMBERED` seconds the system is asked again."""
        self.source.resolve(None, self.path(b"file")).close()
        self.time += filesystem.REMEMBERED
        with (
            mock.patch.object(posix, "real_name", side_effect=AssertionError),
            self.assertRaises(AssertionError),
        ):
            self.source.resolve(None, self.path(b"file"))

    def test_a_link_that_leads_elsewhere_now(self) -> None:
        """Another object has another real name, at once."""
        (self.root / "link").symlink_to("file")
        self.assertEqual(self.path(b"file"), self.resolve(b"link").path)
        (self.root / "link").unlink()
        (self.root / "link").symlink_to("sub/inner")

        self.assertEqual(self.path(b"sub/inner"), self.resolve(b"link").path)

    def test_a_link_that_leads_nowhere_now(self) -> None:
        """It is a link from now on, and when it is gone it is absent."""
        (self.root / "link").symlink_to("file")
        self.resolve(b"link")
        (self.root / "file").unlink()
        self.assertEqual(Kind.LINK, self.resolve(b"link").stat().kind)
        (self.root / "link").unlink()
        self.assert_absent(b"link")

    def test_replaced_before_it_is_read(self) -> None:
        """What access was decided on is read, or nothing; never another object."""
        held = self.held_again(b"file")
        (self.root / "new").write_bytes(b"another")
        (self.root / "new").rename(self.root / "file")

        with no_descriptor_lost(), self.assertRaises(OSError) as raised:
            held.read(0, 100)

        self.assertEqual(errno.ESTALE, raised.exception.errno)

    def test_a_failure_while_it_is_held_again(self) -> None:
        """The descriptor is closed, and the error is passed on."""
        held = self.held_again(b"file")
        error = OSError(errno.ESTALE, "stale file handle")
        with (
            no_descriptor_lost(),
            mock.patch.object(os, "fstat", side_effect=error),
            self.assertRaises(OSError),
        ):
            held.read(0, 1)

    def test_a_link_put_in_its_place(self) -> None:
        """Not even one to the same file is followed."""
        held = self.held_again(b"file")
        (self.root / "file").rename(self.root / "moved")
        (self.root / "file").symlink_to("moved")

        with no_descriptor_lost(), self.assertRaises(OSError):
            held.read(0, 100)

    def test_a_closed_object_stays_closed(self) -> None:
        """Nothing opens it again."""
        for held in (self.held_again(b"file"), self.resolve(b"sub")):
            held.close()
            with no_descriptor_lost():
                for use in (
                    lambda held=held: held.read(0, 1),
                    lambda held=held: held.entries(),
                    lambda held=held: held.unchanged(1),
                ):
                    with self.assertRaises(OSError):
                        use()

    def test_bounded(self) -> None:
        """However many names are asked for."""
        self.patch(filesystem, "_NAMES", 3)
        for number in range(20):
            name = b"./" * number + b"file"
            self.source.resolve(None, self.path(name)).close()

        self.assertLessEqual(len(self.source._known), 3)


class HeldTests(TreeCase):
    """
    A held object.
    """

    def test_read(self) -> None:
        """Any part; nothing behind the end."""
        held = self.resolve(b"file")

        self.assertEqual(
            [b"content\n", b"ten", b"", b""],
            [held.read(0, 100), held.read(3, 3), held.read(8, 5), held.read(99, 5)],
        )

    def test_cold_content_is_read_in_the_pool(self) -> None:
        """What is not in memory is waited for elsewhere."""
        with mock.patch.object(posix, "read_cached", return_value=None):
            found = self.resolve(b"file").read(3, 3)

        assert isinstance(found, Deferred)
        self.assertEqual(b"ten", self.successResultOf(found))

    def test_content_survives_replacement(self) -> None:
        """The held object is read, whatever its name means by now."""
        held = self.resolve(b"file")
        (self.root / "new").write_bytes(b"other")
        (self.root / "new").rename(self.root / "file")

        self.assertEqual(b"content\n", held.read(0, 100))

    def test_unchanged(self) -> None:
        """Growing behind the announced bytes is no change; all else is."""
        held = self.resolve(b"file")
        later = held.stat().mtime_ns + 1_000_000_000
        self.assertTrue(held.unchanged(8))
        with open(self.path(b"file"), "ab") as file:
            file.write(b"more")
        os.utime(self.path(b"file"), ns=(later, later))
        self.assertTrue(held.unchanged(8))
        os.truncate(self.path(b"file"), 8)
        os.utime(self.path(b"file"), ns=(later, later))
        self.assertFalse(held.unchanged(8))
        os.truncate(self.path(b"file"), 7)
        self.assertFalse(held.unchanged(8))

    def test_entries(self) -> None:
        """The names, in any bytes, after `.` and `..`; a file has none."""
        for name in (b"\xff", b"n" * 255):
            with open(self.path(b"sub/" + name), "wb"):
                pass
        names = self.resolve(b"sub").entries()
        assert isinstance(names, list)

        self.assertEqual([b".", b".."], names[:2])
        self.assertEqual({b"inner", b"\xff", b"n" * 255}, set(names[2:]))
        with self.assertRaises(NotADirectoryError):
            self.resolve(b"file").entries()

    def test_a_large_folder_is_listed_in_the_pool(self) -> None:
        """Where it takes more than `SMALL_FOLDER` bytes on disk."""
        self.patch(filesystem, "SMALL_FOLDER", 0)
        found = self.resolve(b"sub").entries()

        assert isinstance(found, Deferred)
        self.assertIn(b"inner", self.successResultOf(found))

    def test_close_twice(self) -> None:
        """The second time does nothing, least of all to another's descriptor."""
        with no_descriptor_lost():
            held = self.source.resolve(None, self.path(b"file"))
            held.read(0, 1)
            held.close()
            other = os.open(self.path(b"file"), os.O_RDONLY)
            held.close()
            os.fstat(other)
            os.close(other)

    def test_every_use_gives_back_its_descriptor(self) -> None:
        """Held, read, listed, hashed, failed: after `close` nothing is left."""
        for name in (b"file", b"sub"):
            for use in ("read", "entries", "digest", "unchanged", "nothing"):
                with no_descriptor_lost():
                    held = self.source.resolve(None, self.path(name))
                    try:
                        if use == "read":
                            held.read(0, 5)
                        elif use == "entries":
                            held.entries()
                        elif use == "digest":
                            held.digest("md5")
                        elif use == "unchanged":
                            held.unchanged(1)
                    except OSError:
                        pass
                    finally:
                        held.close()

    def test_open_fails(self) -> None:
        """No descriptor left: the error is passed on and nothing is lost."""
        error = OSError(errno.EMFILE, "too many open files")
        with (
            no_descriptor_lost(),
            mock.patch.object(posix, "open_held", side_effect=error),
        ):
            held = self.source.resolve(None, self.path(b"file"))
            for use in (
                lambda: held.read(0, 1),
                lambda: held.digest("md5"),
            ):
                with self.assertRaises(OSError) as raised:
                    use()
                self.assertEqual(errno.EMFILE, raised.exception.errno)
            held.close()


class ReadCachedTests(TreeCase):
    """
    Reads that never wait.
    """

    def test_what_the_system_says(self) -> None:
        """Would block, or cannot: read it elsewhere. Other errors are errors."""
        descriptor = os.open(self.path(b"file"), os.O_RDONLY)
        self.addCleanup(os.close, descriptor)
        for number, answer in [
            (errno.EAGAIN, None),
            (errno.EOPNOTSUPP, None),
            (errno.EINVAL, None),
            (errno.EIO, OSError),
            (errno.ESTALE, OSError),
        ]:
            error = OSError(number, os.strerror(number))
            with mock.patch.object(os, "preadv", side_effect=error):
                if answer is None:
                    self.assertIsNone(posix.read_cached(descriptor, 0, 10))
                else:
                    with self.assertRaises(answer):
                        posix.read_cached(descriptor, 0, 10)

    def test_without_the_flag(self) -> None:
        """Where there is no such read, everything is read elsewhere."""
        self.patch(posix, "_NOWAIT", None)

        self.assertIsNone(posix.read_cached(0, 0, 10))


class WithoutHoldingTests(TreeCase):
    """
    Systems that can only open.
    """

    def setUp(self) -> None:
        super().setUp()
        self.patch(posix, "HAS_O_PATH", False)

    def test_files_and_folders(self) -> None:
        """They are served as ever, by their real names."""
        (self.root / "link").symlink_to("sub")
        with no_descriptor_lost():
            held = self.source.resolve(None, self.path(b"link/../file"))
            self.assertEqual(
                (self.path(b"file"), b"content\n", 8),
                (held.path, held.read(0, 100), held.stat().size),
            )
            held.close()
            held = self.source.resolve(None, self.path(b"link"))
            self.assertEqual(
                (self.path(b"sub"), [b".", b"..", b"inner"]),
                (held.path, held.entries()),
            )
            held.close()

    def test_names_that_are_no_text(self) -> None:
        """A listing gives their bytes."""
        with open(self.path(b"sub/\xff"), "wb"):
            pass

        self.assertIn(b"\xff", self.resolve(b"sub").entries())

    def test_what_cannot_be_held_without_opening(self) -> None:
        """A fifo or device, which opening could wait for or act on, and a link that
        leads nowhere are absent there."""
        os.mkfifo(self.root / "fifo")
        (self.root / "lost").symlink_to("nowhere")
        for name in (b"fifo", b"lost", b"nothing", b"file/"):
            self.assert_absent(name)


_CHILD = """
import os, sys
from nodecomm.server.digests import DigestCache
from nodecomm.server.filesystem import FileSystemSource
from nodecomm.server.pools import InlinePool
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
pool = InlinePool()
source = FileSystemSource(DigestCache(pool, None, 10, lambda: 0), pool)
for step in sys.argv[1:]:
    word, _, name = step.partition(":")
    try:
        held = source.resolve(None, os.fsencode(name))
        if word == "read":
            held.read(0, 1)
        elif word == "entries":
            held.entries()
        elif word == "digest":
            held.digest("md5")
        print("fine")
    except OSError as error:
        print(type(error).__name__)
"""


class OwnRightsTests(TreeCase):
    """
    What this server itself may not reach.
    """

    def outcomes(self, *steps: str) -> list[str]:
        """What happens to a process that is nobody in particular."""
        if os.geteuid() != 0:
            raise SkipTest("only root can become somebody else")
        outcome = subprocess.run(
            [sys.executable, "-c", _CHILD, *steps],
            check=True,
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        return outcome.stdout.split()

    def test_is_never_absence(self) -> None:
        """A folder or file without rights for us is an error of ours; a refusal
        would make a purging agent delete its copy."""
        os.chmod(self.root, 0o755)
        closed = self.root / "closed"
        closed.mkdir(0o700)
        (closed / "below").write_bytes(b"x")
        (self.root / "into").symlink_to(closed / "below")
        (self.root / "private").write_bytes(b"x")
        os.chmod(self.root / "private", 0o600)
        (self.root / "lost").symlink_to("nowhere")

        outcomes = self.outcomes(
            f"stat:{self.root}/file",
            f"stat:{closed}",
            f"stat:{closed}/below",
            f"stat:{closed}/nothing",
            f"stat:{self.root}/into",
            f"stat:{self.root}/private",
            f"stat:{self.root}/nothing",
            f"stat:{self.root}/lost",
            f"read:{self.root}/file",
            f"read:{self.root}/private",
            f"digest:{self.root}/private",
            f"entries:{closed}",
        )

        self.assertEqual(
            [
                "fine",
                "fine",
                "PermissionError",
                "PermissionError",
                "PermissionError",
                "fine",
                "FileNotFoundError",
                "fine",
                "fine",
                "PermissionError",
                "PermissionError",
                "PermissionError",
            ],
            outcomes,
        )
