"""A ProcMesh works in scripts without a main guard, in event loops, and in slices, and ends cleanly."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from meshlog_handler import ClosedError, ProcMesh, RankDied, RankError, SettingError, current_coords, current_rank, this_host
from meshlog_handler.testing import RecordCollector
from tests.waiting import until

from .procs import METHODS, importing, run_python
from .test_procs import Trouble, fail_on, gone

DEADLINE = 60.0
LOGGER = logging.getLogger("mesh.calls")
each_method = pytest.mark.parametrize("method", METHODS)


class Kept(RecordCollector):
    """Keeps what the client shows."""

    def texts(self) -> list[tuple[int, str]]:
        """Return the rank and text of each record, sorted by rank."""
        return sorted((getattr(record, "rank", -1), record.getMessage()) for record in self.records)


@contextmanager
def spawned(per_host: dict[str, int] | None = None, method: str = "fork", **options: Any) -> Iterator[tuple[ProcMesh, Kept]]:
    """Spawn a mesh that keeps each record without grouping, and stop it at the end."""
    kept = Kept()
    with this_host().spawn_procs(per_host or {"gpus": 2}, start_method=method, handlers=[kept], **options) as mesh:
        mesh.logging_option(aggregate_window_sec=None).get(DEADLINE)
        yield mesh, kept


# -- scripts -----------------------------------------------------------------------------------------------------------

SCRIPT = """
import dataclasses, enum, json, logging, os, sys
from meshlog_handler import RankError, current_rank, this_host

print("main runs", flush=True)
log = logging.getLogger("script")

class Trouble(Exception):
    pass

class Colour(enum.Enum):
    RED = 1

@dataclasses.dataclass
class Point:
    x: int
    def moved(self):
        return Point(self.x + offset())

def offset():
    return 10

def work(point):
    log.info("at %d", point.x)
    return point.moved(), Colour.RED, __name__

def remember():
    global memory
    memory = current_rank() + 100

def recall():
    return memory

def fail():
    raise Trouble("no")

mesh = this_host().spawn_procs({"gpus": 2}, start_method=sys.argv[1])
results = mesh.call(work, Point(1)).get(60)
mesh.call(remember).get(60)
try:
    mesh.call(fail).get(60)
except RankError as error:
    cause = error.__cause__
