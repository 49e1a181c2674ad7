"""The operator's terminal: another process of the same user finds a client, asks it, and follows what it shows."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshlog_handler import LogClient, MeshlogError, RankError, SettingError
from meshlog_handler.cli import main
from meshlog_handler.cli.view.observer import Observer
from meshlog_handler.client.observers import observers
from meshlog_handler.errors import ClosedError, ConnectError
from meshlog_handler.protocol.codec import pack
from meshlog_handler.protocol.frames import CONTROL, DATA, HEAD, MAX_CONTROL, FrameReader, frame
from meshlog_handler.protocol.messages import Answer, Hello, Prepare, level_config
from meshlog_handler.protocol.observer_messages import MAX_BACKLOG, AskAbout, AskLevel, AskStacks, Follow
from meshlog_handler.testing import RecordCollector
from meshlog_handler.transport.channel import Address, connect
from meshlog_handler.transport.runs import runs
from tests.process.command_line import MESHLOG, PYTHON, WAIT_FOR, Meshlog, running
from tests.process.procs import DEADLINE, ROOT, importing, run_python
from tests.waiting import until

RANKS = f"""{WAIT_FOR}
import logging
from meshlog_handler import install
install()
log = logging.getLogger("app")
log.info("ready %d", rank)
if rank == 1:
    log.error("disk \\x1b[31mfull\\x07")
def wait_here():
    wait_for(sys.argv[1])
