# SPDX-License-Identifier: MIT
"""
The packages that are installed, as dpkg and rpm list them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence

from nodecomm.inventory.host import Host, NoSuchSource, Skipped
from nodecomm.inventory.model import Software

__all__ = ["software_of"]

#: Between the facts of a package; no text of one has it.
_FIELD = "\x1f"

#: Where packages are kept a list of, by the program that would read it.
_LISTS = {
    "dpkg": ("/var/lib/dpkg/status", "/var/lib/dpkg/status.d"),
    "rpm": ("/var/lib/rpm", "/usr/lib/sysimage/rpm"),
}

_DPKG_FACTS = (
    "db:Status-Abbrev",
    "Package",
    "Version",
    "Maintainer",
    "binary:Summary",
    "source:Package",
    "source:Version",
)
_DPKG_FORMAT = _FIELD.join(f"${{{name}}}" for name in _DPKG_FACTS) + "\\n"

_RPM_FACTS = ("NAME", "EPOCH", "VERSION", "RELEASE", "VENDOR", "SUMMARY", "SOURCERPM")
_RPM_FORMAT = _FIELD.join(f"%{{{name}}}" for name in _RPM_FACTS) + "\\n"

#: What rpm prints for a fact that a package has not.
_RPM_NONE = "(none)"

#: Keys that rpm has been given stand among its packages under this name.
_RPM_KEY = "gpg-pubkey"

_SOURCE_RPM = re.compile(r"(.+)-([^-]+-[^-]+)\.(?:no)?src\.rpm")

#: `Name <address>`; names of maintainers without their addresses.
_ADDRESS = re.compile(r"\s*<[^<>]*>")


def software_of(host: Host) -> tuple[Software, ...]:
    """
    The installed packages.

    Raises:
        NoSuchSource: The machine has no program that lists packages.
    """
    found: dict[tuple[str, str | None], Software] = {}
    missing = []
    for name, read in (("dpkg", _dpkg), ("rpm", _rpm)):
        try:
            for software in read(host):
                # The same package for two architectures is one.
                found.setdefault((software.name, software.version), software)
        except NoSuchSource as error:
            missing.append(str(error))
            # In images of containers, for example, that were made without it.
            there = next((each for each in _LISTS[name] if host.has(each)), None)
            if there is not None:
                reason = f"{error} to read {there}"
                host.skipped.append(Skipped(f"packages of {name}", reason))
        except OSError as error:
            host.skipped.append(Skipped(f"packages of {name}", str(error)))
    if len(missing) == 2:
        raise NoSuchSource(", ".join(missing))
    return tuple(found.values())


def _dpkg(host: Host) -> Iterator[Software]:
    # Source: dpkg-query(1); the second letter of the status is what the package is.
    printed = host.run(["dpkg-query", "--show", f"--showformat={_DPKG_FORMAT}"])
    for status, name, version, maintainer, summary, source, built in _rows(
        printed, len(_DPKG_FACTS)
    ):
        if status[1:2] == "i" and name:
            yield Software(
                name=name,
                version=version or None,
                publisher=_ADDRESS.sub("", maintainer) or None,
                comments=summary or None,
                source_name=source or None,
                source_version=built or None,
            )


def _rpm(host: Host) -> Iterator[Software]:
    printed = host.run(["rpm", "--query", "--all", f"--queryformat={_RPM_FORMAT}"])
    for row in _rows(printed, len(_RPM_FACTS)):
        name, epoch, version, release, vendor, summary, source = (
            "" if fact == _RPM_NONE else fact for fact in row
        )
        if name and name != _RPM_KEY:
            built = _SOURCE_RPM.fullmatch(source)
            number = f"{version}-{release}" if release else version
            yield Software(
                name=name,
                version=f"{epoch}:{number}" if epoch not in ("", "0") else number,
                publisher=vendor or None,
                comments=summary or None,
                source_name=built[1] if built else None,
                source_version=built[2] if built else None,
            )


def _rows(printed: bytes, facts: int) -> Iterator[Sequence[str]]:
    for line in os.fsdecode(printed).split("\n"):
        row = [fact.strip() for fact in line.split(_FIELD)]
        if len(row) == facts:
            yield row
