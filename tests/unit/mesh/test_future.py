"""MeshFuture: awaited in any event loop, waited for in any thread; lost errors become warnings."""

from __future__ import annotations

import asyncio
import gc
import pickle
import threading
import warnings
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

import pytest
import trio

from meshlog_handler import MeshFuture
from tests.waiting import until

Run = Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]
LOOPS: dict[str, Run] = {"asyncio": lambda main: asyncio.run(main()), "trio": trio.run}
each_loop = pytest.mark.parametrize("run", LOOPS.values(), ids=LOOPS)


def pending(what: str = "the answer") -> tuple[Future[int], MeshFuture[int]]:
    future: Future[int] = Future()
    future.set_running_or_notify_cancel()
    return future, MeshFuture(future, what)


def failed(error: BaseException, what: str = "the answer") -> MeshFuture[int]:
    future, mesh_future = pending(what)
    future.set_exception(error)
    return mesh_future


async def wait_for(made: MeshFuture[int]) -> int:
    return await made


# -- threads -----------------------------------------------------------------------------------------------------------


def test_a_result_can_be_retrieved_repeatedly() -> None:
    made = MeshFuture.completed(3)
    assert made.done()
    assert [made.get(), made.get(0), made.exception()] == [3, 3, None]


def test_run_uses_a_new_daemon_thread() -> None:
    def about() -> tuple[str, bool]:
        return threading.current_thread().name, threading.current_thread().daemon

    assert MeshFuture.run(about, "search").get(5) == ("meshlog-search", True)


def test_run_propagates_errors() -> None:
    made = MeshFuture.run(lambda: 1 // 0, "division")
    with pytest.raises(ZeroDivisionError):
        made.get(5)
    assert isinstance(made.exception(), ZeroDivisionError)


def test_a_timeout_names_the_operation_and_get_can_be_repeated() -> None:
    future, made = pending("flush")
    with pytest.raises(TimeoutError, match=r"flush is not done after 0\.01 s"):
        made.get(0.01)
    assert not made.done()
    future.set_result(5)
    assert made.get(0) == 5


def test_a_timeout_error_of_the_operation_is_raised_unchanged() -> None:
    with pytest.raises(TimeoutError, match="rank 3 is silent"):
        failed(TimeoutError("rank 3 is silent")).get(1)


def test_several_threads_get_the_same_result() -> None:
    future, made = pending()
    others = [MeshFuture.run(made.get, f"waiter-{number}") for number in range(4)]
    future.set_result(7)
    assert [other.get(5) for other in others] == [7] * 4


def test_a_mesh_future_cannot_be_pickled() -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(MeshFuture.completed(1))


def test_repr_names_operation_and_state() -> None:
    future, made = pending("flush")
    assert repr(made) == "<MeshFuture: flush, pending>"
    future.set_result(1)
    assert repr(made) == "<MeshFuture: flush, done>"


# -- event loops -------------------------------------------------------------------------------------------------------


@each_loop
def test_a_completed_future_can_be_awaited_repeatedly(run: Run) -> None:
    made = MeshFuture.completed(3)

    async def main() -> tuple[int, int]:
        return await made, await made

    assert run(main) == (3, 3)


@each_loop
def test_a_result_set_by_another_thread_wakes_the_loop(run: Run) -> None:
    gate = threading.Event()
    made = MeshFuture.run(lambda: gate.wait(5), "gate")

    async def main() -> bool:
        assert not made.done()
        gate.set()
        return await made

    assert run(main) is True


@each_loop
def test_an_error_is_raised_at_the_await(run: Run) -> None:
    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            await MeshFuture.run(lambda: 1 // 0, "division")

    run(main)


def test_two_tasks_await_one_future_without_blocking_the_loop() -> None:
    async def main() -> list[int]:
        future, made = pending()
        tasks = [asyncio.create_task(wait_for(made)) for _ in range(2)]
        await asyncio.sleep(0)  # both tasks wait now, and the loop still runs
        future.set_result(9)
        return await asyncio.gather(*tasks)

    assert asyncio.run(main()) == [9, 9]


def test_gather_and_wait_for_accept_it() -> None:
    async def main() -> tuple[int, int]:
        return await asyncio.wait_for(asyncio.gather(MeshFuture.completed(1), MeshFuture.completed(2)), 5)

    assert asyncio.run(main()) == [1, 2]  # type: ignore[comparison-overlap]  # annotated as a tuple


def test_cancelling_a_waiting_task_does_not_cancel_the_operation() -> None:
    future, made = pending()

    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(wait_for(made), 0.01)

    asyncio.run(main())
    future.set_result(4)  # the loop is closed by now: no task wakes up, and nothing is raised
    assert made.get(0) == 4


def test_cancelling_a_waiting_trio_task_does_not_cancel_the_operation() -> None:
    future, made = pending()

    async def main() -> None:
        with trio.move_on_after(0.01) as scope:
            await made
        assert scope.cancelled_caught

    trio.run(main)
    future.set_result(4)
    assert made.get(0) == 4


def test_await_without_a_loop_blocks() -> None:
    gate = threading.Event()
    made = MeshFuture.run(lambda: gate.wait(5), "gate")
    gate.set()
    coroutine = wait_for(made)  # type: ignore[arg-type]  # a bool is a number
    with pytest.raises(StopIteration) as stopped:
        coroutine.send(None)
    assert stopped.value.value is True


# -- errors that are never retrieved -----------------------------------------------------------------------------------


def test_an_error_never_retrieved_warns_when_the_future_is_collected() -> None:
    held = [failed(ValueError("lost"), "call of train")]
    with pytest.warns(RuntimeWarning, match=r"call of train failed, and its result was never retrieved: ValueError: lost"):
        held.clear()


def test_an_error_after_the_future_is_collected_warns() -> None:
    future, made = pending("call of train")
    del made
    with pytest.warns(RuntimeWarning, match="call of train failed"):
        future.set_exception(ValueError("lost"))


@pytest.mark.parametrize("by", ["exception", "get"])
def test_a_retrieved_error_does_not_warn(by: str) -> None:
    made = failed(ValueError("known"))
    if by == "get":
        with pytest.raises(ValueError, match="known"):
            made.get()
    else:
        assert isinstance(made.exception(), ValueError)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del made
        gc.collect()


def test_a_result_never_retrieved_does_not_warn() -> None:
    future, made = pending()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del made
        future.set_result(1)
        gc.collect()
    assert future.done()


def test_concurrent_collection_and_error_warn_once() -> None:
    for _ in range(50):
        future, made = pending()
        held = [made]
        del made
        gate = threading.Barrier(2)

        def drop(held: list[MeshFuture[int]] = held, gate: threading.Barrier = gate) -> None:
            gate.wait(5)
            held.clear()

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            thread = threading.Thread(target=drop)
            thread.start()
            gate.wait(5)
            future.set_exception(ValueError("lost"))
            thread.join()
            until(lambda caught=caught: caught, what="a warning")  # type: ignore[misc]  # bound in the loop
        assert len(caught) == 1
