# SPDX-License-Identifier: MIT
"""
File systems and disks.
"""

from __future__ import annotations

import os
from pathlib import Path

from nodecomm.inventory.disks import filesystems_of, storages_of
from nodecomm.inventory.host import Skipped
from nodecomm.inventory.model import Filesystem, Storage
from tests.inventory.machine import machine

FILESYSTEMS = """\
nodev	sysfs
nodev	tmpfs
nodev	proc
nodev	overlay
nodev	nfs4
nodev	zfs
nodev	fuse
	ext4
	fuseblk
	squashfs
	vfat
"""

#: What mountinfo says of each: device, mount point, kind, source.
MOUNTS = (
    ("0:21", "/proc", "proc", "proc"),
    ("254:1", "/", "ext4", "/dev/vda1"),
    ("0:30", "/run", "tmpfs", "tmpfs"),
    ("254:2", "/srv/two\\040words\\134", "vfat", "/dev/vda2"),
    ("254:1", "/mnt/bound", "ext4", "/dev/vda1"),
    ("0:40", "/home", "nfs4", "nas:/home"),
    ("0:41", "/tank", "zfs", "tank"),
    ("0:42", "/var/lib/docker/x/merged", "overlay", "overlay"),
    ("0:43", "/mnt/remote", "fuse.sshfs", "web2:"),
    ("0:44", "/run/user/0/doc", "fuse.portal", "portal"),
    ("7:1", "/snap/core", "squashfs", "/dev/loop1"),
)


def sized(mount: str, device: str, kind: str) -> Filesystem:
    """
    A file system of the size that all have here.
    """
    return Filesystem(mount=mount, device=device, kind=kind, total=1000, free=250)


def mountinfo(*mounts: tuple[str, str, str, str]) -> str:
    """
    The file of these mounts, with the optional fields that some lines have.
    """
    return "".join(
        f"{number} 1 {device} / {mount} rw,relatime{' shared:1' * (number % 3)}"
        f" - {kind} {source} rw\n"
        for number, (device, mount, kind, source) in enumerate(mounts)
    )


def test_what_holds_data_is_listed(tmp_path: Path) -> None:
    """
    File systems on devices and of other machines are listed, each once; those of other
    machines without sizes. What only shows things, or came with a package, is not.
    """
    files = {
        "/proc/filesystems": FILESYSTEMS,
        "/proc/self/mountinfo": mountinfo(*MOUNTS) + "an odd line\n",
    }

    assert filesystems_of(machine(tmp_path, files)) == (
        sized("/", "/dev/vda1", "ext4"),
        sized("/srv/two words\\", "/dev/vda2", "vfat"),
        Filesystem(mount="/home", device="nas:/home", kind="nfs4"),
        sized("/tank", "tank", "zfs"),
        Filesystem(mount="/mnt/remote", device="web2:", kind="fuse.sshfs"),
    )


def test_other_machines_are_not_asked(tmp_path: Path) -> None:
    """
    A file system whose server may be away is never touched.
    """
    asked = []
    files = {
        "/proc/filesystems": FILESYSTEMS,
        "/proc/self/mountinfo": mountinfo(*MOUNTS),
    }
    host = machine(tmp_path, files)
    answer = host.statvfs("/")

    def remembered(path: str) -> os.statvfs_result:
        asked.append(path)
        return answer

    host.statvfs = remembered
    filesystems_of(host)

    assert asked == ["/", "/srv/two words\\", "/tank"]


def test_the_root_of_a_container(tmp_path: Path) -> None:
    """
    What lies over others counts where it is the root.
    """
    files = {
        "/proc/filesystems": FILESYSTEMS,
        "/proc/self/mountinfo": mountinfo(("0:50", "/", "overlay", "overlay")),
    }

    (found,) = filesystems_of(machine(tmp_path, files))

    assert (found.mount, found.total) == ("/", 1000)


def test_hidden_file_systems(tmp_path: Path) -> None:
    """
    What is mounted over another one hides that.
    """
    over = ("254:9", "/", "vfat", "/dev/vda9")
    files = {
        "/proc/filesystems": FILESYSTEMS,
        "/proc/self/mountinfo": mountinfo(MOUNTS[1], over),
    }

    (found,) = filesystems_of(machine(tmp_path, files))

    assert found.device == "/dev/vda9"


def test_a_file_system_that_cannot_be_asked(tmp_path: Path) -> None:
    """
    It is listed without sizes, and the reason is kept.
    """
    files = {
        "/proc/filesystems": FILESYSTEMS,
        "/proc/self/mountinfo": mountinfo(MOUNTS[1]),
    }
    host = machine(tmp_path, files)

    def refuse(path: str) -> os.statvfs_result:
        raise PermissionError(13, "Permission denied", path)

    host.statvfs = refuse

    assert filesystems_of(host) == (
        Filesystem(mount="/", device="/dev/vda1", kind="ext4"),
    )
    assert host.skipped == [Skipped("/", "Permission denied")]


def test_disks(tmp_path: Path) -> None:
    """
    Disks are told with how they are connected; loops, RAM and what is made of other
    devices are none.
    """
    block = "/sys/block"
    files = {
        f"{block}/sda/size": "41943040\n",
        f"{block}/sda/device/vendor": "ATA     \n",
        f"{block}/sda/device/model": "VBOX HARDDISK   \n",
        f"{block}/sda/device/rev": "1.0 \n",
        f"{block}/sr0/size": "0\n",
        f"{block}/sr0/device/model": "CD-ROM\n",
        f"{block}/loop0/size": "8\n",
        f"{block}/dm-0/size": "8\n",
        f"{block}/md127/size": "8\n",
        f"{block}/zram0/size": "8\n",
        "/sys/devices/virtio1/block/vda/size": "2048\n",
        "/sys/devices/virtio1/block/vda/serial": "disk-1\n",
        "/sys/devices/virtio1/block/vda/device/vendor": "0x1af4\n",
    }
    host = machine(
        tmp_path, files, links={f"{block}/vda": "../devices/virtio1/block/vda"}
    )

    assert storages_of(host) == (
        Storage(
            name="sda",
            kind="disk",
            maker="ATA",
            model="VBOX HARDDISK",
            firmware="1.0",
            size=21474,
        ),
        Storage(name="sr0", kind="cdrom", model="CD-ROM", size=0),
        Storage(name="vda", description="Virtio", kind="disk", serial="disk-1", size=1),
    )


def test_no_disks(tmp_path: Path) -> None:
    """
    A machine may have none.
    """
    assert storages_of(machine(tmp_path, {})) == ()
