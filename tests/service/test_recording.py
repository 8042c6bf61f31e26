# SPDX-License-Identifier: MIT
"""
Writing into a configuration that a person writes too.
"""

from __future__ import annotations

import os
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodecomm.config.errors import ConfigError
from nodecomm.config.model import Settings
from nodecomm.service.recording import ConfigurationSet, Plan, as_toml
from nodecomm.service.written import Standing, WrittenFile

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

COMMENTS = {"": "About this part.", "main": "Yours.", "server.listen": "Where."}
UNTIL = datetime(2030, 1, 1, tzinfo=timezone.utc)
WANTED: dict[str, Any] = {
    "server": {
        "listen": ["tcp6:5309"],
        "allowconnects": ["10.0.0.0/8"],
        "trustkeysfrom": [{"network": "10.0.0.0/8", "until": UNTIL}],
    },
    "access": [{"path": "/a/", "shortcut": "a"}, {"path": "/b/", "shortcut": "b"}],
}


def same_shortcut(key_path: str, wanted: Any, theirs: Any) -> bool:
    """
    A person's rule with the same shortcut counts.
    """
    return key_path == "access" and wanted["shortcut"] in [
        one.get("shortcut") for one in theirs
    ]


class TestWrittenFile:
    """
    Files with a mark.
    """

    @pytest.fixture
    def file(self, tmp_path: Path) -> WrittenFile:
        return WrittenFile(tmp_path / "deep" / "down" / "file.toml", "nodecomm test")

    def test_written_once(self, file: WrittenFile) -> None:
        """
        The same text is not written again; another one is, as long as nobody has
        changed the file; everybody may read it, whatever the umask.
        """
        assert file.read() == (Standing.MISSING, "")
        mask = os.umask(0o077)
        try:
            assert file.write("a = 1\n")
        finally:
            os.umask(mask)
        assert file.read() == (Standing.OURS, "a = 1\n")
        before = file.path.stat().st_mtime_ns
        assert not file.write("a = 1\n")
        assert file.path.stat().st_mtime_ns == before
        assert file.path.stat().st_mode & 0o777 == 0o644
        assert file.path.parent.stat().st_mode & 0o777 == 0o755
        assert file.may_write
        assert file.write("a = 2\n")
        assert tomllib.loads(file.path.read_text()) == {"a": 2}

    @pytest.mark.parametrize("at", [0, 60, -1])
    def test_any_change_by_hand_shows(self, file: WrittenFile, at: int) -> None:
        """
        One character more, anywhere, makes the file a person's.
        """
        file.write("a = 1\n")
        text = file.path.read_text()
        at %= len(text)
        file.path.write_text(text[:at] + " " + text[at:])

        assert not file.may_write

    @pytest.mark.parametrize("content", [b"", b"a = 1\n", b"\xff\xfe"])
    def test_a_file_of_others(self, file: WrittenFile, content: bytes) -> None:
        """
        A file without the mark is never ours.
        """
        file.path.parent.mkdir(parents=True)
        file.path.write_bytes(content)

        assert file.read()[0] is Standing.FOREIGN
        assert not file.may_write

    def test_a_dangling_link_is_somebodys(self, file: WrittenFile) -> None:
        """
        A link to nothing is not written through.
        """
        file.path.parent.mkdir(parents=True)
        file.path.symlink_to("nowhere")

        assert not file.may_write

    def test_restore(self, file: WrittenFile) -> None:
        """
        A write can be undone, to another text and to no file.
        """
        missing = file.read()
        file.write("a = 1\n")
        first = file.read()
        file.write("a = 2\n")
        file.restore(first)
        assert file.read() == first
        file.restore(missing)
        assert not file.path.exists()

    @settings(max_examples=50)
    @given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r")))
    def test_any_text_comes_back(self, text: str) -> None:
        """
        Whatever is written is read back and known as ours.
        """
        with tempfile.TemporaryDirectory() as folder:
            file = WrittenFile(Path(folder, "x"), "nodecomm test")
            file.write(text)
            assert file.read() == (Standing.OURS, text)


