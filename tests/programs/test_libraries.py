"""Programs that log by another library, or show by one."""

from __future__ import annotations

from pathlib import Path

import pytest

from .needed import need
from .running import same

METHODS = ("fork", "spawn", "forkserver")

OURS = (
    (r'(, )?"(rank|local_rank)": (\d|null)(?=[,}])', ""),
    (r'(, )?"hostname": "[^"]*"', ""),
    (r'(, )?"coords": \{\}', ""),
    (r'(, )?"stream": null', ""),
    (r"\{, ", "{"),
    (r" (coords=\{\}|hostname=\S+|(local_)?rank=\d|stream=None)", ""),
)
"""What a record has in addition at the client, and formatters that show every attribute show."""


@pytest.mark.parametrize("handlers", ["mesh", "each"])
@pytest.mark.parametrize("method", METHODS)
def test_structlog(method: str, handlers: str, tmp_path: Path) -> None:
    need("structlog")
    same(lambda place: place.run("structlog_app.py", method), tmp_path, handlers, normal=OURS)


@pytest.mark.parametrize("handlers", ["mesh", "each"])
@pytest.mark.parametrize("method", METHODS)
def test_python_json_logger(method: str, handlers: str, tmp_path: Path) -> None:
    need("pythonjsonlogger")
    same(lambda place: place.run("json_app.py", method), tmp_path, handlers, normal=OURS)


@pytest.mark.parametrize("way", ["into", "from"])
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
