# SPDX-License-Identifier: MIT
"""
Where a machine keeps data: mounted file systems, and the devices below.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from nodecomm.inventory.host import Host, Skipped
from nodecomm.inventory.model import Filesystem, Storage

__all__ = ["filesystems_of", "storages_of"]

#: File systems of other machines. They are listed, and not asked for their size: one
#: whose server is away would never answer.
_REMOTE = frozenset(
    {
        "9p",
        "afs",
        "ceph",
        "cifs",
        "fuse.glusterfs",
        "fuse.sshfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "ocfs2",
        "smb3",
        "vboxsf",
    }
)

#: File systems that stand on no device of their own and hold data all the same.
_KEPT = frozenset({"zfs", "btrfs", "bcachefs", "ubifs", "fuseblk"})

#: Pictures of a file system: they hold what came with a package or on a disc.
_IMAGES = frozenset({"squashfs", "iso9660", "udf", "erofs"})

#: Devices that are made of others or of memory.
_NO_DEVICE = re.compile(r"(loop|ram|zram|dm-|md|nbd|fd)\d*")

#: How mount points are written whose names would break a line.
#: Source: Linux, proc(5), octal.
_OCTAL = re.compile(r"\\([0-7]{3})")

_MIB = 1024 * 1024

#: Bytes in what /sys/block counts in, whatever the device's own sectors are.
_SECTOR = 512

#: Parts of a device's path, and how it is connected then.
_CONNECTIONS = (
    ("/usb", "USB"),
    ("/nvme", "NVMe"),
    ("/virtio", "Virtio"),
    ("/ata", "SATA"),
    ("/mmc", "MMC"),
    ("/vmbus", "Hyper-V"),
    ("/xen", "Xen"),
    ("/host", "SCSI"),
)


def filesystems_of(host: Host) -> tuple[Filesystem, ...]:
    """
    The mounted file systems that hold data, each once, where it is mounted first.

    Raises:
        OSError: /proc cannot be read.
    """
    without_device = {
        words[1]
        for line in host.text("/proc/filesystems").splitlines()
        if len(words := line.split()) == 2 and words[0] == "nodev"
    }
    mounts = {each[1]: each for each in _mounts(host.text("/proc/self/mountinfo"))}
    found: dict[str, Filesystem] = {}
    # What is mounted where something else was mounted before hides that.
    for device, mount, kind, source in mounts.values():
        holds_data = (
            kind in _REMOTE
            or kind in _KEPT
            # In containers it lies over others, in rescue systems it is in memory.
            or mount == "/"
            or not (kind in without_device | _IMAGES or kind.startswith("fuse."))
        )
        if holds_data and device not in found:
            found[device] = _filesystem(host, mount, kind, source)
    return tuple(found.values())


def storages_of(host: Host) -> tuple[Storage, ...]:
    """
    Disks, and what else takes whole media.
    """
    return tuple(
        _storage(host, name)
        for name in host.names("/sys/block")
        if not _NO_DEVICE.fullmatch(name) and host.has(f"/sys/block/{name}/device")
    )


def _mounts(text: str) -> Iterator[tuple[str, str, str, str]]:
    """
    Device, mount point, kind and source of each mounted file system.
    """
    for line in text.splitlines():
        before, separator, after = line.partition(" - ")
        words, more = before.split(" "), after.split(" ")
        if separator and len(words) >= 5 and len(more) >= 2:
            yield words[2], _unescaped(words[4]), more[0], _unescaped(more[1])


def _unescaped(text: str) -> str:
    return _OCTAL.sub(lambda found: chr(int(found[1], 8) & 0xFF), text)


def _filesystem(host: Host, mount: str, kind: str, source: str) -> Filesystem:
    total = free = None
    if kind not in _REMOTE:
        try:
            status = host.statvfs(mount)
        except OSError as error:
            host.skipped.append(Skipped(mount, error.strerror or str(error)))
        else:
            total = status.f_blocks * status.f_frsize // _MIB
            free = status.f_bavail * status.f_frsize // _MIB
    return Filesystem(mount=mount, device=source, kind=kind, total=total, free=free)


def _storage(host: Host, name: str) -> Storage:
    folder = f"/sys/block/{name}"
    sectors = host.number(f"{folder}/size")
    # Where the folder really is says how the device is connected.
    real = os.path.realpath(host.path(folder))
    connected = (word for part, word in _CONNECTIONS if part in real)
    return Storage(
        name=name,
        description=next(connected, None),
        kind="cdrom" if name.startswith("sr") else "disk",
        maker=_maker(host, folder),
        model=host.value(f"{folder}/device/model")
        or host.value(f"{folder}/device/name"),
        serial=host.value(f"{folder}/device/serial") or host.value(f"{folder}/serial"),
        firmware=host.value(f"{folder}/device/rev")
        or host.value(f"{folder}/device/firmware_rev"),
        size=None if sectors is None else sectors * _SECTOR // 1_000_000,
    )


def _maker(host: Host, folder: str) -> str | None:
    maker = host.value(f"{folder}/device/vendor")
    # Buses that know makers by number have it there in hexadecimal digits.
    return None if maker is None or maker.startswith("0x") else maker
