# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The recipe of a node image: packages, root, and a disk that boots through GRUB.

Every change to this file, even to a comment, leads to a new image; see ``image.image_key``.
"""

from __future__ import annotations

import re
import shlex
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

from lablib import debian
from lablib.common import LabError, run

# Files that are copied over the root before its packages are installed.
OVERLAY = Path(__file__).resolve().parent.parent / "image"

SECTOR = 512
# Partitioning tools start the first partition here; GRUB's core image fits in the gap before it.
PARTITION_START = 2048 * SECTOR
DISK_SIZE = 6 << 30
FS_BLOCK = 4096
BOOT_CODE_SIZE = 440  # bytes of the boot sector before the disk's signature and partition table
GRUB_MODULES = "biosdisk part_msdos ext2 normal linux search search_fs_uuid configfile echo test serial"


@dataclass(frozen=True)
class Kernel:
    """A node's kernel: the one of a Debian suite, or the newest one of its backports."""

    suite: str
    backports: bool = False


KERNELS = {
    "6.1": Kernel("bookworm"),
    "6.12": Kernel("trixie"),
    "7.3": Kernel("trixie", backports=True),
}
# Runtime of containers; crun uses far less CPU time, but containerd 2 requires a newer one than bookworm's.
RUNTIMES = {"bookworm": "runc", "trixie": "crun"}
COMPONENTS = {"bookworm": ("main", "non-free"), "trixie": ("main",)}  # non-free has netperf

PACKAGES = (
    "bpftool",
    "dbus",
    "dkms",
    "ethtool",
    "gcc",
    "grub-pc-bin",
    "grub2-common",
    "initramfs-tools",
    "iperf3",
    "iproute2",
    "iputils-ping",
    "kmod",
    "libbpf1",
    "lz4",
    "make",
    "netperf",
    "nftables",
    "openssh-server",
    "procps",
    "python3",
    "python3-pyroute2",
    "systemd-sysv",
    "tcpdump",
    "udev",
)
KERNEL_PACKAGES = ("linux-image-amd64", "linux-headers-amd64")

# Units of no use in short-lived nodes; each delays the boot.
MASKED_UNITS = (
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty@tty1.service",
    "grub-common.service",
    "logrotate.timer",
    "modprobe@dm_mod.service",
    "modprobe@drm.service",
    "modprobe@fuse.service",
    "modprobe@loop.service",
    "netperf.service",
    "netserver.service",
    "serial-getty@ttyS0.service",
    "sys-fs-fuse-connections.mount",
    "systemd-binfmt.service",
    "systemd-networkd-wait-online.service",
    "systemd-pstore.service",
    "systemd-update-utmp.service",
)
# It looks for sockets of the hypervisor and logs an error to the console if there are none.
MASKED_GENERATORS = ("system-generators/systemd-ssh-generator",)

# Scripts of update-grub that find nothing in a node but start many processes.
UNUSED_GRUB_PARTS = ("05_debian_theme", "20_linux_xen", "30_os-prober", "30_uefi-firmware")


def packages(kernel: str) -> list[str]:
    """Return the packages of a node; those of the kernel are from backports if the recipe says so."""
    suffix = f"/{KERNELS[kernel].suite}-backports" if KERNELS[kernel].backports else ""
    runtime = RUNTIMES[KERNELS[kernel].suite]
    return [*(f"{name}{suffix}" for name in KERNEL_PACKAGES), runtime, *PACKAGES]


def overlay_files() -> dict[str, bytes]:
    """Return the contents of the overlay's files by path."""
    return {
        str(path.relative_to(OVERLAY)): path.read_bytes()
        for path in sorted(OVERLAY.rglob("*"))
        if path.is_file()
    }


def kernel_command_line(default_grub: str) -> str:
    """Return the kernel arguments that update-grub derives from the text of /etc/default/grub."""
    values = dict(re.findall(r"^(GRUB_CMDLINE_LINUX(?:_DEFAULT)?)=(.*)$", default_grub, re.MULTILINE))
    parts = [" ".join(shlex.split(value)) for _name, value in sorted(values.items())]
    return " ".join(part for part in parts if part)


