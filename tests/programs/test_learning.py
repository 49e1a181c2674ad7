"""Programs of joblib, scikit-learn and torch, whose workers outlive the task that started them."""

from __future__ import annotations

from pathlib import Path

import pytest

from .needed import need
from .running import same

WORKERS = (
    (r"(LokyProcess|ForkPoolWorker|SpawnPoolWorker|Process)-[\d:]+", r"\1-N"),
    (r"(Thread)-\d+", r"\1-N"),
)
"""The names of workers and of joblib's threads: which of them takes a task is random."""


@pytest.mark.parametrize("handlers", ["mesh", "each"])
@pytest.mark.parametrize("backend", ["loky", "multiprocessing", "threading"])
def test_joblib_shows_the_same_with_our_handlers(backend: str, handlers: str, tmp_path: Path) -> None:
    need("joblib")
    same(lambda place: place.run("joblib_app.py", backend), tmp_path, handlers, normal=WORKERS)


def test_scikit_learn_shows_the_same_with_our_handlers(tmp_path: Path) -> None:
    need("sklearn")
    same(lambda place: place.run("sklearn_app.py"), tmp_path, normal=WORKERS)


@pytest.mark.parametrize(("method", "persistent"), [("fork", "yes"), ("fork", "no"), ("spawn", "yes")])
def test_data_loader(method: str, persistent: str, tmp_path: Path) -> None:
    need("torch")
    same(lambda place: place.run("torch_app.py", method, persistent), tmp_path, normal=WORKERS)