class TestConfigurationSet:
    """
    A main file, its parts and ours.
    """

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return tmp_path / "etc"

    @pytest.fixture
    def files(self, folder: Path) -> ConfigurationSet:
        return ConfigurationSet(folder, "server.toml", Settings, "nodecomm test")

    def theirs(self, folder: Path, text: str, name: str = "server.toml") -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def plan(self, files: ConfigurationSet) -> Plan:
        return files.plan(WANTED, served=same_shortcut)

    def test_nothing_there(self, files: ConfigurationSet, folder: Path) -> None:
        """
        Everything is written, and a main file that says nothing; a second time
        nothing is.
        """
        plan = self.plan(files)
        part, main = folder / "server.d" / "50-bootstrap.toml", folder / "server.toml"

        assert plan == Plan(WANTED, (), True)
        assert files.write(plan, COMMENTS) == [part, main]
        assert tomllib.loads(part.read_text()) == WANTED
        assert tomllib.loads(main.read_text()) == {}
        assert files.write(self.plan(files), COMMENTS) == []

    def test_what_a_person_has_set_stays(
        self, files: ConfigurationSet, folder: Path
    ) -> None:
        """
        A key that a person has set is left out and told, with its place; lists of
        tables add up, without those that his make needless.
        """
        text = (
            '[server]\nlisten = ["tcp:1"]\n'
            '[[server.trustkeysfrom]]\nnetwork = "::1"\n'
            '[[access]]\npath = "/srv/b/"\nshortcut = "b"\n'
        )
        main = self.theirs(folder, text)
        plan = self.plan(files)
        files.write(plan, COMMENTS)

        (left_out,) = plan.left_out
        assert str(left_out).startswith(f"{main}:2:1: server.listen = ")
        assert left_out.differs
        assert (left_out.theirs, left_out.wanted) == (["tcp:1"], ["tcp6:5309"])
        written = tomllib.loads(files.part.path.read_text())
        assert "listen" not in written["server"]
        assert len(written["server"]["trustkeysfrom"]) == 1
        assert [rule["shortcut"] for rule in written["access"]] == ["a"]
        assert main.read_text() == text

    def test_a_list_in_one_piece(self, files: ConfigurationSet, folder: Path) -> None:
        """
        A list of tables written in one line cannot be added to: that is told, and
        nothing is written that would contradict it.
        """
        self.theirs(folder, "[server]\ntrustkeysfrom = []\n", "server.d/10.toml")
        plan = self.plan(files)

        assert [each.key_path for each in plan.left_out] == ["server.trustkeysfrom"]
        assert "trustkeysfrom" not in plan.tree["server"]

    def test_our_part_changed_by_hand(
        self, files: ConfigurationSet, folder: Path
    ) -> None:
        """
        Our part counts as a person's once one has changed it: it is never written
        again, and the plan says what it lacks.
        """
        files.write(self.plan(files), COMMENTS)
        part = files.part.path
        text = part.read_text().replace("tcp6:5309", "tcp6:1").replace("/a/", "/c/")
        part.write_text(text.replace('allowconnects = ["10.0.0.0/8"]', ""))
        plan = self.plan(files)

        assert not plan.may_write
        assert plan.tree == {"server": {"allowconnects": ["10.0.0.0/8"]}}
        assert [each.key_path for each in plan.left_out] == ["server.listen"]
        assert files.write(plan, COMMENTS) == []

    def test_a_file_that_is_no_toml(
        self, files: ConfigurationSet, folder: Path
    ) -> None:
        """
        What cannot be read cannot be added to; the error names the place.
        """
        main = self.theirs(folder, "[server\n")

        with pytest.raises(ConfigError, match=f"{main}:1"):
            self.plan(files)

    def test_undone_if_it_fails(self, files: ConfigurationSet) -> None:
        """
        What turns out wrong after writing is taken back.
        """
        files.write(self.plan(files), COMMENTS)
        before = files.part.path.read_text()

        with pytest.raises(KeyboardInterrupt), files.undone_if_it_fails():
            files.write(Plan({"server": {}}, (), True), COMMENTS)
            raise KeyboardInterrupt

        assert files.part.path.read_text() == before


texts = st.text(st.characters(exclude_categories=["Cs"]))
scalars = texts | st.booleans() | st.integers(-(2**63), 2**63 - 1)
tables = st.dictionaries(
    st.sampled_from(["a", "b", "c"]), scalars | st.lists(scalars), min_size=1
)


@settings(max_examples=60)
@given(
    st.dictionaries(
        st.sampled_from(["x", "y", "z"]),
        tables | st.lists(tables, min_size=1, max_size=3),
    )
)
def test_any_tree_comes_back(tree: dict[str, Any]) -> None:
    """
    What is written as TOML is read as the same.
    """
    assert tomllib.loads(as_toml(tree, COMMENTS)) == tree
