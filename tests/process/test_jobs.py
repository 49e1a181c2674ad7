"""Jobs: processes that apply the same configuration share one client, whatever process starts them, and pass it on."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import queue
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshlog_handler import LogClient, MeshHandler, install, uninstall
from meshlog_handler.errors import ClosedError, SettingError
from meshlog_handler.testing import RecordCollector
from meshlog_handler.transport.channel import Address, peer_pid
from meshlog_handler.transport.election import Election
from meshlog_handler.transport.run_directory import RunDir, base
from tests.waiting import until

from .job_writer import write
from .procs import DEADLINE, METHODS, ROOT, importing, join_all, started

COUNT = 200


def lines(path: Path) -> Counter[str]:
    """Return how often each line is in the file and its backups."""
    return Counter(line for each in path.parent.glob(path.name + "*") for line in each.read_text().splitlines())


def shown_by() -> int:
    """Return the pid of the process that shows the job; 0 if there is none at present."""
    address = Election("shop").address()
    if not address:
        return 0
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(Address.parse(address).path)
        except OSError:
            return 0
        return peer_pid(sock) or 0


@contextlib.contextmanager
def program(*words: object, output: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Start `job_writer`; kill it in the end, if it still runs."""
    command = [sys.executable, "-m", "tests.process.job_writer", *map(str, words)]
    with contextlib.ExitStack() as stack:
        stdout = subprocess.PIPE if output is None else stack.enter_context(output.open("wb"))
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=stdout, env=importing(), cwd=ROOT)
        try:
            yield process
        finally:
            process.kill()
            process.communicate(timeout=DEADLINE)


