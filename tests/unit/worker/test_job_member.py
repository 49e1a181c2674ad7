"""The part of a process in a job."""

from __future__ import annotations

import threading

import pytest

from meshlog_handler.worker import job_member
from meshlog_handler.worker.job_member import JobMember
from meshlog_handler.worker.member import JoinOptions


def test_a_logging_call_of_a_forked_child_does_not_wait_long_for_a_client(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    """Neither for another thread that looks for one, nor because there is none."""
    monkeypatch.setenv("MESHLOG_RUN_DIR", str(tmp_path))
    monkeypatch.setattr(job_member, "_REJOIN_SEC", 0.02)
    member = JobMember("nobody-shows-it")
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(member.rejoin(JoinOptions("", job="nobody-shows-it"))))
    thread.start()
    thread.join(20)
    assert found == [None]