def build_root(kernel: str, root: Path, overlay: Path) -> None:
    """Build the root of a node; ``overlay`` is a work folder for the overlay's files."""
    for name, content in overlay_files().items():
        path = overlay / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o755 if content.startswith(b"#!") else 0o644)
    for path in [overlay, *overlay.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755)
    suite = KERNELS[kernel].suite
    debian.make_root(
        root,
        suite,
        packages(kernel),
        variant="minbase",
        components=COMPONENTS[suite],
        backports=KERNELS[kernel].backports,
        options=[
            "--dpkgopt=force-confold",
            # Before the packages, so that the kernel's initramfs is generated only once and is small.
            f'--essential-hook=cp -aT {shlex.quote(str(overlay))} "$1"',
        ],
    )
    for unit in (*(f"system/{unit}" for unit in MASKED_UNITS), *MASKED_GENERATORS):
        link = root / "etc/systemd" / unit
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to("/dev/null")
    for part in UNUSED_GRUB_PARTS:
        (root / "etc/grub.d" / part).chmod(0o644)
    run(["chroot", root, "systemctl", "enable", "systemd-networkd.service", "lab-identity.service"])
    run(["chroot", root, "systemctl", "set-default", "multi-user.target"])
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    (root / "etc/hostname").unlink(missing_ok=True)
    (root / "etc/machine-id").write_text("")
    for name in ("etc/.updated", "var/.updated"):
        (root / name).touch()  # prevents a rebuild of caches at the first boot (systemd-update-done(8))
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    (root / "etc/resolv.conf").write_text("nameserver 10.0.2.3\n")
    if suite != "bookworm":
        # OpenSSH 9.8 and later penalize addresses that open many connections at once, as the controller does.
        with (root / "etc/ssh/sshd_config.d/lab.conf").open("a") as stream:
            stream.write("PerSourcePenalties no\n")


def build_disk(root: Path, disk: Path) -> None:
    """Build the disk without a loop device: write partition table, file system and GRUB at their offsets."""
    filesystem = str(uuid.uuid4())
    _install_grub_files(root, filesystem)
    disk.touch()
    with disk.open("r+b") as stream:
        stream.truncate(DISK_SIZE)
    run(["sfdisk", "-q", disk], given=f"start={PARTITION_START // SECTOR}, type=83, bootable\n")
    run(
        [
            *("mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-b", str(FS_BLOCK), "-U", filesystem),
            # GRUB of Debian 12 cannot read these features.
            *("-O", "^metadata_csum_seed,^orphan_file"),
            *("-E", f"offset={PARTITION_START},lazy_itable_init=0,nodiscard", "-d", root, disk),
            str((DISK_SIZE - PARTITION_START) // FS_BLOCK),
        ]
    )
    boot = (root / "usr/lib/grub/i386-pc/boot.img").read_bytes()
    core = (root / "boot/grub/i386-pc/core.img").read_bytes()
    if len(core) > PARTITION_START - SECTOR:
        raise LabError(f"GRUB's core image of {len(core)} bytes is too large; reduce GRUB_MODULES")
    with disk.open("r+b") as stream:
        stream.write(boot[:BOOT_CODE_SIZE])
        stream.seek(SECTOR)
        stream.write(core)


def _install_grub_files(root: Path, filesystem: str) -> None:
    """Install GRUB's files as grub-install does on a running machine, and write the first grub.cfg."""
    folder = root / "boot/grub/i386-pc"
    folder.mkdir(parents=True, exist_ok=True)
    for path in (root / "usr/lib/grub/i386-pc").iterdir():
        if path.suffix in (".mod", ".lst"):
            shutil.copy(path, folder)
    prefix = "(hd0,msdos1)/boot/grub"
    target = "/boot/grub/i386-pc/core.img"
    grub_mkimage = ["grub-mkimage", "-O", "i386-pc", "-p", prefix, "-o", target, *GRUB_MODULES.split()]
    run(["chroot", root, *grub_mkimage])
    arguments = kernel_command_line((root / "etc/default/grub").read_text())
    (root / "boot/grub/grub.cfg").write_text(
        "serial --unit=0 --speed=115200\nterminal_input serial\nterminal_output serial\n"
        "set timeout=0\nmenuentry Debian {\n"
        f"  linux /vmlinuz root=UUID={filesystem} ro {arguments}\n  initrd /initrd.img\n}}\n"
    )