@pytest.mark.parametrize("method", METHODS)
def test_siblings_share_one_client(method: str, tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    with started(method, write, [(str(path), f"w{number}", COUNT) for number in range(4)]) as procs:
        assert join_all(procs) == [0] * 4
    assert lines(path) == {f"w{number} {line}": 1 for number in range(4) for line in range(COUNT)}
    assert os.listdir(base()) == []


def test_programs_and_their_forked_children_share_one_client(tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    with program("fork", path, "a", COUNT) as one, program("fork", path, "b", COUNT) as two:
        assert [each.wait(DEADLINE) for each in (one, two)] == [0, 0]
    names = ("a", "a-child", "b", "b-child")
    assert lines(path) == {f"{name} {line}": 1 for name in names for line in range(COUNT)}
    assert os.listdir(base()) == []


def test_another_process_continues_when_the_one_that_shows_ends(tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    with program("write", path, "first", 20, 0.01) as first:
        until(shown_by, DEADLINE)
        with program("write", path, "second", 150, 0.01) as second:
            assert (first.wait(DEADLINE), second.wait(DEADLINE)) == (0, 0)
    assert lines(path) == {f"{name} {line}": 1 for name, count in (("first", 20), ("second", 150)) for line in range(count)}
    assert os.listdir(base()) == []


def test_a_process_that_shows_ends_after_another_one_has_shown_what_it_logged(tmp_path: Path) -> None:
    # hypercorn kills its other workers as soon as the first one has ended.
    path, said = tmp_path / "app.log", tmp_path / "said"
    with program("write", path, "first", 1, 0.5) as first:
        until(shown_by, DEADLINE)
        with program("log_late", path, "second", output=said) as second:
            assert first.wait(DEADLINE) == 0
            logged = said.read_bytes()
            second.kill()
            assert second.wait(DEADLINE) == -signal.SIGKILL
    shown = lines(path)
    with program("write", path, "last", 1, 0) as last:  # shows what is left
        assert last.wait(DEADLINE) == 0
    assert shown["second 0"] == 1 or not logged
    assert lines(path) == {f"{name} 0": 1 for name in ("first", *(["second"] if logged else []), "last")}


# README, "What is guaranteed": Jobs go on.
def test_nothing_is_lost_or_shown_twice_when_the_process_that_shows_is_killed(tmp_path: Path) -> None:
    path, kills = tmp_path / "app.log", 4
    said: dict[str, Path] = {}
    with contextlib.ExitStack() as stack:
        procs: dict[int, subprocess.Popen[bytes]] = {}

        def start() -> None:
            name = f"w{len(said)}"
            said[name] = tmp_path / f"said-{name}"
            process = stack.enter_context(program("keep_on", path, name, output=said[name]))
            procs[process.pid] = process

        for _ in range(3):
            start()
        for _ in range(kills):
            pid = until(lambda: shown_by() if shown_by() in procs else 0, DEADLINE)
            before = sum(lines(path).values())
            until(lambda: sum(lines(path).values()) > before, DEADLINE, "something to be shown")  # noqa: B023
            time.sleep(random.uniform(0.0, 0.05))  # any instant will do
            os.kill(pid, signal.SIGKILL)
            procs.pop(pid).wait(DEADLINE)
            start()
        until(lambda: shown_by() in procs, DEADLINE)  # else SIGTERM may end all of them before they can clean up
        for process in procs.values():
            process.terminate()
        for process in procs.values():
            process.wait(DEADLINE)
    found = lines(path)
    reports = [line for line in found if line.startswith("rank ")]  # of a killed process that only forwarded
    lost = [
        f"{name} {n}" for name, file in said.items() for n in range(int(file.read_text() or 0)) if f"{name} {n}" not in found
    ]
    twice = [line for line, count in found.items() if count > 1 and line not in reports]
    assert (lost, twice) == ([], [])


def test_what_a_killed_job_has_not_shown_is_shown_by_the_next_start(tmp_path: Path) -> None:
    """All processes of the job are killed at once, while nothing is shown."""
    path = tmp_path / "app.log"
    said = [tmp_path / "said-a", tmp_path / "said-b"]
    with program("keep_on", path, "a", output=said[0]) as one:
        pid = until(shown_by, DEADLINE)
        with program("keep_on", path, "b", output=said[1]) as two:
            assert pid == one.pid
            until(lambda: said[1].read_text(), DEADLINE)
            one.send_signal(signal.SIGSTOP)
            before = int(said[1].read_text())
            until(lambda: int(said[1].read_text()) > before + 20, DEADLINE)
            two.send_signal(signal.SIGSTOP)
            for process in (two, one):
                process.kill()
                process.wait(DEADLINE)
    with program("write", path, "c", 1, 0) as three:
        assert three.wait(DEADLINE) == 0
    expected = {f"{name} {n}" for name, file in zip("ab", said, strict=True) for n in range(int(file.read_text()))}
    found = lines(path)
    assert (expected | {"c 0"}) - set(found) == set()
    assert set(found.values()) == {1}
    assert os.listdir(base()) == []


def test_a_process_that_configures_logging_without_the_job_does_not_show_it(tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    nowhere = tmp_path / "said"
    with program("keep_on", path, "first", output=nowhere) as first:
        until(shown_by, DEADLINE)
        with program("change", path, "changed") as changed, program("keep_on", path, "last", output=nowhere) as last:
            assert changed.stdout is not None
            assert changed.stdout.readline() == b"changed\n"
            until(lambda: "last 0" in lines(path), DEADLINE)
            first.terminate()
            assert first.wait(DEADLINE) == 0
            assert until(lambda: shown_by() not in (0, first.pid) and shown_by(), DEADLINE) == last.pid
            changed.communicate(b"\n", DEADLINE)
            last.terminate()
            assert last.wait(DEADLINE) == 0
    found = lines(path)
    assert {"changed 0", "changed 1", "last 0"} <= set(found)
    assert set(found.values()) == {1}
    assert os.listdir(base()) == []


def test_one_of_two_clients_shows_and_the_other_takes_over(restored_logging: logging.Logger, tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    collector = RecordCollector()
    with program("write", path, "other", 60, 0.02) as other:
        pid = until(shown_by, DEADLINE)
        with LogClient(collector, job="shop") as client:
            assert (pid, client.running) == (other.pid, False)
            with pytest.raises(ClosedError, match="another process shows job 'shop'"):
                client.set_window(None)
            install(client.address, capture=False)
            restored_logging.info("forwarded")
            receipt = client.flush()
            assert "forwarded" in lines(path)
            assert (len(receipt.acked), receipt.missing) == (1, ())
            assert other.wait(DEADLINE) == 0
            until(lambda: client.running, DEADLINE)
            restored_logging.info("taken over")
            until(lambda: "taken over" in collector.messages, DEADLINE)
            uninstall()
    assert "forwarded" not in collector.messages
    assert os.listdir(base()) == []


def test_a_client_of_a_job_that_another_process_shows_names_that_process(
    restored_logging: logging.Logger, tmp_path: Path
) -> None:
    with program("keep_on", tmp_path / "app.log", "other", output=tmp_path / "count") as other:
        until(shown_by, DEADLINE)
        client = LogClient(RecordCollector(), job="shop")
        assert client.insight().ranks == {}
        with client:
            named = rf"another process shows job 'shop' \(pid {other.pid}\).*meshlog top {other.pid}"
            for ask in (client.insight, client.stacks, client.stats, client.flush_soon, lambda: client.ranks("")):
                with pytest.raises(ClosedError, match=named):
                    ask()
            assert f"(pid {other.pid})" in client._repr_html_()
            other.terminate()
            assert other.wait(DEADLINE) == 0
            until(lambda: client.running, DEADLINE)
            assert client.insight().ranks.keys() == client.stats().keys()
        assert client.insight().ranks.keys() == client.stats().keys(), "what was known at the end"


def test_the_environment_names_the_job(
    restored_logging: logging.Logger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESHLOG_JOB", "shop")
    collector = RecordCollector()
    with LogClient(collector):
        assert shown_by() == os.getpid()
        with program("write", tmp_path / "app.log", "other", 3, 0) as other:
            assert other.wait(DEADLINE) == 0
        until(lambda: len(collector.records) == 3, DEADLINE)
    assert collector.messages == ["other 0", "other 1", "other 2"]


def test_a_client_that_is_stopped_does_not_take_over_until_it_is_started_again(
    restored_logging: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector = RecordCollector()
    client = LogClient(collector, job="shop")
    for number in range(2):
        with client:
            assert shown_by() == os.getpid()
            install(client.address, capture=False)
            restored_logging.info("%d", number)
            client.flush()
            uninstall()
        assert (client.running, shown_by()) == (False, 0)
    assert collector.messages == ["0", "1"]
    reference = weakref.ref(client)
    del client
    gc.collect()
    assert reference() is None


def test_a_process_that_only_installs_follows_the_clients_of_its_job(tmp_path: Path) -> None:
    collector = RecordCollector()
    client = LogClient(collector, job="shop").start()
    code = (
        "import logging, meshlog_handler, sys; meshlog_handler.install(capture=False)\n"
        "for line in sys.stdin: logging.info(line.strip()); print(flush=True)"
    )
    worker = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**importing(), "MESHLOG_JOB": "shop"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdin is not None
    assert worker.stdout is not None

    def log(line: str) -> None:
        print(line, file=worker.stdin, flush=True)
        assert worker.stdout is not None
        worker.stdout.readline()

    try:
        log("shown by the first")
        client.stop()
        log("kept in the journal")
        client.start()
        log("shown by the second")
        worker.communicate(timeout=DEADLINE)
        client.stop()
    finally:
        worker.kill()
        worker.wait(DEADLINE)
        client.stop()
    assert collector.messages == ["shown by the first", "kept in the journal", "shown by the second"]


@pytest.mark.parametrize("name", ["", "a b", "../shop", "~1", "x" * 65, "-", 3])
def test_a_bad_name_is_an_error_that_says_what_is_valid(name: object) -> None:
    with pytest.raises(SettingError, match="letters, digits"):
        MeshHandler(job=name)  # type: ignore[arg-type]  # a wrong type, too


def test_a_job_and_a_queue_exclude_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingError, match="a queue cannot be used together"):
        LogClient(queue=queue.Queue(), job="shop")
    with pytest.raises(SettingError, match="a queue cannot be used together"):
        LogClient(job="shop").listen(queue.Queue())
    monkeypatch.setenv("MESHLOG_JOB", "shop")
    assert LogClient(queue=queue.Queue()).job is None


def test_processes_that_a_client_without_a_job_starts_join_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESHLOG_JOB", "shop")
    with LogClient(RecordCollector(), job="") as client:
        assert "MESHLOG_JOB" not in client.environ()


def test_a_client_that_was_not_started_says_so() -> None:
    with pytest.raises(ClosedError, match="does not run"):
        LogClient(job="").flush()


def test_a_job_and_an_address_exclude_each_other() -> None:
    with pytest.raises(SettingError, match="cannot be used together"):
        MeshHandler(job="shop", address="meshlog://x")


def test_siblings_that_rotate_one_file_are_told_once_to_name_a_job(tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    command = [sys.executable, "-m", "tests.process.job_writer", "alone", str(path)]
    with contextlib.ExitStack() as stack:
        processes = []
        for _ in range(3):
            process = stack.enter_context(
                subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=importing(), cwd=ROOT
                )
            )
            assert process.stdout is not None
            assert process.stdout.readline() == b"shown\n"
            processes.append(process)
        told = [process.communicate(timeout=DEADLINE)[1].decode() for process in processes]
    (Path(base()) / f"told-{os.getpid()}").unlink()
    assert (told[0], told[2]) == ("", "")
    assert 'job="NAME"' in told[1]
    assert str(path) in told[1]
    assert os.listdir(base()) == []


def test_a_stop_waits_for_a_start_by_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that takes over a job starts on another thread, at any time."""
    client = LogClient(RecordCollector())
    begun, go_on = threading.Event(), threading.Event()

    def gated(*args: object) -> RunDir:
        begun.set()
        assert go_on.wait(DEADLINE)
        return RunDir(*args)  # type: ignore[arg-type]  # as given

    monkeypatch.setattr("meshlog_handler.client.log_client.RunDir", gated)
    threads = [threading.Thread(target=client.start), threading.Thread(target=client.stop)]
    threads[0].start()
    assert begun.wait(DEADLINE)
    threads[1].start()
    threads[1].join(0.05)
    assert threads[1].is_alive()
    go_on.set()
    for thread in threads:
        thread.join(DEADLINE)
    assert not client.running