wait_here()
log.debug("a detail of %d", rank)
print("printed by", rank)
log.info("the end of %d", rank)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory; the clients of this test are alone in it."""
    directory = tmp_path / "runs"
    directory.mkdir()
    monkeypatch.setenv("MESHLOG_RUN_DIR", str(directory))
    return tmp_path


@pytest.fixture
def job(place: Path) -> Iterator[Meshlog]:
    """Run two ranks, which end when `release` is called."""
    with running(place, "run", "-n", "2", "--", *PYTHON, RANKS, str(place / "go")) as ran:
        ran.until("ready", 2)
        yield ran


def release(place: Path) -> None:
    """Let the ranks of `job` end."""
    (place / "go").touch()


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    """Run a command in this process; return what it printed, on stderr after what it printed on stdout."""
    assert main(words) == code
    return "".join(capsys.readouterr())


def test_a_run_is_listed_shown_asked_and_changed(job: Meshlog, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = map(json.loads, said(capsys, "ls", "--json").splitlines())
    assert (row["pid"], row["ranks"], row["live"], row["records"]) == (job.process.pid, 2, 2, 3)
    assert re.search(rf"^ *{job.process.pid} +2 +\S+ +3 +.*meshlog_handler run -n 2", said(capsys, "ls"), re.MULTILINE)

    table = said(capsys, "top", "--once").splitlines()
    assert [line.split()[0] for line in table[2:]] == ["rank", "1", "0"]  # the rank with an error first
    assert table[3].endswith(r"disk \x1b[31mfull\x07")
    insight = json.loads(said(capsys, "top", str(job.process.pid), "--json"))
    assert (insight["ranks"]["1"]["errors"], insight["run"]["pid"]) == (1, job.process.pid)

    assert re.search(r"ranks 0-1: MainThread\n(.*\n)*.*wait_here", said(capsys, "stacks"))
    stacks = json.loads(said(capsys, "stacks", "--ranks", "1,7", "--json"))
    assert (stacks["ranks"], list(stacks["unanswered"])) == ([1], ["7"])

    assert said(capsys, "flush").startswith("flush 1: ranks 0-1 shown; 0 records dropped; ")
    assert json.loads(said(capsys, "flush", "--json"))["acked"] == [0, 1]
    assert said(capsys, "level", "DEBUG", "--ranks", "1", "--for", "60") == "root is at DEBUG in rank 1 for 60 s\n"
    assert "rank 7 did not set the level" in said(capsys, "level", "DEBUG", "nobody", "--ranks", "7", code=1)

    follower = subprocess.Popen([*MESHLOG, "follow", "-n", "9"], stdout=subprocess.PIPE, env=importing(), cwd=ROOT, text=True)
    assert follower.stdout is not None
    first = [follower.stdout.readline() for _ in range(3)]
    assert sorted(first) == ["[0] ready 0\n", "[1] disk full\\x07\n", "[1] ready 1\n"]
    release(place)
    rest = sorted(follower.stdout.read().splitlines())
    of_both = [f"[{rank}] {text} {rank}" for rank in (0, 1) for text in ("printed by", "the end of")]
    assert rest == sorted(["[1] a detail of 1", *of_both])
    assert follower.wait(DEADLINE) == 0
    follower.stdout.close()
    assert job.wait() == 0
    assert "no client of this user runs" in said(capsys, "ls")


def test_follow_shows_what_its_filters_select(job: Meshlog, place: Path) -> None:
    ways = [("--level", "ERROR", "--json"), ("--ranks", "0"), ("--grep", r"disk|end of \d"), ("--aggregate", "60")]
    started = [
        subprocess.Popen([*MESHLOG, "follow", "-n", "9", *way], stdout=subprocess.PIPE, env=importing(), cwd=ROOT, text=True)
        for way in ways
    ]
    first = [each.stdout.readline() for each in started if each.stdout is not None]
    release(place)
    rest = [each.communicate(timeout=DEADLINE)[0] for each in started]
    assert [each.returncode for each in started] == [0, 0, 0, 0]
    assert (json.loads(first[0])["message"], rest[0]) == ("disk \x1b[31mfull\x07", "")
    assert first[1] == "[0] ready 0\n"
    assert sorted(rest[1].splitlines()) == ["[0] printed by 0", "[0] the end of 0"]
    assert first[2] == first[3] == "[1] disk full\\x07\n"
    assert sorted(rest[2].splitlines()) == ["[0] the end of 0", "[1] the end of 1"]
    assert "[2 similar log lines] [ranks 0-1] the end of 0..1" in rest[3]
    assert len(rest[3].splitlines()) == 3


def test_follow_names_ranks_that_the_run_does_not_have_and_waits_for_them(job: Meshlog, place: Path) -> None:
    command = [*MESHLOG, "follow", "--ranks", "0,9"]
    follower = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=importing(), cwd=ROOT, text=True)
    assert follower.stdout is not None
    assert follower.stderr is not None
    assert "this run has no rank 9: it has ranks 0-" in follower.stderr.readline()
    release(place)
    shown = follower.stdout.read()
    assert ("the end of 0" in shown, "the end of 1" in shown) == (True, False)
    assert follower.wait(DEADLINE) == 0
    follower.stdout.close()
    follower.stderr.close()


def test_follow_ends_at_ctrl_c_and_when_its_reader_has_gone(place: Path) -> None:
    code = f"{WAIT_FOR}\nprint('ready', flush=True)\nwhile not os.path.exists(sys.argv[1]): print('line', flush=True)"
    with running(place, "run", "--", *PYTHON, code, str(place / "go")) as ran:
        ran.until("line", 10)
        command = [*MESHLOG, "follow"]
        for end, expected in ("interrupt", 130), ("close", 141):
            follower = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=importing(),
                cwd=ROOT,
                text=True,
                start_new_session=True,
            )
            assert follower.stdout is not None
            assert follower.stdout.readline() == "[0] line\n"
            if end == "interrupt":
                follower.send_signal(signal.SIGINT)
                follower.stdout.read()
            follower.stdout.close()
            assert follower.wait(DEADLINE) == expected
            assert follower.stderr is not None
            assert "Traceback" not in follower.stderr.read()
            follower.stderr.close()
        release(place)
        assert ran.wait() == 0


def test_a_server_with_a_configuration_and_a_pool(place: Path) -> None:
    code = """
import logging, logging.config, sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
CONFIG = {"version": 1, "root": {"level": "INFO", "handlers": ["mesh"]}, "handlers": {
    "console": {"class": "logging.StreamHandler"},
    "mesh": {"class": "meshlog_handler.MeshHandler", "handlers": ["console"]}}}
logging.config.dictConfig(CONFIG)
def work(number):
    logging.info("work %d", number)
with ProcessPoolExecutor(1, get_context("fork")) as pool:
    for line in sys.stdin:
        try:
            raise KeyError(line)
        except KeyError:
            logging.exception("main %s", object, extra={"rank": "mine"})
        pool.submit(work, 5).result()
"""
    program = subprocess.Popen([*PYTHON, code], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, env=importing(), text=True)
    try:
        until(lambda: len(runs()) == 1, DEADLINE, lambda: "the client is found")
        with Observer.connect(runs()[0]) as observer:
            assert observer.about()["pid"] == program.pid
            records = observer.follow()
            assert program.stdin is not None
            program.stdin.write("line\n")
            program.stdin.close()
            own, work = next(records), next(records)
            assert (own.getMessage(), own.meshlog.rank, own.rank) == ("main <class 'object'>", None, "mine")  # type: ignore[attr-defined]  # see MeshRecord
            assert own.exc_info is not None
            assert "KeyError: 'line" in (own.exc_text or "")
            assert (work.getMessage(), work.meshlog.rank) == ("work 5", 0)  # type: ignore[attr-defined]  # see MeshRecord
            assert list(records) == []
            with pytest.raises(ClosedError):
                observer.about()
    finally:
        program.kill()
        program.wait()


LOGS = """
import logging, sys
from meshlog_handler import install
install()
for number in range(int(sys.argv[1])):
    logging.info("number %d of a worker that logs much more than anybody can read", number)
