"""Disks to fill: small ones in memory, and one below a file system on a loop device. Only root can mount them."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["can_mount", "filled", "loop_disk", "read_only", "small_disk"]

_NEW_MOUNTS = 0x00020000  # CLONE_NEWNS


@functools.cache
def can_mount() -> bool:
    """Tell whether this process may mount; it then does so in a namespace of its own, which ends with it."""
    if os.getuid() or ctypes.CDLL(None).unshare(_NEW_MOUNTS):
        return False
    return _call("mount", "--make-rprivate", "/", check=False)


@contextmanager
def small_disk(place: Path, size: int) -> Generator[Callable[[], object]]:
    """Mount a file system in memory of a size in bytes; give what makes it large."""
    size = max(size, 8192)
    _call("mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", str(place))
    try:
        yield lambda: _call("mount", "-o", "remount,size=64m", str(place))
    finally:
        _call("umount", "--lazy", str(place))


@contextmanager
def read_only(place: Path) -> Generator[None]:
    """Let a mounted file system be read-only."""
    _call("mount", "-o", "remount,ro", str(place))
    try:
        yield
    finally:
        _call("mount", "-o", "remount,rw", str(place))


@contextmanager
def loop_disk(place: Path, below: Path) -> Generator[tuple[Callable[[], object], Path]]:
    """Mount ext4 on a file in a small file system; give what checks and mounts it anew, and the place of a filler."""
    below.mkdir(exist_ok=True)
    with small_disk(below, 40 << 20):
        image = below / "image"
        with image.open("wb") as file:
            file.truncate(32 << 20)
        plain = ("-b", "4096", "-O", "^has_journal", "-E", "lazy_itable_init=0,nodiscard", "-m", "0")
        _call("mkfs.ext4", "-q", *plain, str(image))
        _mount(image, place)

        def remount() -> None:
            _call("umount", str(place), check=False)
            _call("e2fsck", "-fy", str(image), check=False)  # as one does after errors of a disk
            _mount(image, place)
            shutil.rmtree(place / "lost+found", ignore_errors=True)

        try:
            shutil.rmtree(place / "lost+found", ignore_errors=True)
            yield remount, below / "filler"
        finally:
            _call("umount", "--lazy", str(place))


def _mount(image: Path, place: Path) -> None:
    """Mount a file through a loop device that is asked for single pages.

    Since Linux 6.15 it calls a request done of which only the first pages found space: nobody hears of the others.
    """
    _call("mount", "-o", "loop", str(image), str(place))
    device = place.stat().st_dev
    settings = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/queue")
    (settings / "max_sectors_kb").write_text("4", encoding="ascii")


def filled(filler: Path, seconds: float) -> None:
    """Take all space of a disk, and give it back after a while."""
    size = shutil.disk_usage(filler.parent).free
    with filler.open("wb") as file, suppress(OSError):
        while size:
            os.posix_fallocate(file.fileno(), 0, size)
            size = shutil.disk_usage(filler.parent).free
    threading.Timer(seconds, filler.unlink, kwargs={"missing_ok": True}).start()


def _call(*words: str, check: bool = True) -> bool:
    return subprocess.run(words, check=check, capture_output=True).returncode == 0
