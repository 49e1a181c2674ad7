"""A Celery worker with its process pool: recycled after some tasks, killed in one, stopped warm and cold."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from .needed import need
from .running import EXIT_REPORT, NORMAL_END, Place, same

need("celery")

CHANCE = (
    (r"[0-9a-f]{8}-[0-9a-f-]{27}", "ID"),
    (r"in [\d.e-]+s", "in SECONDS"),
    (r"ForkPoolWorker-\d+", "ForkPoolWorker-N"),
    (r"celery@\S+", "celery@HOST"),
    (r"(exitcode|signal) ?\d+", r"\1 N"),
    (r"Job: \d+", "Job: N"),  # the order in which tasks are taken
)
"""Patterns for text that differs from run to run."""

WORKER = (
    "celery",
    "-A",
    "celery_app",
    "worker",
    "--concurrency",
    "2",
    "--without-gossip",
    "--without-mingle",
    "--without-heartbeat",
)


@pytest.mark.parametrize(
    ("number", "code", "handlers"), [(signal.SIGTERM, 0, "mesh"), (signal.SIGTERM, 0, "each"), (signal.SIGINT, 1, "mesh")]
)
def test_celery_shows_the_same_with_our_handlers(number: signal.Signals, code: int, handlers: str, tmp_path: Path) -> None:
    """Each process is replaced after two tasks."""

    def scenario(place: Place) -> None:
        place.run("celery_app.py")
        with place.start(*WORKER, "--max-tasks-per-child", "2") as worker:
            place.until_shown(r"succeeded in", 6, "stdout")
            place.until_shown(r"raised unexpected", 1, "stdout")
            worker.stop(number, code)

    # Celery has the kernel kill an idle process when the parent's thread that started it ends (PR_SET_PDEATHSIG).
    same(scenario, tmp_path, handlers, normal=CHANCE, extra=[NORMAL_END, *EXIT_REPORT])


def test_celery_shows_the_same_when_a_task_kills_its_process(tmp_path: Path) -> None:
    def scenario(place: Place) -> None:
        place.run("celery_app.py")
        with place.start(*WORKER) as worker:
            place.until_shown(r"succeeded in", 6, "stdout")
            place.until_shown(r"WorkerLostError", 1, "stdout")
            worker.stop()

    same(scenario, tmp_path, normal=CHANCE, extra=[NORMAL_END, *EXIT_REPORT], variables={"KILL": "yes"})
