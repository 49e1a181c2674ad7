"""A pool of one kind or another that maps a function which logs: ``pools.py KIND METHOD``."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

import usual

log = logging.getLogger("app")


def work(number: int) -> int:
    for step in range(5):
        log.info("task %d: step %d", number, step)
    if number % 3 == 0:
        log.warning("task %d is a multiple of three", number)
    return number


def dies(number: int) -> None:
    log.error("task %d kills its process", number)
    os.kill(os.getpid(), signal.SIGKILL)


def main(kind: str, method: str) -> None:
    global pool  # one that lives as long as the program
    context = multiprocessing.get_context(method)
    initializer = None if method == "fork" else usual.configure
    if kind == "executor":
        with ProcessPoolExecutor(2, context, initializer) as pool:
            log.info("sum %d", sum(pool.map(work, range(10))))
    elif kind == "executor-left":
        pool = ProcessPoolExecutor(2, context, initializer)
        log.info("sum %d", sum(pool.map(work, range(10))))
    elif kind == "executor-broken":
        with ProcessPoolExecutor(1, context, initializer) as pool:
            log.info("result %d", pool.submit(work, 7).result())
            future = pool.submit(dies, 8)
            wait([future])  # so that `result` always raises at the same line
            try:
                future.result()
            except BrokenProcessPool:
                log.exception("the pool is broken")
    elif kind == "pool":
        with context.Pool(2, initializer) as pool:
            log.info("sum %d", sum(pool.map(work, range(10), chunksize=1)))
    elif kind == "pool-closed":
        pool = context.Pool(2, initializer)
        log.info("sum %d", sum(pool.imap_unordered(work, range(10))))
        pool.close()
        pool.join()
    elif kind == "pool-left":
        pool = context.Pool(2, initializer)
        log.info("sum %d", sum(pool.map(work, range(10), chunksize=1)))
    elif kind == "pool-recycled":
        with context.Pool(2, initializer, maxtasksperchild=1) as pool:
            log.info("sum %d", sum(pool.map(work, range(10), chunksize=1)))
            pool.close()
            pool.join()


if __name__ == "__main__":
    usual.configure()
    log.info("main begins")
    main(*sys.argv[1:])
    log.info("main ends")