print(json.dumps({
    "points": [point == Point(11) for point, _, _ in results],
    "colours": [colour is Colour.RED for _, colour, _ in results],
    "names": [name for _, _, name in results],
    "lambda": mesh.call(lambda: offset() + 1).get(60),
    "memory": mesh.call(recall).get(60),
    "cause": isinstance(cause, Trouble),
    "pids": mesh.pids,
}), flush=True)
"""
EXPECTED = {
    "points": [True, True],
    "colours": [True, True],
    "names": ["__main__"] * 2,
    "lambda": [11, 11],
    "memory": [100, 101],
    "cause": True,
}


def run_script(words: list[str], text: str | None = None) -> None:
    done = run_python(*words, text=text)
    assert done.stdout.count("main runs") == 1
    found = json.loads(done.stdout.splitlines()[-1])
    pids = found.pop("pids")
    assert found == EXPECTED
    assert "Traceback" not in done.stderr
    # The script does not stop the mesh. The exit of the interpreter stopped it, and showed the remaining lines.
    assert all(gone(pid) for pid in pids.values())
    assert "at 1" in done.stderr


@each_method
def test_definitions_of_a_script_without_a_main_guard_reach_the_procs_and_it_runs_only_once(
    method: str, tmp_path: Path
) -> None:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    run_script([str(path), method])


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_definitions_of_a_script_from_stdin_reach_the_procs(method: str) -> None:
    run_script(["-", method], SCRIPT)


def test_definitions_of_a_script_from_the_command_line_reach_the_procs() -> None:
    run_script(["-c", SCRIPT, "spawn"])


# -- the mesh ----------------------------------------------------------------------------------------------------------


def log_rank(text: str = "here") -> int:
    LOGGER.info("%s %d", text, current_rank())
    return current_rank()


@each_method
def test_a_mesh_runs_calls_and_shows_their_records(method: str) -> None:
    with spawned(method=method) as (mesh, kept):
        assert mesh.call(log_rank).get(DEADLINE) == [0, 1]
        receipt = mesh.flush().get(DEADLINE)
        assert (receipt.acked, receipt.missing) == ((0, 1), ())
        assert kept.texts() == [(0, "here 0"), (1, "here 1")]
        assert {record.process for record in kept.records} == set(mesh.pids.values())
        assert [record.processName for record in sorted(kept.records, key=lambda each: each.rank)] == [  # type: ignore[attr-defined]  # set by the client
            f"{mesh.name}-0",
            f"{mesh.name}-1",
        ]
        assert {record.threadName for record in kept.records} == {"MainThread"}
        pids = mesh.pids
    assert all(map(gone, pids.values()))


def test_spawn_returns_at_once_and_calls_wait_until_the_mesh_is_ready() -> None:
    begun = time.monotonic()
    mesh = this_host().spawn_procs({"gpus": 2}, start_method="fork", bootstrap=lambda: time.sleep(1.5), handlers=[Kept()])
    assert time.monotonic() - begun < 1.2
    assert not mesh.initialized.done()
    future = mesh.call(current_rank)
    flush = mesh.flush()
    assert future.get(DEADLINE) == [0, 1]
    assert flush.get(DEADLINE).acked == (0, 1)
    assert mesh.initialized.done()
    mesh.stop().get(DEADLINE)


def test_ranks_are_in_row_major_order_and_slices_keep_them() -> None:
    with spawned({"hosts": 2, "gpus": 2}) as (mesh, kept):
        assert (mesh.ranks, mesh.extent) == ((0, 1, 2, 3), {"hosts": 2, "gpus": 2})
        assert mesh.call(current_coords).get(DEADLINE) == list(mesh.coords.values())
        part = mesh.slice(gpus=1)
        assert (part.ranks, part.extent, part.call(current_rank).get(DEADLINE)) == ((1, 3), {"hosts": 2}, [1, 3])
        assert part.pids == {rank: mesh.pids[rank] for rank in (1, 3)}
        assert part.slice(ranks=[3]).call(current_coords).get(DEADLINE) == [{"hosts": 1, "gpus": 1}]
        assert part.flush().get(DEADLINE).acked == (1, 3)
        part.logging_option(level=logging.ERROR, aggregate_window_sec=None).get(DEADLINE)
        mesh.call(log_rank).get(DEADLINE)
        mesh.flush().get(DEADLINE)
        assert kept.texts() == [(0, "here 0"), (2, "here 2")]
        with pytest.raises(SettingError, match=r"no dimension 'gpu'\. Valid: hosts, gpus, ranks"):
            mesh.slice(gpu=0)


def test_a_slice_cannot_be_stopped_and_keeps_the_whole_mesh_alive() -> None:
    with spawned() as (mesh, _):
        part = mesh.slice(gpus=0)
        with pytest.raises(SettingError, match="Stop the whole mesh"):
            part.stop().get(DEADLINE)
        with pytest.raises(SettingError, match="whole mesh in the with"), part:
            raise AssertionError("entered")
        assert part.call(current_rank).get(DEADLINE) == [0]
    lone = this_host().spawn_procs({"gpus": 2}, start_method="fork", handlers=[Kept()]).slice(gpus=1)
    gc.collect()
    assert lone.call(current_rank).get(DEADLINE) == [1]
    pids = lone._whole.pids if lone._whole is not None else {}
    del lone
    gc.collect()
    until(lambda: all(map(gone, pids.values())), DEADLINE, "the mesh nobody refers to")
    assert len(pids) == 2


async def rank_later() -> int:
    await asyncio.sleep(0.01)
    return current_rank()


def test_a_mesh_does_not_block_an_asyncio_loop() -> None:
    kept = Kept()
    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        while True:
            begun = time.monotonic()
            await asyncio.sleep(0.001)
            longest = max(longest, time.monotonic() - begun)

    async def main() -> None:
        ticker = asyncio.create_task(tick())
        host = this_host()
        async with host.spawn_procs({"gpus": 2}, start_method="fork", handlers=[kept], bootstrap=lambda: time.sleep(1)) as mesh:
            assert mesh.initialized.done()
            await mesh.logging_option(aggregate_window_sec=None)
            ranks, later = await asyncio.gather(mesh.call(log_rank), mesh.call(rank_later))
            assert ranks == later == [0, 1]
            assert (await mesh.flush()).acked == (0, 1)
            with pytest.raises(RankError):
                await mesh.call(fail_on, 1)
        ticker.cancel()

    asyncio.run(main())
    assert kept.texts() == [(0, "here 0"), (1, "here 1")]
    assert 0 < longest < 0.9


def test_a_mesh_can_be_awaited_in_trio() -> None:
    async def main() -> list[int]:
        async with this_host().spawn_procs({"gpus": 2}, start_method="fork", handlers=[Kept()]) as mesh:
            return await mesh.call(current_rank)

    assert trio.run(main) == [0, 1]


def test_errors_of_failed_calls_and_ended_procs_name_the_rank() -> None:
    with spawned({"gpus": 3}) as (mesh, _):
        with pytest.raises(RankError, match="rank 2 failed in the call of fail_on: Trouble") as caught:
            mesh.call(fail_on, 2).get(DEADLINE)
        assert isinstance(caught.value.__cause__, Trouble)
        os.kill(mesh.pids[1], signal.SIGKILL)
        with pytest.raises(RankDied, match=r"rank 1 .* ended by SIGKILL"):
            mesh.call(time.sleep, 0.5).get(DEADLINE)
        receipt = mesh.flush().get(DEADLINE)
        assert (receipt.acked, receipt.dead) == ((0, 2), (1,))
        assert mesh.slice(ranks=[0, 2]).call(current_rank).get(DEADLINE) == [0, 2]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stream_to_client": False, "aggregate_window_sec": 3}, "nothing to group"),
        ({"level": 256}, "0 to 255"),
        ({"level": -1}, "0 to 255"),
        ({"level": "LOUD"}, "0 to 255"),
        ({"aggregate_window_sec": 0}, "positive"),
        ({"aggregate_window_sec": -3}, "positive"),
        ({"aggregate_window_sec": float("nan")}, "positive"),
    ],
)
def test_an_invalid_option_raises_an_error_at_the_call(options: dict[str, Any], words: str, mesh_of_one: ProcMesh) -> None:
    with pytest.raises(ValueError, match=words):
        mesh_of_one.logging_option(**options).get(DEADLINE)


@pytest.mark.parametrize(
    "options", [{}, {"stream_to_client": False}, {"stream_to_client": False, "aggregate_window_sec": None}]
)
def test_a_valid_option_is_applied(options: dict[str, Any], mesh_of_one: ProcMesh) -> None:
    assert mesh_of_one.logging_option(level=logging.DEBUG, **options).get(DEADLINE) is None
    assert mesh_of_one.call(lambda: logging.getLogger().level).get(DEADLINE) == [logging.DEBUG]


@pytest.fixture(scope="module")
def mesh_of_one() -> Iterator[ProcMesh]:
    with this_host().spawn_procs({"gpus": 1}, start_method="fork", handlers=[Kept()]) as mesh:
        mesh.initialized.get(DEADLINE)
        yield mesh


# -- the end -----------------------------------------------------------------------------------------------------------


def test_a_stop_shows_the_last_records_and_can_be_repeated() -> None:
    kept = Kept()
    mesh = this_host().spawn_procs({"gpus": 2}, start_method="fork", handlers=[kept])
    mesh.logging_option(aggregate_window_sec=None).get(DEADLINE)
    future = mesh.call(log_rank, "last")
    stops = [mesh.stop() for _ in range(3)]
    for stop in stops:
        stop.get(DEADLINE)
    assert future.get(0) == [0, 1]
    assert kept.texts() == [(0, "last 0"), (1, "last 1")]
    actions: list[Callable[[], object]] = [mesh.flush, mesh.logging_option, lambda: mesh.call(current_rank)]
    for action in actions:
        with pytest.raises(ClosedError, match="was stopped"):
            action()
    assert "stopped" in repr(mesh)


def test_after_the_end_of_its_logging_errors_name_the_procs() -> None:
    mesh = this_host().spawn_procs({"gpus": 1}, start_method="fork", handlers=[Kept()])
    mesh.initialized.get(DEADLINE)
    logs = mesh.logging
    logs.drain_and_stop()
    actions: list[Callable[[], object]] = [logs.flush, logs.stacks, lambda: logs.set_level("DEBUG")]
    for action in actions:
        with pytest.raises(ClosedError, match=r"^the logging of these procs (does not run|was stopped)(?!.*LogClient)"):
            action()
    mesh.stop().get(DEADLINE)


def test_a_stop_of_a_mesh_keeps_the_records_of_a_busy_rank() -> None:
    def work() -> None:
        log_rank("busy")
        time.sleep(60)

    kept = Kept()
    mesh = this_host().spawn_procs({"gpus": 1}, start_method="fork", handlers=[kept])
    mesh.logging_option(aggregate_window_sec=None).get(DEADLINE)
    future = mesh.call(work)
    until(lambda: kept.records, DEADLINE, "the record")
    mesh.stop(timeout=0.5).get(DEADLINE)
    with pytest.raises(RankDied, match="ended by SIGTERM"):
        future.get(0)
    assert (0, "busy 0") in kept.texts()


def test_a_mesh_without_references_is_stopped() -> None:
    mesh = this_host().spawn_procs({"gpus": 2}, start_method="fork", handlers=[Kept()])
    pids = mesh.pids
    mesh.initialized.get(DEADLINE)
    del mesh
    gc.collect()
    until(lambda: all(map(gone, pids.values())), DEADLINE, "the procs to end")
    assert len(pids) == 2


def test_a_stop_ends_a_start_that_takes_too_long() -> None:
    mesh = this_host().spawn_procs({"gpus": 1}, start_method="fork", handlers=[Kept()], bootstrap=lambda: time.sleep(60))
    future = mesh.call(current_rank)
    begun = time.monotonic()
    mesh.stop(timeout=0.2).get(DEADLINE)
    assert time.monotonic() - begun < 15
    with pytest.raises(ClosedError):
        future.get(DEADLINE)


def test_a_failed_bootstrap_raises_an_error_at_each_use_of_the_mesh() -> None:
    host = this_host()
    mesh = host.spawn_procs({"gpus": 2}, start_method="fork", handlers=[Kept()], bootstrap=lambda: fail_on(1))
    for future in (mesh.call(current_rank), mesh.flush(), mesh.logging_option(), mesh.initialized):
        with pytest.raises(RankError, match="rank 1 failed in its bootstrap: Trouble: on 1"):
            future.get(DEADLINE)
    with pytest.raises(RankError):
        print(mesh.pids)
    mesh.stop().get(DEADLINE)


def test_a_failed_start_gives_a_warning_if_no_caller_received_the_error() -> None:
    def spawn_and_forget() -> None:
        with this_host().spawn_procs({"gpus": 1}, start_method="fork", handlers=[Kept()], bootstrap=lambda: fail_on(0)) as mesh:
            assert mesh.ranks == (0,)
        del mesh
        gc.collect()

    with pytest.warns(RuntimeWarning, match=r"the start of the mesh failed, and its result was never retrieved: .*Trouble"):
        spawn_and_forget()


CLIENT = """
import contextlib, sys, time
from meshlog_handler import this_host

