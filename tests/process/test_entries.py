"""All ways to join: pools and executors of all kinds with every start method, subprocesses, and replaced workers."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import loky
import multiprocess
import pytest

from meshlog_handler import LogClient, SettingError, install
from meshlog_handler.client.peers.registry import KEPT_JOURNALS
from meshlog_handler.testing import CollectedLogs, RecordCollector, collected
from tests.leaks import Held
from tests.waiting import until

from . import workers
from .procs import DEADLINE, METHODS, join_all, run_python, started

TASKS = 6


@contextmanager
def executor(method: str, address: str) -> Iterator[Callable[..., Any]]:
    """Yield the `map` of an executor of two workers."""
    context: Any = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, context, install, (address,)) as pool:
        yield pool.map


@contextmanager
def stdlib_pool(method: str, address: str, **options: Any) -> Iterator[Callable[..., Any]]:
    """Yield the `map` of a pool of two workers."""
    context: Any = multiprocessing.get_context(method)
    with context.Pool(2, install, (address,), **options) as pool:
        yield pool.map
        pool.close()
        pool.join()


@contextmanager
def multiprocess_pool(method: str, address: str) -> Iterator[Callable[..., Any]]:
    """Yield the `map` of a `multiprocess` pool of two workers."""
    with multiprocess.get_context(method).Pool(2, install, (address,)) as pool:
        yield pool.map
        pool.close()
        pool.join()


@contextmanager
def loky_executor(method: str, address: str) -> Iterator[Callable[..., Any]]:
    """Yield the `map` of a `loky` executor of two workers."""
    context = loky.backend.get_context(method)
    with loky.ProcessPoolExecutor(2, context=context, initializer=install, initargs=(address,)) as pool:
        yield pool.map


pytestmark = pytest.mark.usefixtures("real_stdout")

WAYS = [
    *((make, method) for make in (executor, stdlib_pool, multiprocess_pool) for method in METHODS),
    (loky_executor, "loky"),
]


def check_greetings(logs: CollectedLogs, pids: set[int], count: int) -> None:
    """Check that each greeting and each line arrived once, with its process and rank, and that the ranks differ."""
    logs.flush()
    greetings = [record for record in logs.records if record.name == workers.NAME]
    printed = [record for record in logs.records if record.getMessage().startswith("printed ")]
    assert sorted(record.getMessage() for record in greetings) == sorted(f"greeting {number}" for number in range(count))
    assert sorted(record.getMessage() for record in printed) == sorted(f"printed {number}" for number in range(count))
    assert {record.levelno for record in greetings} == {logging.WARNING}
    assert {record.process for record in greetings} == pids == {record.process for record in printed}
    ranks = {(record.process, vars(record)["rank"]) for record in (*greetings, *printed)}
    assert len(ranks) == len(pids)
    assert len({rank for _, rank in ranks}) == len(pids)
    assert all(isinstance(rank, int) for _, rank in ranks)
    assert {vars(record)["stream"] for record in printed} == {"stdout"}
    assert {vars(record)["stream"] for record in greetings} == {None}


@pytest.mark.parametrize(("make", "method"), WAYS, ids=[f"{make.__name__}-{method}" for make, method in WAYS])
def test_install_works_as_an_initializer(make: Callable[..., Any], method: str) -> None:
    with collected() as logs:
        with make(method, logs.address) as map_:
            pids = set(map_(workers.greet, range(TASKS)))
        check_greetings(logs, pids, TASKS)


@pytest.mark.parametrize("method", METHODS)
def test_two_workers_at_the_same_time_have_two_ranks(method: str) -> None:
    """Each worker runs exactly one task, because no task can end before the other has begun."""
    with collected() as logs, multiprocessing.get_context(method).Manager() as manager:
        arrived, go = manager.Semaphore(0), manager.Semaphore(0)
        with executor(method, logs.address) as map_:
            results = map_(workers.greet_slowly, range(2), [arrived] * 2, [go] * 2)
            for _ in range(2):
                assert arrived.acquire(True, DEADLINE)
            for _ in range(2):
                go.release()
            pids = set(results)
        assert len(pids) == 2
        check_greetings(logs, pids, 2)


def test_a_subprocess_joins_through_its_environment() -> None:
    with collected() as logs:
        environ = {**logs.environ(), "RANK": "5", "LOCAL_RANK": "1"}
        code = "import meshlog_handler; meshlog_handler.install(); from tests.process.workers import greet; greet(0)"
        run_python("-c", code, env=environ)
        logs.flush()
        records = [record for record in logs.records if record.getMessage() in ("greeting 0", "printed 0")]
    assert "MESHLOG_ADDRESS" not in os.environ
    assert [(vars(record)["rank"], vars(record)["local_rank"], vars(record)["stream"]) for record in records] in (
        [(5, 1, None), (5, 1, "stdout")],
        [(5, 1, "stdout"), (5, 1, None)],
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_second_install_adds_nothing(method: str) -> None:
    with collected() as logs:
        with started(method, workers.install_twice, [(logs.address,)]) as procs:
            pids = {proc.pid for proc in procs if proc.pid is not None}
            assert join_all(procs) == [0]
        check_greetings(logs, pids, 2)
        assert len(logs.client.stats()) == 1


def test_an_install_without_an_address_raises_an_error_with_a_remedy() -> None:
    with pytest.raises(SettingError, match=r"MESHLOG_ADDRESS is not set.*LogClient\.address.*LogClient\.environ\(\)"):
        install()
    done = run_python("-c", "import meshlog_handler; meshlog_handler.install('tcp://nowhere')", code=1)
    assert "SettingError" in done.stderr
    assert "LogClient.address" in done.stderr
    assert "nowhere" not in done.stderr.splitlines()[-1], "the address may hold a key"


@contextmanager
def replacing_pool(method: str, address: str) -> Iterator[Callable[..., Any]]:
    """Yield the `map` of a pool of two workers that take one task each."""
    with stdlib_pool(method, address, maxtasksperchild=1) as map_:
        yield lambda *args: map_(*args, 1)


@contextmanager
def replacing_executor(method: str, address: str) -> Iterator[Callable[..., Any]]:
    """Yield the `map` of an executor of two workers that take one task each."""
    if sys.version_info < (3, 11):
        pytest.skip("Python 3.10 replaces no workers of an executor")
    context: Any = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, context, install, (address,), max_tasks_per_child=1) as pool:
        yield pool.map


REPLACED = 20
REPLACING = [(replacing_pool, "fork"), (replacing_pool, "forkserver"), (replacing_executor, "forkserver")]


@pytest.mark.parametrize(("make", "method"), REPLACING, ids=[f"{make.__name__}-{method}" for make, method in REPLACING])
def test_workers_that_are_replaced_leave_nothing_behind(make: Callable[..., Any], method: str) -> None:
    with collected() as logs:
        directory = os.path.dirname(logs.client.address.removeprefix("meshlog://").partition("#")[0])
        lasting, held = sorted(os.listdir(directory)), Held.take()
        with make(method, logs.address) as map_:
            pids = set(map_(workers.greet, range(REPLACED)))
        assert len(pids) == REPLACED
        check_greetings(logs, pids, REPLACED)
        until(lambda: sorted(os.listdir(directory)) == lasting, what=lambda: f"{os.listdir(directory)} to be {lasting}")
        del map_  # the last reference to the pool, which has its own pipes
        assert held.left() == []
        assert not any(counts.alive for counts in logs.client.stats().values())


@pytest.mark.parametrize("rank", [None, 0])
def test_a_log_dir_keeps_only_the_journals_of_the_latest_workers(
    rank: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshlog_handler.client.peers.registry.KEPT_GUESTS", KEPT_JOURNALS)
    count = KEPT_JOURNALS + 2
    with LogClient(RecordCollector(), log_dir=tmp_path) as client:
        for number in range(count):
            with started("fork", workers.greet_from, [(client.address, number, rank)]) as procs:
                assert join_all(procs) == [0]
            until(lambda: not any(counts.alive for counts in client.stats().values()), what="the worker to be missed")
        journals = [path for path in tmp_path.iterdir() if ".journal" in path.name]
    assert len(journals) == KEPT_JOURNALS
    printed = [(tmp_path / f"rank-{number}.stdout").read_text() for number in range(count if rank is None else 1)]
    assert "".join(printed) == "".join(f"printed {number}\n" for number in range(count))


def test_each_of_several_successive_workers_gets_a_new_rank() -> None:
    with collected() as logs:
        for number in range(3):
            with started("fork", workers.greet_from, [(logs.address, number)]) as procs:
                assert join_all(procs) == [0]
            until(lambda: not any(counts.alive for counts in logs.client.stats().values()), what="the worker to be missed")
        stats = logs.client.stats()
        assert [vars(record)["rank"] for record in logs.records if record.name == workers.NAME] == [0, 1, 2]
    assert {rank: (each.received, each.lines) for rank, each in stats.items()} == dict.fromkeys(range(3), (1, 1))
