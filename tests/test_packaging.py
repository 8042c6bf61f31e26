# SPDX-License-Identifier: MIT
"""
What is installed is whole: twistd finds the server, and `nodecomm` runs, from a wheel
and from an editable installation alike.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

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


def source_copy(folder: Path) -> Path:
    """
    A copy of what a package is built from, so that building leaves nothing in the
    source folder and finds nothing that a build before has left.
    """
    copy = folder / "source"
    copy.mkdir()
    ignored = shutil.ignore_patterns("__pycache__", "dropin.cache")
    for name in ("nodecomm", "twisted"):
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    for name in ("setup.cfg", "pyproject.toml", "README.rst", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    return copy


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    An environment for all tests here: what nodecomm depends on is the same for each,
    and takes most of the time.
    """
    folder = tmp_path_factory.mktemp("environment")
    # It needs no pip of its own: the one beside us installs into it.
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    return folder


def pip_install(environment: Path, *what: str | Path) -> Path:
    """
    Install nodecomm, of which nothing was left, and return the folder of programs.
    """
    programs = environment / "bin"
    pip = (
        *(sys.executable, "-m", "pip", "--python", programs / "python"),
        *("--quiet", "--disable-pip-version-check"),
    )
    run(*pip, "uninstall", "--yes", "nodecomm", cwd=environment)
    assert not (programs / "nodecomm").exists()
    # Most of what is installed is not imported here; that is compiled when it is.
    run(*pip, "install", "--no-compile", *what, cwd=environment)
    return programs


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


def test_wheel(tmp_path: Path, environment: Path) -> None:
    """
    The wheel has the twistd plugin and every package, no test and no cache, and works
    installed.
    """
    source = source_copy(tmp_path)
    run(
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"),
        *("--disable-pip-version-check", "-w", tmp_path / "wheels", source),
        cwd=tmp_path,
    )
    (wheel,) = (tmp_path / "wheels").iterdir()

    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    expected = {
        str(file.relative_to(source))
        for file in (source / "nodecomm").rglob("*")
        if file.suffix == ".py"
    }
    expected |= {"twisted/plugins/nodecomm_plugins.py", "nodecomm/py.typed"}
    metadata = {name for name in names if ".dist-info/" in name}
    assert names - metadata == expected
    assert any(name.endswith("/LICENSE") for name in metadata)

    check_programs(pip_install(environment, wheel), tmp_path / "elsewhere")


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
        cwd=tmp_path,
    )

    (archive,) = (tmp_path / "archives").iterdir()
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert "tests/inventory/test_document.py" in names
    assert "nodecomm/inventory/document.py" in names
    assert not [name for name in names if "samples" in name]


def test_editable(tmp_path: Path, environment: Path) -> None:
    """
    An editable installation shows the twistd plugin too: Twisted looks only into the
    folders of `sys.path`, which not every way of editable installation uses.
    """
    source = source_copy(tmp_path)

    programs = pip_install(environment, "--editable", source)

    check_programs(programs, tmp_path / "elsewhere")
    (source / "nodecomm" / "freshly_added.py").write_text("word = 'seen'\n")
    told = run(
        *(programs / "python", "-c"),
        "import nodecomm.freshly_added as new; print(new.word)",
        cwd=tmp_path,
    )
    assert told == "seen\n"