"""


def test_an_observer_that_does_not_read_is_told_how_much_it_missed() -> None:
    count = 60_000
    with LogClient(Discarding()) as client, Observer.connect(client.address) as observer:
        observer.start_following()
        run_python("-c", LOGS, str(count), env=client.environ())
        receipt = client.flush()
        assert (receipt.dropped, client.stats().received) == (0, count)
        seen = 0
        while seen + observer.dropped < count:
            items = observer.items(DEADLINE)
            assert items is not None
            seen += len(items)
        assert 0 < observer.dropped < count


class Discarding(logging.Handler):
    """A handler that costs nothing."""

    def handle(self, record: logging.LogRecord) -> bool:
        """Do nothing."""
        return True


def test_a_stopped_follower_leaves_the_job_alone(place: Path) -> None:
    code = f"{WAIT_FOR}\nprint('ready', flush=True)\nwait_for(sys.argv[1])\nfor n in range(15000): print('line', n)"
    with running(place, "run", "--", *PYTHON, code, str(place / "go")) as ran:
        ran.until("ready")
        follower = subprocess.Popen(
            [*MESHLOG, "follow", "-n", "1"], stdout=subprocess.PIPE, env=importing(), cwd=ROOT, text=True
        )
        try:
            assert follower.stdout is not None
            assert follower.stdout.readline() == "[0] ready\n"
            follower.send_signal(signal.SIGSTOP)
            release(place)
            assert ran.wait() == 0
            assert ran.out.count("line") == 15000
            follower.send_signal(signal.SIGCONT)
            follower.stdout.read()
            assert follower.wait(DEADLINE) == 0
        finally:
            follower.kill()
            follower.communicate()


def test_a_client_without_observers_is_not_found_and_admits_none(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    monkeypatch.setenv("MESHLOG_OBSERVE", "0")
    with LogClient(RecordCollector()) as client:
        assert runs() == []
        with pytest.raises(ConnectError, match="MESHLOG_OBSERVE=0"):
            Observer.connect(client.address)
        run_python("-c", LOGS, "1", env=client.environ())
        assert client.flush().missing == ()


def test_an_observer_needs_the_key() -> None:
    with LogClient(RecordCollector()) as client:
        path = Address.parse(client.address).path
        with pytest.raises(ConnectError):
            Observer.connect(str(Address(path, bytes(32))))
        with Observer.connect(client.address) as observer:
            assert observer.about()["pid"] == os.getpid()


@pytest.mark.parametrize("name", ["short", "x" * 100])
def test_a_client_is_found_until_it_ends_also_after_its_directory_was_removed(
    place: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / name).mkdir()
    monkeypatch.setenv("MESHLOG_RUN_DIR", str(place / name))
    code = "import sys; from meshlog_handler import LogClient; LogClient().start(); print('on', flush=True); sys.stdin.read()"
    programs = [
        subprocess.Popen([*PYTHON, code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=importing()) for _ in range(2)
    ]
    for program in programs:
        assert program.stdout is not None
        assert program.stdout.readline() == b"on\n"
    assert {run.pid for run in runs()} == {program.pid for program in programs}
    programs[0].kill()
    programs[0].communicate()
    (run,) = runs()
    assert os.stat(os.path.join(run.path, "client.json")).st_mode & 0o777 == 0o600
    assert "meshlog://" not in repr(run)
    for name in os.listdir(run.path):
        os.unlink(os.path.join(run.path, name))
    os.rmdir(run.path)
    assert runs() == []
    with Observer.connect(run) as observer:  # a connection makes it again
        assert observer.about()["pid"] == run.pid
    assert [each.pid for each in runs()] == [run.pid]
    programs[1].communicate(b"")
    assert runs() == []


INVALID = {
    "a huge length": HEAD.pack(0xFFFFFFFF, CONTROL),
    "a message just beyond the limit": HEAD.pack(observers.MAX_ASKED + 1, CONTROL),
    "records": frame(DATA, b"0123456789"),
    "a message of a worker": frame(CONTROL, Answer(1, None).encode()),
    "a command": frame(CONTROL, Prepare(1, level_config(10), final=True).encode()),
    "a message by an unknown name": frame(CONTROL, pack(("AskAnything", {"request": 1}))),
    "a level that does not exist": frame(CONTROL, AskLevel(1, 256, "", None, None).encode()),
    "a logger with a long name": frame(CONTROL, AskLevel(1, 10, "x" * 5000, None, None).encode()),
    "ranks that are texts": frame(CONTROL, pack(("AskStacks", {"request": 1, "ranks": ("0",), "timeout": 1.0}))),
    "a timeout that is not a number": frame(CONTROL, AskStacks(1, None, float("nan")).encode()),
    "a backlog beyond the limit": frame(CONTROL, Follow(0, None, MAX_BACKLOG + 1).encode()),
    "random bytes": bytes(range(256)) * 8,
}


def observer_socket(address: str) -> Any:
    """Return the socket of an observer that has joined."""
    hello = Hello(os.getpid(), "", None, None, "", (), False, 0.0, observer=True)
    return connect(Address.parse(address), hello, ())[0].release()


@pytest.mark.parametrize("data", INVALID.values(), ids=INVALID)
def test_an_observer_that_sends_what_is_not_valid_loses_its_connection(data: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    with LogClient(RecordCollector()) as client:
        with observer_socket(client.address) as sock:
            sock.settimeout(DEADLINE)
            sock.sendall(data)
            assert sock.recv(1) == b""
        with Observer.connect(client.address) as observer:
            assert observer.about()["ranks"] == ()
    assert capfd.readouterr().err.count("protocol error from an observer") == 1


def test_the_number_of_observers_and_of_their_questions_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observers, "MAX_OBSERVERS", 2)
    monkeypatch.setattr(observers, "MAX_ANSWERS", 3)
    with (
        LogClient(RecordCollector()) as client,
        Observer.connect(client.address) as observer,
        observer_socket(client.address) as sock,
    ):
        with pytest.raises(ConnectError, match="too many observers"):
            Observer.connect(client.address)
        count, reader, replies, most = 200, FrameReader(MAX_CONTROL), 0, 0
        sock.sendall(b"".join(frame(CONTROL, AskAbout(number).encode()) for number in range(count)))
        sock.settimeout(DEADLINE)
        while replies < count:
            most = max(most, sum(thread.name == "meshlog-observer" for thread in threading.enumerate()))
            replies += len(reader.feed(sock.recv(65536)))
        assert most < 20
        assert observer.about()["pid"] == os.getpid()


def test_an_answer_that_is_too_large_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshlog_handler.client.observers.answers.MAX_REPLY", 10)
    with (
        LogClient(RecordCollector()) as client,
        Observer.connect(client.address) as observer,
        pytest.raises(MeshlogError, match="the answer has more than"),
    ):
        observer.about()


def test_errors_arrive_as_what_they_are() -> None:
    with LogClient(RecordCollector()) as client, Observer.connect(client.address) as observer:
        with pytest.raises(SettingError):
            observer.set_level("LOUD")
        with pytest.raises(RankError, match="rank 3"):
            observer.set_level(10, ranks=[3])
        assert observer.set_level(10) == ()
        assert observer.flush().acked == ()
        assert observer.insight().ranks == {}
        assert observer.stats().received == 0


def test_a_run_is_named_by_its_pid_or_the_beginning_of_a_word(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    assert "no running client of this user was found" in said(capsys, "flush", code=2)
    with LogClient(RecordCollector()), LogClient(RecordCollector()):
        assert f"2 runs. Name one by its pid: {os.getpid()} (" in said(capsys, "flush", code=2)
        assert "no run 'frobnicate'. RUN is a pid" in said(capsys, "top", "frobnicate", code=2)


def test_a_record_of_any_size_and_kind_is_followed_or_counted() -> None:
    code = LOGS + "logging.warning('x' * 3_000_000)\nlogging.error('%s', {'a': [1]}, extra={'k': 1})\nprint('bar', end='')"
    with LogClient(Discarding()) as client, Observer.connect(client.address) as observer:
        observer.start_following(level=30)
        observer.about()
        run_python("-c", code, "10", env=client.environ())
        client.flush()
        found: list[Any] = []
        while not found:
            found = observer.items(DEADLINE) or []
        records = [template.build(values) for _, template, values in found]
        assert [(record.getMessage(), record.k) for record in records] == [("{'a': [1]}", 1)]
        assert observer.dropped == 1
