"""The programs of `benchmarks.engines`, for each engine's own environment: 4 procs log, and the engine collects the logs.

Standalone: only the standard library and the engine, or our package, are available. Prints ``go`` when the procs begin, the
lines as the engine shows them, and at the end ``call`` with the microseconds of a logging call in the procs.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import sys
import time
from typing import Any

PROCS = 4


def log(calls: int) -> float:
    """In a proc: log `calls` times; return the microseconds of a call. With no calls, the first time, set up the logger."""
    logger = logging.getLogger("benchmark")
    logger.setLevel(logging.INFO)
    began = time.perf_counter()
    for number in range(calls):
        logger.info("step %d loss=%.3f", number, 0.5)
    return (time.perf_counter() - began) / max(1, calls) * 1e6


def log_to_stream(calls: int) -> float:
    """In a proc of an engine that forwards text: log to stderr."""
    logger = logging.getLogger("benchmark")
    if not logger.handlers:
        logger.addHandler(logging.StreamHandler())
        logger.propagate = False
    return log(calls)


def say(text: str) -> None:
    """Print a line for the process that measures."""
    print(text, flush=True)


def with_ray(calls: int) -> None:
    """Actors; `log_to_driver` without grouping (`benchmarks.engines` sets RAY_DEDUP_LOGS=0)."""
    ray: Any = importlib.import_module("ray")
    ray.init(num_cpus=PROCS, log_to_driver=True, include_dashboard=False)
    actor = ray.remote(num_cpus=1)(type("Worker", (), {"log": lambda self, calls: log_to_stream(calls)}))
    actors = [actor.remote() for _ in range(PROCS)]
    ray.get([each.log.remote(0) for each in actors])
    say("go")
    say(f"call {sum(ray.get([each.log.remote(calls) for each in actors])) / PROCS:.1f}")
    sys.stdin.readline()


def with_dask(calls: int) -> None:
    """A local cluster; `Client.forward_logging` forwards records, and a handler here prints them."""
    distributed: Any = importlib.import_module("distributed")
    logger = logging.getLogger("benchmark")
    logger.addHandler(logging.StreamHandler(sys.stdout))
    logger.setLevel(logging.INFO)
    logger.propagate = False
    with distributed.LocalCluster(n_workers=PROCS, threads_per_worker=1, dashboard_address=None) as cluster:
        client = distributed.Client(cluster)
        client.wait_for_workers(PROCS)
        client.forward_logging("benchmark", level=logging.INFO)
        workers = list(client.scheduler_info(n_workers=-1)["workers"])
        client.run(log, 0, workers=workers)
        say("go")
        say(f"call {sum(client.run(log, calls, workers=workers).values()) / PROCS:.1f}")
        sys.stdin.readline()


def with_monarch(calls: int) -> None:
    """A proc mesh; `logging_option` streams the procs' output, without a window."""
    actor: Any = importlib.import_module("monarch.actor")
    importlib.import_module("monarch.config").configure(enable_log_forwarding=True)
    worker = type("Worker", (actor.Actor,), {"log": actor.endpoint(_log_on_endpoint)})

    async def run() -> None:
        procs = actor.this_host().spawn_procs(per_host={"gpus": PROCS})
        await procs.logging_option(stream_to_client=True, aggregate_window_sec=None, level=logging.INFO)
        workers = procs.spawn("workers", worker)
        await workers.log.call(0)
        say("go")
        costs = [cost for _, cost in (await workers.log.call(calls)).items()]
        say(f"call {sum(costs) / PROCS:.1f}")
        await asyncio.to_thread(sys.stdin.readline)

    asyncio.run(run())


def with_ours(calls: int) -> None:
    """Our own proc mesh; a handler here prints the records."""
    package: Any = importlib.import_module("meshlog_handler")
    with package.this_host().spawn_procs(per_host={"gpus": PROCS}, handlers=[logging.StreamHandler(sys.stdout)]) as procs:
        procs.logging_option(aggregate_window_sec=None, level=logging.INFO).get()
        procs.call(log, 0).get()
        say("go")
        say(f"call {sum(procs.call(log, calls).get()) / PROCS:.1f}")
        sys.stdin.readline()


async def _log_on_endpoint(self: Any, calls: int) -> float:
    return log_to_stream(calls)


if __name__ == "__main__":
    {"ours": with_ours, "ray": with_ray, "dask": with_dask, "monarch": with_monarch}[sys.argv[1]](int(sys.argv[2]))
