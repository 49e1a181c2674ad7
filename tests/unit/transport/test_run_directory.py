"""Run directories are private and locked, and are removed after their client has exited."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshlog_handler.journal.writer import Journal
from meshlog_handler.system.lock_files import hold, is_held, make_held
from meshlog_handler.system.regular_files import check_private
from meshlog_handler.transport import run_directory
from meshlog_handler.transport.run_directory import RunDir, base, clean

DEAD = 1 << 30  # larger than any pid


@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The parent of run directories."""
    path = tmp_path / "base"
    path.mkdir(0o700)
    monkeypatch.setattr(run_directory, "base", lambda: str(path))
    return path


@pytest.fixture
def make(parent: Path) -> Iterator[Callable[[], RunDir]]:
    """Make run directories, and release their locks at the end."""
    made: list[RunDir] = []

    def make_one() -> RunDir:
        made.append(RunDir())
        return made[-1]

    yield make_one
    for run in made:
        run.forget()


def test_run_directory_is_private_and_locked(make: Callable[[], RunDir], parent: Path) -> None:
    run = Path(make().path)
    assert run.parent == parent
    assert stat.S_IMODE(run.stat().st_mode) == 0o700
    with open(run / "client.lock") as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_each_client_has_a_separate_directory(make: Callable[[], RunDir]) -> None:
    one, other = make(), make()
    assert one.path != other.path
    assert os.path.isdir(one.path)
    assert os.path.isdir(other.path)


def test_directory_is_removed_with_its_contents(make: Callable[[], RunDir], parent: Path) -> None:
    run = make()
    Path(run.path, f"{os.getpid()}-0-rank0.journal").write_bytes(b"")
    Path(run.path, "directory").mkdir()
    run.remove()
    run.remove()
    assert not list(parent.iterdir())


def test_lock_file_is_removed_last(make: Callable[[], RunDir], monkeypatch: pytest.MonkeyPatch) -> None:
    run = make()
    Path(run.path, "journal").write_bytes(b"")
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # as if killed before this call
    run.remove()
    assert os.listdir(run.path) == ["client.lock"]


def test_directory_of_dead_client_is_removed(make: Callable[[], RunDir], parent: Path) -> None:
    dead, alive = make(), make()
    Path(dead.path, f"{DEAD}-0-rank0.journal").write_bytes(b"")
    Path(dead.path, f"{DEAD}-0-rank0.journal.1").write_bytes(b"")
    assert clean(str(parent)) == []
    dead.forget()
    assert clean(str(parent)) == [dead.path]
    assert os.listdir(parent) == [os.path.basename(alive.path)]


def test_next_client_cleans_up(make: Callable[[], RunDir], parent: Path) -> None:
    make().forget()
    after = make()
    assert os.listdir(parent) == [os.path.basename(after.path)]


def test_directory_of_dead_client_is_kept_for_running_workers(make: Callable[[], RunDir], parent: Path) -> None:
    """The lock shows it: a pid may differ in another namespace, and may be reused."""
    dead = make()
    path = os.path.join(dead.path, f"{DEAD}-0-rank0.journal")
    Path(dead.path, f"{os.getpid()}-0-rank1.journal").write_bytes(b"")  # of an exited worker, whose pid was reused
    journal = Journal(path, 1)
    dead.forget()
    assert clean(str(parent)) == []
    assert os.path.exists(path)
    journal.close()
    assert clean(str(parent)) == [dead.path]


def test_unfinished_directory_of_dead_client_is_removed(parent: Path) -> None:
    long_ago = time.time() - 3600
    for name, age in ((".making-new", time.time()), (".making-old", long_ago), (".making-locked", long_ago)):
        (parent / name).mkdir()
        (parent / name / "client.lock").touch()
        os.utime(parent / name, (age, age))
    held = hold(str(parent / ".making-locked" / "client.lock"))
    clean(str(parent))
    os.close(held)
    assert sorted(os.listdir(parent)) == [".making-locked", ".making-new"]


def test_no_directory_remains_if_no_descriptor_is_left(
    make: Callable[[], RunDir], parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(fd: int, how: int) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(fcntl, "flock", none_left)
    with pytest.raises(OSError, match="Too many"):
        make()
    assert os.listdir(parent) == []


def test_directory_that_a_killed_client_has_emptied_is_removed(parent: Path) -> None:
    emptied = parent / "run-emptied"
    emptied.mkdir()
    assert clean(str(parent)) == [str(emptied)]
    assert not emptied.exists()


def test_unrelated_files_are_kept(parent: Path) -> None:
    (parent / "notes.txt").write_text("mine")
    (parent / "directory").mkdir()
    (parent / ".making-abc").mkdir()  # of a client that is starting
    assert clean(str(parent)) == []
    assert len(list(parent.iterdir())) == 3


def test_two_clients_may_clean_at_once(make: Callable[[], RunDir], parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone, lock = make(), fcntl.flock

    def slow(fd: int, how: int) -> None:
        shutil.rmtree(gone.path, ignore_errors=True)
        lock(fd, how)

    gone.forget()
    monkeypatch.setattr(fcntl, "flock", slow)
    assert clean(str(parent)) == []


def test_base_is_made_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MESHLOG_RUN_DIR")
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != "/dev/shm" and access(path, mode))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    path = base()
    assert path == str(tmp_path / f"meshlog-{os.getuid()}") == base()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o700


def test_base_open_to_other_users_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MESHLOG_RUN_DIR")
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != "/dev/shm" and access(path, mode))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    os.chmod(base(), 0o750)
    with pytest.raises(PermissionError, match="TMPDIR"):
        base()


