from __future__ import annotations

import enum
import logging
import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from meshlog_handler import (
    JsonFormatter,
    LogClient,
    LoggingManager,
    LoggingMeshClient,
    MeshFormatter,
    MeshHandler,
    ProcMesh,
    install,
    settings,
    this_host,
)
from meshlog_handler.errors import DirectoryError, SettingError

READ: dict[str, tuple[Callable[[dict[str, str]], object], object]] = {
    settings.ENABLE_LOG_FORWARDING: (settings.forwarding_enabled, True),
    settings.PREFIX_WITH_RANK: (settings.prefix_with_rank, True),
    settings.OBSERVE: (settings.observe, True),
    settings.AGGREGATE_WINDOW_SEC: (settings.aggregate_window_sec, None),
    settings.MAX_LINE_SIZE: (settings.max_line_size, 16 * 1024),
    settings.JOURNAL_SIZE: (settings.journal_size, 1 << 20),
    "RANK": (settings.rank, None),
    "LOCAL_RANK": (settings.local_rank, None),
}


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("env", [{}, {"": ""}, {"other": "5"}])
def test_variables_that_are_not_set_have_defaults(name: str, env: dict[str, str]) -> None:
    read, default = READ[name]
    assert read(env) == default
    assert read({**env, name: ""}) == default
    assert read({**env, name: "  "}) == default


