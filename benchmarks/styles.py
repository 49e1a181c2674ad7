"""The cost of each style of logging call, as a ratio to a handler that does nothing: ``python -m benchmarks.styles``.

With ``--beside TREE``, another checkout of the project, the same calls are measured there in turn, slice by slice. One
process makes the calls, and its client is another process. A slice is measured in processor time of the calling thread. A
ratio compares a slice of ours with the adjacent slice of the other handler; the median of these ratios is printed.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, Final

_CALLS: Final = 400
_LONG: Final = "x" * 5000
_PATH: Final = PurePosixPath("/data/shard-00017.parquet")
_ROOT: Final = Path(__file__).parents[1]


def _styles(log: logging.Logger) -> dict[str, Callable[[int], None]]:
    """Return the styles by name; each makes one call."""

    def exception(i: int) -> None:
        try:
            raise ValueError(i)
        except ValueError:
            log.exception("failed at %d", i)

    return {
        "numbers": lambda i: log.info("step %d loss=%.3f", i, 0.5),
        "short text": lambda i: log.info("file %s done", "shard"),
        "constant": lambda i: log.info("heartbeat"),
        "f-string": lambda i: log.info(f"step {i} loss={0.5:.3f}"),
        "object": lambda i: log.info("reading %s", _PATH),
        "list": lambda i: log.info("shape %s", [i, 2, 3]),
        "tuple as one": lambda i: log.info("shape %s of %d", (i, 2, 3), i),
        "mapping": lambda i: log.info("step %(step)d loss=%(loss).3f", {"step": i, "loss": 0.5}),
        "extra": lambda i: log.info("step %d", i, extra={"request_id": "abc", "user": 7}),
        "long text": lambda i: log.info("body %s", _LONG),
        "bytes": lambda i: log.info("raw %r", b"abc"),
        "exception": exception,
        "stack_info": lambda i: log.info("here", stack_info=True),
    }


class _Nothing(logging.Handler):
    def handle(self, record: logging.LogRecord) -> bool:
        return True


def _call(address: str, orders: Any) -> None:
    """Make calls on request, in a separate process."""
    from meshlog_handler import MeshHandler, install

    install(address, capture=False)
    handlers = {"mesh": next(each for each in logging.root.handlers if isinstance(each, MeshHandler)), "nothing": _Nothing()}
    log = logging.getLogger("bench")
    log.propagate = False
    log.setLevel(logging.INFO)
    styles = _styles(log)
    while (order := orders.recv()) is not None:
        style, handler = order
        log.handlers[:] = [handlers[handler]]
        call = styles[style]
        began = time.thread_time_ns()
        for number in range(_CALLS):
            call(number)
        spent = time.thread_time_ns() - began
        time.sleep(0.005)  # the forwarder's turn
        orders.send(spent / _CALLS / 1000)


def _serve() -> None:
    """Run the client and the calling process of one tree; requests arrive on stdin, costs go to stdout."""
    from meshlog_handler import LogClient

    ours, theirs = multiprocessing.Pipe()
    with LogClient(logging.NullHandler()) as client:
        caller = multiprocessing.get_context("spawn").Process(target=_call, args=(client.address, theirs))
        caller.start()
        for line in sys.stdin:
            ours.send(tuple(line.rstrip("\n").split("\t")))
            sys.stdout.write(f"{ours.recv()}\n")
            sys.stdout.flush()
        ours.send(None)
        caller.join()


class _Tree:
    """A checkout of the project whose calls are measured."""

    def __init__(self, root: Path) -> None:
        command = [sys.executable, __file__, "--serve"]
        env = {**os.environ, "PYTHONPATH": str(root)}
        self._process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def cost(self, style: str, handler: str) -> float:
        """Return the present cost of a call, in microseconds."""
        assert self._process.stdin is not None  # it is a pipe
        assert self._process.stdout is not None  # as above
        self._process.stdin.write(f"{style}\t{handler}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        """End the tree's processes."""
        self._process.communicate()


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.styles", description=__doc__.splitlines()[0])
    parser.add_argument("--beside", type=Path, metavar="TREE", help="another checkout, measured in turn with this one")
    parser.add_argument("--rounds", type=int, default=40, metavar="N", help="slices for each style (40)")
    parser.add_argument("--only", default="", metavar="STYLE", help="one style alone")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        _serve()
        return 0
    roots = [_ROOT] + ([chosen.beside.resolve()] if chosen.beside else [])
    trees = [_Tree(root) for root in roots]
    costs: dict[tuple[str, int, str], list[float]] = {}
    styles = [style for style in _styles(logging.getLogger()) if chosen.only in style]
    for number in range(chosen.rounds + 1):
        for style in styles:
            for at in (0, 1)[: len(trees)] if number % 2 else (1, 0)[-len(trees) :]:
                for handler in ("nothing", "mesh"):
                    spent = trees[at].cost(style, handler)
                    if number:  # the first one warms up
                        costs.setdefault((style, at, handler), []).append(spent)
    for tree in trees:
        tree.close()
    head = f"{'style':<14}{'nothing':>9}{'ours':>9}{'ratio':>8}"
    print(head + (f"{'beside':>9}{'its ratio':>11}{'change':>9}" if len(trees) > 1 else ""))
    for style in styles:
        ratios = [
            statistics.median(map(lambda a, b: a / b, costs[style, at, "mesh"], costs[style, at, "nothing"]))
            for at in range(len(trees))
        ]
        medians = [statistics.median(costs[style, at, "mesh"]) for at in range(len(trees))]
        line = f"{style:<14}{statistics.median(costs[style, 0, 'nothing']):>9.2f}{medians[0]:>9.2f}{ratios[0]:>8.2f}"
        print(line + (f"{medians[1]:>9.2f}{ratios[1]:>11.2f}{ratios[0] / ratios[1] - 1:>+9.0%}" if len(trees) > 1 else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
