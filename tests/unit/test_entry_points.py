"""Errors for invalid arguments of public functions name the argument, the expected value and the fix."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from meshlog_handler import LogClient, LogRelay, MeshHandler, SettingError, install, this_host
from meshlog_handler.transport.channel import Address

ADDRESS = "meshlog:///absent/client.sock#" + "00" * 32


@pytest.mark.parametrize(
    "call",
    [install, Address.parse, LogRelay, lambda address: MeshHandler(address=address)],
    ids=["install", "parse", "relay", "handler"],
)
@pytest.mark.parametrize("address", [1, True, b"meshlog://", object()])
def test_an_invalid_address_is_rejected(call: Callable[[Any], object], address: object) -> None:
    with pytest.raises(SettingError, match=re.escape(f"address={address!r}") + ".*LogClient.address"):
        call(address)


def test_the_error_for_install_as_worker_init_fn_shows_the_fix() -> None:
    with pytest.raises(SettingError, match=r"worker_init_fn=lambda number: install\(\)"):
        install(1)  # type: ignore[arg-type]  # as torch calls it


@pytest.mark.parametrize("rank", [-1, 1.0, "3", True, 10**20])
def test_an_invalid_rank_is_rejected(rank: Any) -> None:
    with pytest.raises(SettingError, match="is not a rank"):
        install(ADDRESS, rank=rank)


@pytest.mark.parametrize("level", ["LOUD", 256, -1, 1.5, object()])
def test_an_invalid_level_is_rejected(level: Any) -> None:
    with pytest.raises(SettingError, match="is not a level"):
        install(ADDRESS, level=level)


@pytest.mark.parametrize("window", [0, -1, "3", float("nan"), True])
@pytest.mark.parametrize(
    "call",
    [lambda window: LogClient(aggregate_window_sec=window), lambda window: MeshHandler(aggregate_window_sec=window)],
    ids=["client", "handler"],
)
def test_an_invalid_window_is_rejected(call: Callable[[Any], object], window: object) -> None:
    with pytest.raises(SettingError, match="is not a window"):
        call(window)


@pytest.mark.parametrize(
    "call",
    [
        lambda path: LogClient(log_dir=path),
        lambda path: LogRelay(ADDRESS, log_dir=path),
        lambda path: MeshHandler(log_dir=path),
        lambda path: this_host().spawn_procs(per_host={"gpus": 1}, log_dir=path),
    ],
    ids=["client", "relay", "handler", "mesh"],
)
def test_an_invalid_directory_is_rejected(call: Callable[[Any], object]) -> None:
    with pytest.raises(SettingError, match="log_dir=3 is not a directory"):
        call(3)


@pytest.mark.parametrize("handler", ["console", 3, print])
def test_an_invalid_handler_is_rejected(handler: Any) -> None:
    with pytest.raises(SettingError, match=r"is not a logging\.Handler"):
        LogClient(handler)
    with pytest.raises(SettingError, match=r"is not a logging\.Handler"):
        this_host().spawn_procs(per_host={"gpus": 1}, handlers=[handler])
