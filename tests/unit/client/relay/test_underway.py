"""The captured lines that a relay has passed on and that are not confirmed."""

from __future__ import annotations

from meshlog_handler.client.relay.underway import LinesUnderway
from meshlog_handler.protocol.record import MeshInfo


def line(rank: int, **more: object) -> MeshInfo:
    return MeshInfo(rank, stream="stdout").but(**more)


def test_lines_count_by_rank_until_their_boundary_is_confirmed() -> None:
    lines = LinesUnderway()
    for rank in (0, 0, 1):
        lines.passed(line(rank))
    lines.boundary(1)
    lines.passed(line(1))
    lines.boundary(2)
    lines.boundary(3)
    lines.passed(line(0))
    assert lines.left() == {0: 3, 1: 2}
    lines.confirmed(1)
    assert lines.left() == {0: 1, 1: 1}
    lines.confirmed(3)
    assert lines.left() == {0: 1}


def test_records_and_progress_states_do_not_count_and_of_a_group_all_lines_do() -> None:
    lines = LinesUnderway()
    lines.passed(MeshInfo(0))
    lines.passed(line(0, progress=True))
    assert lines.left() == {}
    lines.passed(line(0, count=8, ranks=(0, 1, 2)))
    assert lines.left() == {0: 3, 1: 3, 2: 2}