@pytest.mark.parametrize("name", READ)
def test_the_environment_is_read_at_each_call(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: Any = READ[name][0]
    monkeypatch.setenv(name, "65536" if "SIZE" in name else "1")
    first = read()
    monkeypatch.setenv(name, "70000" if "SIZE" in name else "0" if name != settings.AGGREGATE_WINDOW_SEC else "2.5")
    assert read() != first


@pytest.mark.parametrize("text", ["1", "true", "TRUE", " yes ", "On"])
def test_several_words_mean_on(text: str) -> None:
    assert settings.forwarding_enabled({settings.ENABLE_LOG_FORWARDING: text}) is True


@pytest.mark.parametrize("text", ["0", "false", "False", " no ", "OFF"])
def test_several_words_mean_off(text: str) -> None:
    assert settings.forwarding_enabled({settings.ENABLE_LOG_FORWARDING: text}) is False


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("text", ["maybe", "-1", "2x", "0x10", "nan", "inf", "9" * 5000, "1,5"])
def test_an_invalid_value_raises_an_error_with_the_variable_and_the_valid_values(name: str, text: str) -> None:
    with pytest.raises(SettingError, match=rf"^{name}=") as caught:
        READ[name][0]({name: text})
    assert "Valid: " in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("size", [1 << 16, 1 << 30])
def test_the_smallest_and_the_largest_journal_size(size: int) -> None:
    assert settings.journal_size({settings.JOURNAL_SIZE: str(size)}) == size


@pytest.mark.parametrize("size", [(1 << 16) - 1, (1 << 30) + 1])
def test_a_journal_size_that_is_too_small_or_too_large(size: int) -> None:
    with pytest.raises(SettingError, match="from 65536 to 1073741824"):
        settings.journal_size({settings.JOURNAL_SIZE: str(size)})


class Whole:
    """A whole number of another package, such as numpy's."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __index__(self) -> int:
        return self._number


class Level(enum.IntEnum):
    LOW = 7


@pytest.mark.parametrize("window", [None, 3, 0.001, 1e9])
def test_valid_windows(window: float | None) -> None:
    assert settings.check_window(window) == window


@pytest.mark.parametrize("window", [Fraction(1, 2), Decimal("0.5")])
def test_a_window_of_another_type_of_number_becomes_a_float(window: Any) -> None:
    checked = settings.check_window(window)
    assert (type(checked), checked) == (float, 0.5)


@pytest.mark.parametrize(
    ("ranks", "checked"), [(None, None), (3, (3,)), (Whole(3), (3,)), ([], ()), ([Whole(3), 1], (3, 1)), (iter({2}), (2,))]
)
def test_valid_ranks(ranks: Any, checked: tuple[int, ...] | None) -> None:
    assert settings.check_ranks(ranks) == checked


@pytest.mark.parametrize("ranks", ["3", b"3", -1, [-1], [None], 1.0, [True], True, 10**20])
def test_invalid_ranks(ranks: Any) -> None:
    with pytest.raises(SettingError, match="Valid: a whole number from 0, several"):
        settings.check_ranks(ranks)


@pytest.mark.parametrize("window", [0, -1, 0.0, -0.5, math.nan, math.inf, True, False, "3", [3], 3j])
def test_invalid_windows(window: Any) -> None:
    with pytest.raises(SettingError, match="Valid: a positive number"):
        settings.check_window(window)


@pytest.mark.parametrize(
    ("level", "number"),
    [(0, 0), (255, 255), (logging.INFO, 20), ("INFO", 20), ("warning", 30), ("Critical", 50), ("NOTSET", 0)],
)
def test_valid_levels(level: int | str, number: int) -> None:
    assert settings.check_level(level) == number


@pytest.mark.parametrize("level", [Level.LOW, Whole(7)])
def test_a_level_of_another_type_becomes_an_int(level: Any) -> None:
    checked = settings.check_level(level)
    assert (type(checked), checked) == (int, 7)


def test_levels_that_the_program_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "_nameToLevel", {**logging._nameToLevel, "Trace": 5})
    assert settings.check_level("Trace") == 5


@pytest.mark.parametrize("level", [-1, 256, True, None, 20.0, "LOUD", "", "20", b"INFO", [20]])
def test_invalid_levels(level: Any) -> None:
    with pytest.raises(SettingError, match="Valid: 0 to 255") as caught:
        settings.check_level(level)
    assert repr(level) in str(caught.value)


def test_the_rank_comes_from_the_first_variable_that_is_set() -> None:
    env = {"PMI_RANK": "4"}
    assert settings.rank(env) == 4
    for name, number in (("OMPI_COMM_WORLD_RANK", 3), ("SLURM_PROCID", 2), ("RANK", 0)):
        env[name] = str(number)
        assert settings.rank(env) == number
    env["RANK"] = " "
    assert settings.rank(env) == 2


@pytest.mark.parametrize("name", settings.LOCAL_RANK_VARIABLES)
def test_a_local_rank_comes_from_the_launchers_variables(name: str) -> None:
    assert settings.local_rank({name: " 7 "}) == 7
    assert settings.rank({name: "7"}) is None


def test_the_rotation_of_files() -> None:
    assert settings.rotation({}) == settings.Rotation(64 << 20, 8, "", False)
    env = {
        settings.MAX_BYTES: "1000",
        settings.BACKUP_COUNT: "3",
        settings.WHEN: "midnight",
        settings.COMPRESS: "yes",
    }
    assert settings.rotation(env) == settings.Rotation(1000, 3, "MIDNIGHT", True)


@pytest.mark.parametrize(
    ("name", "text"),
    [(settings.MAX_BYTES, "1 MB"), (settings.BACKUP_COUNT, "-1"), (settings.WHEN, "W7"), (settings.COMPRESS, "gzip")],
)
def test_an_invalid_rotation_names_the_variable(name: str, text: str) -> None:
    with pytest.raises(SettingError, match=name):
        settings.rotation({name: text})


def test_patterns_are_those_given_and_that_of_the_environment() -> None:
    assert settings.patterns(settings.HIDE, ["a", "b"], {settings.HIDE: "c|d"}) == ("a", "b", "c|d")
    assert settings.patterns(settings.HIDE, (), {}) == settings.patterns(settings.HIDE, None, {}) == ()
    assert settings.patterns(settings.HIDE, "one", {}) == ("one",)
    with pytest.raises(SettingError, match=r"MESHLOG_HIDE='\('"):
        settings.patterns(settings.HIDE, (), {settings.HIDE: "("})
    with pytest.raises(SettingError, match="not a regular expression"):
        settings.patterns(settings.NEVER, ["("], {})


@pytest.mark.parametrize(("text", "level"), [("", 30), ("INFO", 20), ("info", 20), ("25", 25)])
def test_the_level_of_the_first_line_of_a_group(text: str, level: int) -> None:
    assert settings.first_level({settings.FIRST_LEVEL: text}) == level


@pytest.mark.parametrize("text", ["LOUD", "256", "-1", "9" * 30])
def test_an_invalid_level_of_the_first_line_names_the_variable(text: str) -> None:
    with pytest.raises(SettingError, match=settings.FIRST_LEVEL):
        settings.first_level({settings.FIRST_LEVEL: text})


@pytest.mark.parametrize("value", ["no", "False", "", b"no", None])
def test_a_text_is_no_flag(value: Any) -> None:
    with pytest.raises(SettingError, match=r"^capture=.* is neither on nor off. Valid: True, False."):
        settings.check_flag(value, "capture")


@pytest.mark.parametrize("value", [True, False, 1, 0, Fraction(1)])
def test_a_number_is_a_flag(value: Any) -> None:
    assert settings.check_flag(value, "capture") is bool(value)


FLAGS: dict[str, Callable[[Any], object]] = {
    "capture": lambda flag: install(capture=flag),
    "warnings": lambda flag: install(warnings=flag),
    "fast": lambda flag: install(fast=flag),
    "respect_handler_level": lambda flag: LogClient(respect_handler_level=flag),
    "respect_handler_level ": lambda flag: MeshHandler(respect_handler_level=flag),
    "stream_log_to_client": lambda flag: this_host().spawn_procs(stream_log_to_client=flag),
    "stream_to_client": lambda flag: ProcMesh.logging_option(None, flag),  # type: ignore[arg-type]  # it is not used
    "stream_to_client ": lambda flag: LoggingMeshClient.set_mode(None, flag, None, 0),  # type: ignore[arg-type]  # as above
    "stream_to_client  ": lambda flag: LoggingManager().init(None, flag),  # type: ignore[arg-type]  # as above
    "colour": lambda flag: MeshFormatter(colour=flag),
    "ensure_ascii": lambda flag: JsonFormatter(ensure_ascii=flag),
}


@pytest.mark.parametrize("name", FLAGS)
def test_each_public_flag_is_checked(name: str) -> None:
    with pytest.raises(SettingError, match=rf"^{name.strip()}='no' is neither on nor off"):
        FLAGS[name]("no")


@pytest.mark.parametrize("path", ["", "a\0b", 7])
def test_an_empty_path_is_no_directory(path: Any) -> None:
    with pytest.raises(SettingError, match=r"^log_dir=.* is not a directory"):
        settings.check_directory(path)


def test_a_removed_current_directory_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here").rmdir()
    with pytest.raises(DirectoryError, match=r"^log_dir='logs' cannot be used: the current directory was removed"):
        settings.check_directory("logs")
    with pytest.raises(DirectoryError, match=r"^--log-dir='logs' cannot be used"):
        settings.absolute("logs", "--log-dir")
    assert settings.check_directory(str(tmp_path)) == str(tmp_path)


def test_what_is_not_a_logger_is_named() -> None:
    for ranks in (5, [1, 2]):
        with pytest.raises(SettingError, match=r"logger=.* is not the name of a logger.* write ranks="):
            settings.check_logger(ranks)
    with pytest.raises(SettingError, match="Write logger='app'"):
        settings.check_logger(logging.getLogger("app"))
    assert settings.check_logger("app") == "app"
    with pytest.raises(SettingError, match="write ranks=5"):
        LoggingMeshClient.set_level(None, "DEBUG", 5)  # type: ignore[arg-type]  # the mesh is not used
