"""Programs that log through another library, or show their output through one."""

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
"""Attributes that a record has only at the client; formatters that show every attribute show them."""


@pytest.mark.parametrize("handlers", ["mesh", "each"])
@pytest.mark.parametrize("method", METHODS)
def test_structlog_shows_the_same_with_our_handlers(method: str, handlers: str, tmp_path: Path) -> None:
    need("structlog")
    same(lambda place: place.run("structlog_app.py", method), tmp_path, handlers, normal=OURS)


@pytest.mark.parametrize("handlers", ["mesh", "each"])
@pytest.mark.parametrize("method", METHODS)
def test_python_json_logger_shows_the_same_with_our_handlers(method: str, handlers: str, tmp_path: Path) -> None:
    need("pythonjsonlogger")
    same(lambda place: place.run("json_app.py", method), tmp_path, handlers, normal=OURS)


@pytest.mark.parametrize("way", ["into", "from"])
@pytest.mark.parametrize("method", METHODS)
def test_loguru_shows_the_same_with_our_handlers(method: str, way: str, tmp_path: Path) -> None:
    need("loguru")
    same(lambda place: place.run("loguru_app.py", way, method), tmp_path)


def test_absl_shows_the_same_with_our_handlers(tmp_path: Path) -> None:
    need("absl")
    stamp = (r"(?m)^([IWE])\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ ", r"\1 ")
    same(lambda place: place.run("absl_app.py"), tmp_path, normal=[stamp])


@pytest.mark.parametrize("method", METHODS)
def test_rich_shows_the_same_with_our_handlers(method: str, tmp_path: Path) -> None:
    need("rich")
    same(lambda place: place.run("rich_app.py", method), tmp_path)
