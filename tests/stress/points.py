"""Workers are killed between two steps of their work, or in the middle of a step."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Collection
from functools import partial
from operator import methodcaller
from typing import Any, Final

import meshlog_handler
from meshlog_handler.journal import writer
from meshlog_handler.transport import channel

from .faults import fault
from .opcodes import at_a_step_of, kill_myself
from .scene import Scene
from .workers import Worker, at_work

# The functions that are traced, and the average number of steps before the last one.
POINTS: Final[dict[str, tuple[set[str], int]]] = {
    "a logging call": (
        {"handler.handle", "handler.emit", "record_stream.append", "record_stream._append", "record_stream._put", "encode.*"},
        1500,
    ),
    "changing segments": (
        {
            "writer.rotate",
            "writer.close",
            "writer._open",
            "writer._choose",
            "record_stream._next_segment",
            "record_stream._rotate",
        },
        300,
    ),
    "shipping": (
        {
            "forwarder.ship",
            "forwarder._round",
            "writer.unshipped",
            "writer.shipped",
            "writer._pass",
            "writer._whole",
            "channel._send",
            "channel.send_data",
            "record_stream.shipping",
            "record_stream.made_room",
        },
        3000,
    ),
    "waking the forwarder": ({"forwarder.wake", "forwarder._round", "forwarder._monitor"}, 300),
    "a flush": ({"runtime._run", "runtime.carry_out", "runtime._flush", "record_stream.append_flush", "channel.receive"}, 300),
    "joining": (
        {
            "member.__init__",
            "this_process.join",
            "member.make_journal",
            "channel.connect",
            "channel.dial",
            "channel.authenticate",
            "writer.__init__",
            "writer._allocate",
            "fd_capture.*",
            "handler.__init__",
            "installation.*",
        },
        1500,
    ),
    "leaving": (
        {"member.leave", "fd_capture.*", "channel.close", "forwarder.enqueue_sentinel", "record_stream.lose_client"},
        700,
    ),
    "a side file": ({"record_stream._set_aside", "record_stream._append"}, 150),
    "counting a drop": ({"writer.count_drop"}, 3000),
    "anything at all": (
        {
            f"{module}.*"
            for module in ("handler", "record_stream", "writer", "forwarder", "channel", "this_process", "runtime", "encode")
        },
        20_000,
    ),
}


def one_in(odds: int, rng: random.Random) -> Callable[[], bool]:
    """Return a function that returns True once in `odds` calls, on average."""
    left = int(rng.expovariate(1 / odds))

    def now() -> bool:
        nonlocal left
        left -= 1
        return left < 0

    return now


def doomed(worker: Worker, names: Collection[str], odds: int) -> None:
    """Work, and die at a step of these functions; end normally if that step never comes."""
    at_a_step_of(names, one_in(odds, worker.rng), kill_myself)
    at_work(worker)
    meshlog_handler.uninstall()


def large(worker: Worker, names: Collection[str], odds: int) -> None:
    """The same, with records larger than a segment."""
    at_a_step_of(names, one_in(odds, worker.rng), kill_myself)
    worker.join()
    while not worker.tally.stopped:
        worker.lanes[0].log(msg="%d %d %s", call=_log_large)
        worker.lanes[0].log()


def _log_large(msg: str, *args: object) -> None:
    from .tally import LOGGER

    LOGGER.info(msg, *args, "z" * 20_000)


def _strike(scene: Scene, work: Callable[..., object], names: Collection[str], odds: int, **options: Any) -> None:
    if options:  # a slow client makes workers drop records
        scene.counting.before = lambda _: time.sleep(0.0002)
    scene.start(at_work, 2, **options)
    scene.at_work()
    with scene.small_journals():
        scene.start(partial(work, names=names, odds=odds), 4, **options)
    scene.struck.update(range(2, 6))
    end = time.monotonic() + 0.6
    while time.monotonic() < end and any(proc.is_alive() for proc in scene.procs[2:]):
        assert scene.client is not None
        scene.client.flush_soon(5.0).result(30)
        scene.at_work(5)
    scene.counting.before = None


def _register() -> None:
    for point, (names, odds) in POINTS.items():
        work = large if point == "a side file" else doomed
        options: dict[str, Any] = {"on_full": "drop"} if point == "counting a drop" else {}
        fault(f"SIGKILL between two steps of {point}")(partial(_strike, work=work, names=names, odds=odds, **options))


_register()


# -- in the middle of a step -------------------------------------------------------------------------------------------


def torn_record(worker: Worker) -> None:
    """Die in the middle of copying a record into the journal."""
    now, open_segment = one_in(2000, worker.rng), writer.Journal._open

    def open_and_tear(self: writer.Journal, *args: int) -> Any:
        segment = open_segment(self, *args)
        shapes, write, mark = segment.appender

        def torn(data: bytes) -> int:
            if now():
                part = data[: worker.rng.randrange(len(data) + 1)]
                # One C call: a thread running in between could continue to write or ship it. No thread of a dead process can.
                list(map(methodcaller("__call__"), (partial(write, part), partial(os.kill, os.getpid(), signal.SIGKILL))))
            return write(data)

        segment.appender = shapes, torn, mark
        return segment

    writer.Journal._open = open_and_tear  # type: ignore[assignment,method-assign]  # in a process that will die of it
    at_work(worker)


def torn_frame(worker: Worker) -> None:
    """Die in the middle of sending a frame."""
    now = one_in(20, worker.rng)

    def send(self: channel.Link, data: bytes) -> None:
        with self._sending:
            if now():
                self._sock.sendall(data[: worker.rng.randrange(len(data) + 1)])
                kill_myself()
            self._sock.sendall(data)

    channel.Link._send = send  # type: ignore[method-assign]  # as above
    at_work(worker)


def torn_side_file(worker: Worker) -> None:
    """Die in the middle of writing a side file."""
    now, worker_join = one_in(20, worker.rng), worker.join

    def opening(path: str, mode: str) -> Any:
        file = open(path, mode)  # noqa: SIM115 -- the replacement for open must return it
        write = file.write

        class Torn:
            name = path

            def __enter__(self) -> Torn:
                return self

            def __exit__(self, *_: object) -> None:
                file.close()

            def write(self, data: bytes) -> int:
                if now():
                    write(data[: worker.rng.randrange(len(data) + 1)])
                    file.flush()
                    kill_myself()
                return write(data)

        return Torn()

    from meshlog_handler.worker import record_stream

    vars(record_stream)["open"] = opening
    worker_join()
    while not worker.tally.stopped:
        worker.lanes[0].log(call=_log_large, msg="%d %d %s")


for _name, _work in {
    "copying a record": torn_record,
    "sending a frame": torn_frame,
    "writing a side file": torn_side_file,
}.items():
    fault(f"SIGKILL in the middle of {_name}")(
        partial(_strike, work=lambda worker, names, odds, do=_work: do(worker), names=(), odds=0)
    )


@fault("SIGKILL of itself, right after a call")
def right_after(scene: Scene) -> None:
    def work(worker: Worker) -> None:
        count = worker.rng.randrange(3000)
        worker.join()
        worker.log_on(until=lambda: worker.lanes[0].returned >= count)
        os.kill(os.getpid(), 9)

    scene.start(at_work, 2)
    scene.start(work, 4)
    scene.struck.update(range(2, 6))
    scene.join([*scene.struck], (-9,))
    scene.at_work()
