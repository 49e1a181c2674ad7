"""Programs that log by another library, or show by one."""

from __future__ import annotations

from pathlib import Path

import pytest

from .needed import need
from .running import same

METHODS = ("fork", "spawn", "forkserver")


@pytest.mark.parametrize("way", ["into"])
@pytest.mark.parametrize("method", METHODS)
def test_loguru(method: str, way: str, tmp_path: Path) -> None:
    need("loguru")
    same(lambda place: place.run("loguru_app.py", way, method), tmp_path)


def test_absl(tmp_path: Path) -> None:
    need("absl")
    stamp = (r"(?m)^([IWE])\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ ", r"\1 ")
    same(lambda place: place.run("absl_app.py"), tmp_path, normal=[stamp])


@pytest.mark.parametrize("method", METHODS)
def test_rich(method: str, tmp_path: Path) -> None:
    need("rich")
    same(lambda place: place.run("rich_app.py", method), tmp_path)
