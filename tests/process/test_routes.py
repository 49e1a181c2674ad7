"""A record goes to the handlers of the MeshHandler that accepted it. Without a MeshHandler, they write the same text."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from .procs import importing, run_python


def files_of(kind: str, program: str, how: str, place: Path, code: int | None = 0) -> dict[str, list[str]]:
    """Run a program of `routes`; return the lines of each file that it wrote, sorted because children log in any order."""
    directory = place / kind
    directory.mkdir()
    (place / "run").mkdir(exist_ok=True)  # a client that is killed leaves its run directory behind
    done = run_python(
        "-W",
        "ignore",
        "-m",
        "tests.process.routes",
        kind,
        program,
        how,
        str(directory),
        env={**importing(), "MESHLOG_RUN_DIR": str(place / "run")},
        code=code,
    )
    assert done.stderr == ""
    return {path.name: sorted(path.read_text().splitlines()) for path in sorted(directory.iterdir())}


def assert_same(program: str, how: str, place: Path, code: int | None = 0) -> dict[str, list[str]]:
    plain = files_of("plain", program, how, place, code)
    assert any(plain.values())
    assert files_of("mesh", program, how, place, code) == plain
    return plain


@pytest.mark.parametrize("how", ["apart", "both", "filters", "formatters"])
def test_two_mesh_handlers_in_one_configuration_write_the_same_text_as_plain_handlers(tmp_path: Path, how: str) -> None:
    lines = assert_same("family", how, tmp_path)
    line = {"filters": "APP request-spawn order by spawn", "formatters": "request-spawn APP order by spawn"}
    assert line.get(how, "APP order by spawn") in lines["app.log"]
    assert "ACCESS GET /forked" in lines["access.log"]


def test_each_record_is_in_the_file_of_its_configuration_after_a_reload(tmp_path: Path) -> None:
    lines = assert_same("reloaded", "apart", tmp_path)
    assert "APP order by child-after" in lines["app1.log"]
    assert "APP order by spawned" in lines["app2.log"]


def test_the_loggers_of_the_client_route_the_records_of_workers_that_only_install(tmp_path: Path) -> None:
    assert_same("installed", "apart", tmp_path)


def test_mesh_handlers_made_by_hand_write_the_same_text_as_plain_handlers(tmp_path: Path) -> None:
    assert_same("by_hand", "apart", tmp_path)


def test_a_formatter_and_a_filter_on_a_mesh_handler_have_the_same_effect_as_on_a_plain_one(tmp_path: Path) -> None:
    assert_same("formatted", "apart", tmp_path)


@pytest.mark.parametrize("form", ["", "%(levelname)s: %(message)s"])
def test_mesh_handlers_work_with_basic_config(tmp_path: Path, form: str) -> None:
    lines = assert_same("basic", form, tmp_path)
    assert "order by forked" in lines["intercepted.log"]


def test_odd_records_have_the_same_text_as_with_plain_handlers(tmp_path: Path) -> None:
    assert_same("same_text", "apart", tmp_path)


# README, "What is guaranteed": A drop-in.
@pytest.mark.parametrize("how", ["_exit", "exec", str(int(signal.SIGKILL)), str(int(signal.SIGTERM)), str(int(signal.SIGSEGV))])
def test_the_last_records_of_a_client_are_written_however_its_process_ends(tmp_path: Path, how: str) -> None:
    assert_same("last_words", how, tmp_path, -int(how) if how.isdecimal() else 0)
