"""The journal keeps every record exactly once, whenever its process is killed, and the reader validates all data."""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import resource
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from meshlog_handler.errors import ProtocolError
from meshlog_handler.journal.layout import SEGMENTS, START, Range
from meshlog_handler.journal.reader import JournalReader
from meshlog_handler.journal.writer import Journal
from meshlog_handler.protocol.entries import HEADER, MARK, RECORD, UINT64, walk

SIZE = 1  # of all segments: each gets the minimum size
CAPACITY = mmap.ALLOCATIONGRANULARITY - START


def entry(number: int, size: int = 24) -> bytes:
    """Return an entry of `size` bytes that contains a number."""
    return HEADER.pack(RECORD, 1, size - HEADER.size) + UINT64.pack(number) + b"x" * (size - HEADER.size - UINT64.size)


def numbers(data: bytes) -> list[int]:
    """Return the numbers in a range of the stream."""
    return [UINT64.unpack_from(data, body)[0] for _, _, body, _ in walk(data)]


def write(journal: Journal, data: bytes) -> bool:
    """Append as the handler does; return False if the segment is full."""
    _, put, mark = journal.appender
    try:
        put(data)
    except ValueError:
        return False
    try:
        mark(MARK)
    except ValueError:
        assert journal._latest().map.tell() == journal.segment_size
    return True


def append(journal: Journal, data: bytes, *, overwrite: bool = False) -> bool:
    """Append, if necessary in the next segment; return False if all are full."""
    while not write(journal, data):
        if not journal.rotate(journal.appender, overwrite=overwrite):
            return False
    return True


def recovered(path: str | None, generation: int = 0, offset: int = START) -> list[int]:
    """Return what a client finds in the journal after the position up to which it has the stream."""
    assert path is not None
    return [number for piece in JournalReader(path).ranges(generation, offset) for number in numbers(piece.data)]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with closing(Journal(str(tmp_path / "journal"), SIZE)) as made:
        yield made
    vars(made).clear()  # pytest keeps the object, and its maps keep descriptors


