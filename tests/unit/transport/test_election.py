from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshlog_handler.transport import run_directory
from meshlog_handler.transport.election import Election

ADDRESS = f"meshlog:///somewhere/client.sock#{'00' * 32}"


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Election, Election]]:
    """Two ranks of a job, with a private run directory."""
    monkeypatch.setenv("MESHLOG_RUN_DIR", str(tmp_path))
    made = Election("shop"), Election("shop")
    yield made
    for job in made:
        job.release()


def test_one_rank_claims_the_job_and_the_other_reads_the_address(jobs: tuple[Election, Election]) -> None:
    first, second = jobs
    assert first.path == second.path
    assert first.claim()
    assert first.claim(), "it is claimed already"
    assert not second.claim()
    assert second.address() == "", "not published yet"
    first.publish(ADDRESS)
    assert second.address() == ADDRESS
    assert os.stat(first.path).st_mode & 0o777 == 0o600


@pytest.mark.parametrize("path", ["/tmp/\udcff/client.sock", "/tmp/\u00e9\n#/client.sock"])
def test_the_directory_of_the_client_may_have_any_name(jobs: tuple[Election, Election], path: str) -> None:
    address = f"meshlog://{path}#{'00' * 32}"
    assert jobs[0].claim()
    jobs[0].publish(address)
    assert jobs[1].address() == address


def test_a_released_job_can_be_claimed_again(jobs: tuple[Election, Election]) -> None:
    first, second = jobs
    assert first.claim()
    first.publish(ADDRESS)
    first.release()
    assert not os.path.exists(first.path)
    assert second.address() == ""
    assert second.claim()
    assert not first.claim()
    assert first.address() == ""


def test_the_address_of_a_killed_process_is_overwritten(jobs: tuple[Election, Election]) -> None:
    first, second = jobs
    Path(first.path).write_text("meshlog://a long address of one that was killed\n")
    assert first.claim()
    assert second.address() == ""
    first.publish(ADDRESS)
    assert second.address() == ADDRESS


def test_a_partly_written_address_is_ignored(jobs: tuple[Election, Election]) -> None:
    Path(jobs[0].path).write_text("meshlog://he")
    assert jobs[0].address() == ""


def test_clean_removes_the_file_of_an_ended_job_only(jobs: tuple[Election, Election]) -> None:
    parent = os.path.dirname(jobs[0].path)
    left = Path(parent, f"{run_directory.JOB}0")  # of no process
    left.write_text("meshlog://nobody\n")
    assert jobs[0].claim()
    assert run_directory.clean(parent) == [str(left)]
    assert os.path.exists(jobs[0].path)
    assert not left.exists()
