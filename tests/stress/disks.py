"""Faults of the disk: it is full, or cannot be written to."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from .faults import fault
from .scene import Scene
from .workers import Worker, at_work


@contextlib.contextmanager
def small_disk(scene: Scene, size: str) -> Iterator[Path]:
    """Mount a small file system in memory; if mounting is not allowed, limit the size of this process's files."""
    place = scene.directory / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place)]
    mounted = not subprocess.run(mount, capture_output=True).returncode
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if not mounted:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, limits[1]))
    scene.undo.append(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits))
    if mounted:
        scene.undo.append(lambda: subprocess.run(["umount", "-l", str(place)], check=True))
    yield place


@fault("the disk of log_dir fills up")
def fills_up(scene: Scene) -> None:
    scene.allowed = "No space left|too large"
    with small_disk(scene, "6m") as place:
        scene.show(log_dir=str(place))
        scene.start(count=3)
        scene.at_work(500)
        with contextlib.suppress(OSError), open(place / "other", "wb", buffering=0) as other:  # fill all the space there is
            while True:
                other.write(bytes(4096))
        scene.at_work(500)
        scene.start(count=1)  # there is no journal for this worker
        scene.at_work(50)


@fault("the disk of log_dir is full from the start")
def full(scene: Scene) -> None:
    scene.allowed = "No space left|too large"
    with small_disk(scene, "64k") as place:
        scene.show(log_dir=str(place))
        scene.start(count=3)
        scene.at_work(50)


@fault("log_dir becomes read-only", short=False)
def read_only(scene: Scene) -> None:
    scene.allowed = "Read-only|No space left|too large"
    with small_disk(scene, "32m") as place:
        scene.show(log_dir=str(place))
        scene.start(count=3)
        scene.at_work(500)
        # A process that has a file open may continue to write to it.
        for words in (["--bind", str(place), str(place)], ["-o", "remount,bind,ro", str(place)]):
            if not subprocess.run(["mount", *words], capture_output=True).returncode and words[0] == "--bind":
                scene.undo.append(lambda: subprocess.run(["umount", "-l", str(place)], check=True))
        if os.access(place, os.W_OK):  # mounting is not allowed
            os.chmod(place, 0o500)
        scene.at_work(500)
        scene.start(count=1)
        scene.at_work(50)


@fault("no room for side files")
def no_side_files(scene: Scene) -> None:
    def work(worker: Worker) -> None:
        worker.join()
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        worker.log_on()

    scene.start(at_work, 1)
    with scene.small_journals():
        scene.start(work, 2)
    scene.at_work(200)
    scene.allowed = "File too large"


@fault("journals that are mere memory, SIGKILL")
def memory(scene: Scene) -> None:
    def work(worker: Worker) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        at_work(worker)

    scene.allowed = "no journal can be made"
    scene.start(at_work, 1)
    scene.start(work, 2)
    scene.at_work(20)
    time.sleep(0.2)
    scene.struck.update((1, 2))
    for index in (1, 2):
        scene.pause(0.01)
        scene.signal(index, 9)  # type: ignore[arg-type]  # SIGKILL, by number
    scene.at_work()