mesh = this_host().spawn_procs({"gpus": 2}, start_method=sys.argv[1])
with mesh if "with" in sys.argv else contextlib.nullcontext():
    print(*mesh.pids.values(), flush=True)
    mesh.logging_option(aggregate_window_sec=None).get()
    future = mesh.call(lambda: (print("at work"), time.sleep(60)))
    while True:  # an interrupt that comes right before a sleep is heard after it
        time.sleep(0.1)
"""


@pytest.mark.parametrize("way", ["with", "without"])
@each_method
def test_ctrl_c_shows_only_the_traceback_of_the_client_and_ends_the_procs(method: str, way: str, tmp_path: Path) -> None:
    errors = tmp_path / "errors"
    command = [sys.executable, "-c", CLIENT, method, way]
    with (
        errors.open("w") as file,
        subprocess.Popen(
            command,
            env=importing({**os.environ, "PYTHONFAULTHANDLER": "1"}),
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            start_new_session=True,
        ) as client,
    ):
        try:
            assert client.stdout
            pids = [int(word) for word in client.stdout.readline().split()]
            lines = [client.stdout.readline() for _ in pids]
            begun = time.monotonic()
            os.killpg(client.pid, signal.SIGINT)
            assert client.wait(20) == -signal.SIGINT
            assert time.monotonic() - begun < 15
        except subprocess.TimeoutExpired:
            client.send_signal(signal.SIGABRT)  # it shows where its threads stand
            client.wait(DEADLINE)
            raise AssertionError(errors.read_text()) from None
        finally:
            client.kill()
    assert [line.partition("] ")[2] for line in lines] == ["at work\n"] * 2
    assert all(map(gone, pids))
    text = errors.read_text()
    assert text.count("Traceback") == 1
    assert "KeyboardInterrupt" in text


@pytest.mark.parametrize("per_host", [4, {}, {"gpus": 0}, {"gpus": "4"}])
def test_an_invalid_size_raises_an_error_at_once(per_host: Any) -> None:
    with pytest.raises(SettingError, match=r'Valid: .*{"gpus": 4}'):
        this_host().spawn_procs(per_host)


def test_other_invalid_settings_raise_an_error_at_once() -> None:
    with pytest.raises(SettingError, match="Valid: fork, spawn, forkserver"):
        this_host().spawn_procs({"gpus": 1}, start_method="clone")
    with pytest.raises(SettingError, match="cannot be called"):
        this_host().spawn_procs({"gpus": 1}, bootstrap="torch")  # type: ignore[arg-type]  # the mistake


def test_a_mesh_cannot_be_pickled(mesh_of_one: ProcMesh) -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(mesh_of_one)
    with pytest.raises(TypeError, match="cannot be pickled"):
        mesh_of_one.call(lambda: mesh_of_one.ranks).get(DEADLINE)


def test_current_rank_outside_of_a_mesh_needs_a_variable_of_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingError, match="no rank: no mesh started it, and none of RANK, "):
        current_rank()
    with pytest.raises(SettingError, match="no coordinates"):
        current_coords()
    monkeypatch.setenv("SLURM_PROCID", "5")
    assert current_rank() == 5