def test_base_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = tempfile.mkdtemp(prefix="ml-", dir="/tmp")
    try:
        monkeypatch.setenv("MESHLOG_RUN_DIR", chosen)
        assert base() == f"{chosen}/meshlog-{os.getuid()}"
        monkeypatch.setattr("meshlog_handler.transport.channel._DESCRIPTORS", "/absent")
        monkeypatch.setenv("MESHLOG_RUN_DIR", chosen + "x" * 80)
        with pytest.raises(OSError, match="too long for a socket"):
            base()
    finally:
        shutil.rmtree(chosen)


def test_error_without_writable_directory_has_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MESHLOG_RUN_DIR")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(FileNotFoundError, match="set MESHLOG_RUN_DIR"):
        base()


def test_without_a_temporary_directory_there_may_be_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.delenv("MESHLOG_RUN_DIR")
    monkeypatch.setattr(run_directory, "_below", lambda root: str(tmp_path / root().strip("/")))
    monkeypatch.setattr(tempfile, "gettempdir", none)
    with pytest.raises(FileNotFoundError, match="neither /dev/shm nor a temporary directory is writable"):
        base()
    (tmp_path / "dev").mkdir()
    assert base() == str(tmp_path / "dev" / "shm")


def test_a_file_system_without_locks_is_named(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="files cannot be locked here: No locks available") as raised:
        RunDir()
    assert raised.value.filename == str(parent)
    assert list(parent.iterdir()) == []


def test_private_directory_belongs_to_user_and_is_no_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private, link, file = tmp_path / "private", tmp_path / "link", tmp_path / "file"
    private.mkdir(0o700)
    link.symlink_to(private)
    file.touch(0o600)
    check_private(str(private))
    for path in (link, file):
        with pytest.raises(PermissionError):
            check_private(str(path))
    monkeypatch.setattr(os, "getuid", lambda: os.stat(private).st_uid + 1)
    with pytest.raises(PermissionError):
        check_private(str(private))


@pytest.mark.parametrize("kind", [fcntl.LOCK_SH, fcntl.LOCK_EX], ids=["looks", "cleans"])
def test_a_relay_takes_over_a_directory_while_another_process_looks_at_it(parent: Path, kind: int) -> None:
    former = RunDir(upstream=b"key")
    former.forget()
    with open(os.path.join(former.path, "client.lock"), "r+") as looking:
        fcntl.flock(looking, kind)
        replacement = RunDir(upstream=b"key")
        assert (replacement.path, replacement.key) == (former.path, former.key)
        assert is_held(os.path.join(replacement.path, "client.lock"))
        other = RunDir(upstream=b"key")
        assert other.path != former.path, "the directory of a relay that runs is not taken over"
    assert clean(str(parent), 0.0) == []
    for made in (replacement, other):
        made.forget()
    assert sorted(clean(str(parent), 0.0)) == sorted([replacement.path, other.path])


@pytest.mark.parametrize("ends", [False, True], ids=["runs", "was killed"])
def test_a_directory_that_a_relay_takes_over_while_it_is_cleaned_stays(
    parent: Path, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    RunDir(upstream=b"key").forget()
    is_over, taken = run_directory._is_over, []

    def slow(path: str, lock: int, patience: float) -> bool:
        over = is_over(path, lock, patience)
        monkeypatch.setattr(run_directory, "_is_over", is_over)
        taken.append(RunDir(upstream=b"key"))
        if ends:
            taken[0].forget()
        return over

    monkeypatch.setattr(run_directory, "_is_over", slow)
    assert clean(str(parent), 0.0) == []
    assert os.path.isdir(taken[0].path)
    assert clean(str(parent)) == [], "a new replacement may come as long as before"
    taken[0].remove()
    assert not list(parent.iterdir())


def test_a_file_that_is_removed_before_its_lock_is_taken_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, lock = tmp_path / "lock", fcntl.flock
    path.touch()

    def slow(fd: int, how: int) -> None:
        path.unlink()
        lock(fd, how)

    monkeypatch.setattr(fcntl, "flock", slow)
    assert hold(str(path)) == -1


def test_a_file_is_locked_before_others_see_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, lock, seen = str(tmp_path / "lock"), fcntl.flock, []
    Path(f"{path}.new").touch()  # of a process that was killed

    def slow(fd: int, how: int) -> None:
        seen.append(os.path.exists(path))
        lock(fd, how)

    monkeypatch.setattr(fcntl, "flock", slow)
    held = make_held(path)
    assert seen == [False]
    assert is_held(path)
    os.close(held)
    assert os.listdir(tmp_path) == ["lock"]


def test_processes_that_look_whether_a_lock_is_held_do_not_see_each_other(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    with open(path, "r+") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)  # as `is_held` does
        assert not is_held(str(path))
    held = hold(str(path))
    assert is_held(str(path))
    os.close(held)


def test_a_directory_that_a_worker_has_made_again_is_restored_with_its_files(make: Callable[[], RunDir], parent: Path) -> None:
    run = make()
    run.write("client.json", b"{}")
    path = Path(run.path)
    shutil.rmtree(path)
    path.mkdir(0o700)
    (path / "large").write_bytes(b"x")
    (path / "client.json").write_bytes(b"old")
    run.restore()
    assert sorted(each.name for each in path.iterdir()) == ["client.json", "client.lock", "large"]
    assert (path / "client.json").read_bytes() == b"{}"
    assert is_held(str(path / "client.lock"))
    assert clean(str(parent)) == []
    assert list(parent.iterdir()) == [path]