class Life(RuleBasedStateMachine):
    """A process may be killed between any two steps: the records shipped and those found are all records, each once."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = TemporaryDirectory()
        self.path = os.path.join(self.directory.name, "journal")
        self.journal = Journal(self.path, SIZE)
        self.appended = 0
        self.received: list[int] = []
        self.position = (0, START)

    def teardown(self) -> None:
        self.journal.close()
        self.directory.cleanup()

    @rule(size=st.integers(16, 300) | st.integers(16, CAPACITY), count=st.integers(1, 40))
    def log(self, size: int, count: int) -> None:
        for _ in range(count):
            if not append(self.journal, entry(self.appended, size)):
                return
            self.appended += 1

    @rule()
    def rotate(self) -> None:
        before = self.journal.appender
        changed = self.journal.rotate(before, overwrite=False)
        assert changed == (self.journal.appender is not before)
        assert self.journal.rotate(before, overwrite=False) == changed
        if changed:
            for late in (before[1], before[2]):
                with pytest.raises((ValueError, TypeError)):
                    late(b"late")  # type: ignore[arg-type]  # the second takes a byte

    @rule(limit=st.integers(1, 6000), times=st.integers(1, 12), acknowledged=st.booleans())
    def ship(self, limit: int, times: int, acknowledged: bool) -> None:
        for _ in range(times):
            piece = self.journal.unshipped(limit)
            assert self.journal.unshipped(limit) == piece
            if piece is None:
                assert self.received == list(range(self.appended))
                return
            if not acknowledged:
                return
            expected = self.position[1] if piece.generation == self.position[0] else START
            assert piece.start == expected
            assert piece.generation >= self.position[0]
            self.received += numbers(piece.data)
            self.position = (piece.generation, piece.start + len(piece.data))
            oldest = self.journal._oldest
            assert self.journal.shipped(piece) == (self.journal._oldest is not oldest)
            assert not self.journal.shipped(Range(piece.generation + 99, START, b"of no segment"))

    @invariant()
    def nothing_is_lost_or_duplicated(self) -> None:
        assert self.received + recovered(self.path, *self.position) == list(range(self.appended))


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=50, stateful_step_count=20)


@pytest.mark.parametrize(
    "sizes",
    [[24] * 5, [CAPACITY], [24, 100, CAPACITY - 126], [24, 100, CAPACITY - 127], [16, 17, 18], [CAPACITY // 2] * 5],
)
def test_only_unfinished_record_is_missing_after_kill_at_any_instant(
    journal: Journal, tmp_path: Path, sizes: list[int]
) -> None:
    ends: list[tuple[int, int]] = []
    for number, size in enumerate(sizes):
        assert append(journal, entry(number, size))
        newest = journal._latest()
        ends.append((newest.index, newest.map.tell()))
    whole = Path(str(journal.path)).read_bytes()
    base = journal._header_size + newest.index * journal.segment_size
    older = [number for number, (index, _) in enumerate(ends) if index != newest.index]
    killed = tmp_path / "killed"
    step = max(1, ends[-1][1] // 200)
    for cut in sorted({*range(START, ends[-1][1], step), *(end + shift for _, end in ends for shift in (-2, -1, 0))}):
        killed.write_bytes(whole[: base + cut] + bytes(journal.segment_size - cut) + whole[base + journal.segment_size :])
        # The entries of calls that returned have their mark, and are found. The unfinished one is found whole, or not at all.
        returned = older + [number for number, (index, end) in enumerate(ends) if index == newest.index and end <= cut]
        found = recovered(str(killed))
        assert found == list(range(len(found)))
        assert len(returned) <= len(found) <= len(returned) + 1
        if len(found) > len(returned):
            end = ends[len(returned)][1]
            # It was written to its last byte, or it counts as complete because it fills the segment to the end.
            assert cut >= end - 1 or end == journal.segment_size


def test_entry_that_fills_the_segment_needs_no_mark(journal: Journal) -> None:
    assert write(journal, entry(0, 96))
    assert write(journal, entry(1, CAPACITY - 97))
    assert not write(journal, b"x")
    assert recovered(journal.path) == [0, 1]


def test_nothing_is_lost_if_killed_during_change_of_segments(journal: Journal) -> None:
    _, put, mark = journal.appender
    put(entry(0))
    journal.close_segment()
    with pytest.raises(ValueError, match="out of range"):
        mark(MARK)  # the handler takes this error for success
    assert recovered(journal.path) == [0]


class SlowMap(mmap.mmap):
    """A map that calls `between` before each `seek`, while its segment is being closed."""

    between: Any = None

    def seek(self, *args: Any) -> None:
        if self.between is not None:
            self.between()
        super().seek(*args)


def test_entries_written_while_a_segment_is_closed_are_found(journal: Journal) -> None:
    append(journal, entry(0))
    current = journal._latest()
    current.map = slow = SlowMap(journal._fd, journal.segment_size, offset=journal._header_size)
    slow.seek(START)
    slow.write(entry(0))  # its mark is written too late

    def other_threads() -> None:
        first = journal.unshipped(1 << 20)
        assert first is not None
        assert numbers(first.data) == [0]
        assert not journal.shipped(first), "its end is not known yet"
        assert journal.unshipped(1 << 20) is None
        slow.write_byte(MARK)
        slow.write(entry(1) + entry(2))

    slow.between = other_threads
    assert journal.rotate(journal.appender, overwrite=False)
    piece = journal.unshipped(1 << 20)
    assert piece is not None
    assert numbers(piece.data) == [1, 2]
    assert recovered(journal.path) == [0, 1, 2]
    slow.between = None


@given(st.lists(st.integers(16, CAPACITY), max_size=40))
@settings(max_examples=50)
def test_flight_recorder_keeps_the_last_records(sizes: list[int]) -> None:
    with TemporaryDirectory() as directory, closing(Journal(os.path.join(directory, "journal"), SIZE)) as journal:
        for number, size in enumerate(sizes):
            assert append(journal, entry(number, size), overwrite=True)
        found = recovered(journal.path)
        assert found == list(range(len(sizes)))[len(sizes) - len(found) :]
        kept = sum(sizes[number] + 1 for number in found)
        assert len(found) == len(sizes) or kept > (SEGMENTS - 1) * CAPACITY / 2 - CAPACITY
        generations = [piece.generation for piece in JournalReader(str(journal.path)).ranges()]
        assert generations == sorted(set(generations))


def test_journal_is_full_until_a_segment_is_shipped(journal: Journal) -> None:
    count = next(number for number in itertools.count() if not append(journal, entry(number, CAPACITY)))
    assert count == SEGMENTS
    piece = journal.unshipped(1)
    assert piece is not None
    assert not append(journal, entry(count))
    assert journal.shipped(piece)
    assert append(journal, entry(count))


def test_shipped_entries_are_retained_until_they_are_acknowledged_and_can_be_shipped_again(journal: Journal) -> None:
    journal.retains = True
    count = 0
    while append(journal, entry(count, 300)):
        count += 1
    shipped = []
    while (piece := journal.unshipped(1 << 20)) is not None:
        shipped.append(piece)
        assert not journal.shipped(piece)
    assert [number for piece in shipped for number in numbers(piece.data)] == list(range(count))
    assert not append(journal, entry(count, 300)), "nothing is acknowledged"
    assert not journal.acknowledge(shipped[0].generation)
    assert journal.acknowledge(shipped[2].generation)
    assert append(journal, entry(count, 300))
    journal.rewind(shipped[3].generation)
    again = []
    while (piece := journal.unshipped(1 << 20)) is not None:
        again += numbers(piece.data)
        journal.shipped(piece)
    assert again == list(range(numbers(shipped[3].data)[0], count + 1))


def test_entry_larger_than_limit_is_shipped_complete(journal: Journal) -> None:
    append(journal, entry(7, 3000))
    piece = journal.unshipped(100)
    assert piece is not None
    assert numbers(piece.data) == [7]


def test_drop_counts_outlive_the_process(journal: Journal) -> None:
    expected: Counter[tuple[str, int]] = Counter()
    for level in (20, 20, 30, 20, 999_999, -5, 20.5):
        journal.count_drop("full", level)  # type: ignore[arg-type]  # levels may have any value
        expected["full", min(max(int(level), 0), 0xFFFF)] += 1
    assert journal.count_drop("gone", 20) == 1
    assert journal.count_drop("gone", 20) == 2
    expected["gone", 20] += 2
    for drops in (journal.drops(), JournalReader(str(journal.path)).drops()):
        assert {(reason, level): count for reason, level, count in drops} == expected


def test_total_drop_count_is_exact_for_any_number_of_levels(journal: Journal) -> None:
    for level in range(400):
        for reason in ("full", "policy", "gone"):
            journal.count_drop(reason, level)
    for drops in (journal.drops(), JournalReader(str(journal.path)).drops()):
        totals: Counter[str] = Counter()
        for reason, _, count in drops:
            totals[reason] += count
        assert totals == dict.fromkeys(("full", "policy", "gone"), 400)
    assert append(journal, entry(5))
    assert recovered(journal.path) == [5]


def test_file_is_private_and_never_reused(journal: Journal) -> None:
    path = str(journal.path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert JournalReader(path).pid == os.getpid()
    with pytest.raises(FileExistsError):
        Journal(path, SIZE)


def test_a_journal_that_cannot_be_mapped_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal"

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    descriptors = len(os.listdir("/dev/fd"))
    with monkeypatch.context() as patched:
        patched.setattr(Journal, "_map", fail)
        with pytest.raises(OSError, match="Too many open files"):
            Journal(str(path), 1 << 20)
    assert not path.exists()
    assert len(os.listdir("/dev/fd")) == descriptors


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="macOS allocates by writing")
def test_full_disk_is_an_immediate_error_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        Journal(str(tmp_path / "journal"), SIZE)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="macOS allocates by writing")
def test_room_is_allocated_where_the_call_for_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.EPERM, "refused by a filter")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    journal = Journal(str(tmp_path / "journal"), 3 << 20)
    found = os.stat(tmp_path / "journal")
    assert found.st_size > 3 << 20
    assert found.st_blocks * 512 >= found.st_size
    assert append(journal, entry(1))
    journal.close()
    assert recovered(journal.path) == [1]


def test_file_is_reopened_after_program_closed_its_descriptor(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshlog_handler.journal.writer._kept", [])  # the descriptors of the maps were not closed here
    for other in (None, tmp_path / "other"):
        os.close(journal._fd)
        if other is not None:  # a file that gets the same number
            assert os.open(other, os.O_RDWR | os.O_CREAT) == journal._fd
        for number in range(100):
            assert append(journal, entry(number, 100), overwrite=True)
        assert recovered(journal.path)[-1] == 99
        if other is not None:
            assert other.read_bytes() == b""
            os.close(_fd_of(other))


def _fd_of(path: Path) -> int:
    """Return the open descriptor of a file."""
    return next(int(name) for name in os.listdir("/dev/fd") if os.path.realpath(f"/dev/fd/{name}") == str(path))


@pytest.mark.parametrize("size", [0, 100, 4096, 36864])
def test_journal_without_header_is_empty(size: int, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(bytes(size))
    reader = JournalReader(str(path))
    assert (list(reader.ranges()), reader.drops()) == ([], [])


def test_journal_works_without_a_file() -> None:
    journal = Journal(None, SIZE)
    for number in range(300):
        assert append(journal, entry(number, 100))
        piece = journal.unshipped(1 << 20)
        assert piece is not None
        assert numbers(piece.data) == [number]
        journal.shipped(piece)
    assert journal.unshipped(1) is None


@settings(max_examples=100)
@given(st.data())
def test_reader_survives_corrupted_data(data: st.DataObject) -> None:
    with TemporaryDirectory() as directory, closing(Journal(os.path.join(directory, "journal"), SIZE)) as journal:
        for number in range(100):
            append(journal, entry(number, 200))
        path = Path(str(journal.path))
        content = bytearray(path.read_bytes())
        header = journal._header_size
        places = st.integers(0, 40) | st.integers(1024, 1100) | st.integers(header, header + 300)
        places |= st.integers(0, len(content) - 1)
        for at in data.draw(st.lists(places, max_size=8)):
            content[at] = data.draw(st.integers(0, 255))
        path.write_bytes(content[: data.draw(st.just(len(content)) | st.integers(0, len(content)))])
        position = data.draw(st.tuples(st.integers(0, 12), st.integers(START, CAPACITY)))
        try:
            reader = JournalReader(str(path))
            pieces = list(reader.ranges(*position))
        except ProtocolError as refused:
            assert str(path) in str(refused)  # noqa: PT017 -- both outcomes are correct
            return
        assert all(len(piece.data) <= CAPACITY for piece in pieces)
        assert all(reason in ("full", "policy", "gone") for reason, _, _ in reader.drops())


def test_position_outside_the_segment_is_rejected(journal: Journal) -> None:
    append(journal, entry(0))
    for offset in (0, START - 1, CAPACITY + START + 1):
        with pytest.raises(ProtocolError, match="is outside the segment"):
            list(JournalReader(str(journal.path)).ranges(1, offset))


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Use up all descriptors of this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/dev/fd"))) + 4, hard))
    held = []
    try:
        with suppress(OSError):  # that was the last one
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_journal_works_if_no_descriptor_is_left(journal: Journal) -> None:
    """Each segment is mapped again twice, and a map needs a descriptor."""
    position = (0, START)
    got: list[int] = []
    logged = 0
    with no_descriptor_left():
        while journal._latest().generation < 3 * SEGMENTS:
            assert append(journal, entry(logged, 500))
            logged += 1
            piece = journal.unshipped(SIZE)
            assert piece is not None
            got += numbers(piece.data)
            position = (piece.generation, piece.start + len(piece.data))
            journal.shipped(piece)
        for _ in range(20):
            assert append(journal, entry(logged, 500))
            logged += 1
    assert got + recovered(journal.path, *position) == list(range(logged))
