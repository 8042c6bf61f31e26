# SPDX-License-Identifier: MIT
"""
What is installed is whole: twistd finds the server, and `nodecomm` runs, from a wheel
and from an editable installation alike.

What they are built with and what they need is what is installed beside us; with
NODECOMM_FULL=1 pip fetches all of it, as for a user.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from configparser import ConfigParser
from email.parser import BytesParser
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.forking import FULL

ROOT = Path(__file__).parents[1]

#: What pip makes of what Twisted says that it has.
TWISTD = """\
import sys
from twisted.scripts.twistd import run
sys.exit(run())
"""

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    """
    Run a command and return what it said; fail with it when it failed.
    """
    environment = dict(os.environ)
    # What the tests themselves run with must not help the installed package.
    for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONWARNINGS"):
        environment.pop(name, None)
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    # pip would compile all that it needs for building, too, for nobody.
    environment["PIP_NO_COMPILE"] = "1"
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-5000:]}"
    return done.stdout


def source_copy(folder: Path, *, compiled: bool = False) -> Path:
    """
    A copy of what a package is built from, so that building leaves nothing in the
    source folder and finds nothing that a build before has left; with what Python has
    compiled if that is asked for.
    """
    copy = folder / "source"
    copy.mkdir()
    ignored = shutil.ignore_patterns(
        "dropin.cache", *(() if compiled else ("__pycache__",))
    )
    for name in ("nodecomm", "twisted"):
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    for name in ("setup.cfg", "pyproject.toml", "README.rst", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    return copy


def environment(folder: Path, needed: Iterable[str]) -> Path:
    """
    An environment that has what *needed* says, and what that needs, and nothing else:
    links to what is installed beside us, or nothing yet if all is to be as a user has
    it. Returns its folder of programs.
    """
    # It needs no pip of its own: the one beside us installs into it.
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    programs = folder / "bin"
    if FULL:
        return programs
    (packages,) = (folder / "lib").glob("python*/site-packages")
    for each in closure(needed):
        for top in {file.parts[0] for file in each.files or ()} - {"..", "__pycache__"}:
            place = packages / top
            if not place.is_symlink():
                place.symlink_to(str(each.locate_file(top)))
    # Ours puts a plugin there.
    for name in ("twisted", "twisted/plugins"):
        real = (packages / name).resolve()
        (packages / name).unlink()
        (packages / name).mkdir()
        for entry in set(os.listdir(real)) - {"dropin.cache"}:
            (packages / name / entry).symlink_to(real / entry)
    shutil.rmtree(packages / "twisted" / "plugins" / "__pycache__", ignore_errors=True)
    twistd = programs / "twistd"
    twistd.write_text(f"#!{programs}/python\n{TWISTD}")
    twistd.chmod(0o755)
    return programs


def closure(needed: Iterable[str]) -> list[metadata.Distribution]:
    """
    What is installed beside us of these requirements, and of theirs.
    """
    found: dict[str, metadata.Distribution] = {}
    asked = list(needed)
    while asked:
        wanted = Requirement(asked.pop())
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue
        if wanted.name not in found:
            found[wanted.name] = metadata.distribution(wanted.name)
            asked += metadata.requires(wanted.name) or []
    return list(found.values())


def pip_install(programs: Path, *what: str | Path) -> None:
    """
    Install nodecomm into the environment of these programs. What it needs must be
    there, or pip says that it is not.
    """
    # Most of what is installed is not imported here; that is compiled when it is.
    run(
        *(sys.executable, "-m", "pip", "--python", programs / "python", "install"),
        *("--quiet", "--disable-pip-version-check", "--no-compile"),
        *(() if FULL else ("--no-index", "--no-build-isolation")),
        *what,
        cwd=programs,
    )


def check_programs(programs: Path, elsewhere: Path) -> None:
    """
    The programs work from a folder that is not the source.
    """
    elsewhere.mkdir()
    twistd = run(programs / "twistd", "--help", cwd=elsewhere)
    assert "nodecomm-server" in twistd
    assert "nodecomm-agent" in twistd
    assert "A policy server for CFEngine and Rudder nodes" in twistd
    assert "Traceback" not in twistd
    for plugin in ("nodecomm-server", "nodecomm-agent"):
        told = run(programs / "twistd", plugin, "--help", cwd=elsewhere)
        assert "--config" in told
    nodecomm = run(programs / "nodecomm", "--help", cwd=elsewhere)
    assert "nodecomm key generate" in nodecomm


def test_wheel(tmp_path: Path) -> None:
    """
    The wheel has the twistd plugin and every package, no test and no cache, and works
    installed.
    """
    source = source_copy(tmp_path)
    run(
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"),
        *("--disable-pip-version-check", "-w", tmp_path / "wheels", source),
        *(() if FULL else ("--no-build-isolation",)),
        cwd=tmp_path,
    )
    (wheel,) = (tmp_path / "wheels").iterdir()

    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (place,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        told = BytesParser().parsebytes(archive.read(place))
    expected = {
        str(file.relative_to(source))
        for file in (source / "nodecomm").rglob("*")
        if file.suffix == ".py"
    }
    expected |= {"twisted/plugins/nodecomm_plugins.py", "nodecomm/py.typed"}
    others = {name for name in names if ".dist-info/" in name}
    assert names - others == expected
    assert any(name.endswith("/LICENSE") for name in others)

    programs = environment(tmp_path / "made", told.get_all("Requires-Dist", []))
    pip_install(programs, wheel)
    check_programs(programs, tmp_path / "elsewhere")


def test_source_archive(tmp_path: Path) -> None:
    """
    The source archive has the tests, and not the samples that are under another
    licence.
    """
    pytest.importorskip("build")
    source = source_copy(tmp_path)
    shutil.copy(ROOT / "MANIFEST.in", source)
    samples = source / "tests" / "inventory" / "samples" / "1.0"
    samples.mkdir(parents=True)
    for name in ("node.ocs", "node.ocs.sign", "README"):
        (samples / name).write_text("of others\n")
    (samples.parents[1] / "test_document.py").write_text("")

    run(
        *(sys.executable, "-m", "build", "--sdist"),
        *("--outdir", tmp_path / "archives", source),
        *(() if FULL else ("--no-isolation",)),
        cwd=tmp_path,
    )

    (archive,) = (tmp_path / "archives").iterdir()
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert "tests/inventory/test_document.py" in names
    assert "nodecomm/inventory/document.py" in names
    assert not [name for name in names if "samples" in name]


def test_editable(tmp_path: Path) -> None:
    """
    An editable installation shows the twistd plugin too: Twisted looks only into the
    folders of `sys.path`, which not every way of editable installation uses.
    """
    source = source_copy(tmp_path, compiled=True)

    project = ConfigParser(interpolation=None)
    project.read(source / "setup.cfg")
    needed = project["options"]["install_requires"].split("\n")
    # pip builds it there.
    needed.append("setuptools")
    programs = environment(tmp_path / "made", filter(None, needed))
    pip_install(programs, "--editable", source)

    check_programs(programs, tmp_path / "elsewhere")
    (source / "nodecomm" / "freshly_added.py").write_text("word = 'seen'\n")
    told = run(
        *(programs / "python", "-c"),
        "import nodecomm.freshly_added as new; print(new.word)",
        cwd=tmp_path,
    )
    assert told == "seen\n"
