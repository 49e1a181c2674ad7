"""What `meshlog run` advises if a directory cannot be written."""

from __future__ import annotations

import errno
from typing import Final

import pytest

from meshlog_handler import settings
from meshlog_handler.cli.commands.run import _remedy

LOG_DIR: Final = "Give a --log-dir that can be written."
RUN_DIR: Final = "Set MESHLOG_RUN_DIR to another directory."


@pytest.mark.parametrize(
    ("where", "log_dir", "remedy"),
    [
        ("/data/logs", "/data/logs", LOG_DIR),
        (b"/data/logs/rank_3.log", "/data/logs/", LOG_DIR),
        ("/data", "/data/logs/today", LOG_DIR),
        ("/data/logs-of-others", "/data/logs", RUN_DIR),
        ("/scratch", "/scratch/logs", RUN_DIR),
        ("/scratch/meshlog-0", "/data/logs", RUN_DIR),
        ("/scratch/meshlog-0", None, RUN_DIR),
        (None, "/data/logs", ""),
    ],
)
def test_the_remedy_names_the_directory_that_is_the_cause(
    where: str | bytes | None, log_dir: str | None, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(settings.RUN_DIR, "/scratch")
    assert _remedy(OSError(errno.EACCES, "Permission denied", where), log_dir) == remedy


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_another_directory_is_no_remedy_if_there_is_no_descriptor_left(number: int) -> None:
    assert _remedy(OSError(number, "Too many open files", "/data/logs/rank_3.log"), "/data/logs") == ""
