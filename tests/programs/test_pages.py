"""Every page of docs/frameworks has the same form, and works as it stands there."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.process.documents import ROOT, Page, imported, run_script, shape
from tests.waiting import until

from .needed import need
from .running import DEADLINE, Place, Program, temporary_directory

pytestmark = pytest.mark.docs

FOLDER = ROOT / "docs" / "frameworks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.md") if path.stem != "index")


def page_of(name: str) -> Page:
    """Return a page."""
    return Page(f"docs/frameworks/{name}.md")


HEADINGS = ["Ten lines", "What you see", "What to watch for"]

BY_COMMAND = {"celery": "celery", "gunicorn": "gunicorn", "pytest": "xdist", "torchrun": "torch", "uvicorn": "uvicorn"}
"""The packages that commands come from; others are no part of Python."""

VARIABLES = {
    "OMP_NUM_THREADS": "1",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "CELERY_BROKER_URL": "filesystem://",
}


def ask(path: str) -> Callable[[Program], object]:
    """Return what sends one request to a server."""
    return lambda server: server.until_answers(path)


def add_task(worker: Program) -> None:
    """Send a task to Celery's worker."""
    worker.place.run(sys.executable, "-c", "import tasks; tasks.add.delay(1, 2)")


# Only a worker that has answered is sure to obey when gunicorn tells it to end.
GUNICORN = ("--workers", "1", "--no-control-socket", "--bind")

SERVERS: dict[str, tuple[tuple[str, ...], Callable[[Program], object]]] = {
    "gunicorn": ((*GUNICORN, "127.0.0.1:{}"), ask("/1")),
    "django": ((*GUNICORN, "127.0.0.1:{}"), ask("/items/1")),
    "uvicorn": (("--port", "{}"), ask("/items/1")),
    "celery": (("--without-gossip", "--without-mingle", "--without-heartbeat"), add_task),
}
"""Pages whose last command starts a server: the words that a test adds, and how it is used."""

METHODS = ("fork", "spawn", "forkserver")
CHANGES = [
    pytest.param(name, number, method, id=f"{name}-{number}-{method}")
    for name in NAMES
    for number in range(len(page_of(name).changes()))
    for method in METHODS
]


def need_all(page: Page) -> None:
    """Skip the calling test unless everything that the page uses is installed."""
    names = {name.partition(".")[0] for name in page.files()}
    changed = [side for change in page.changes() for side in change]
    wanted = {package for body in (*page.blocks("python"), *changed) for package in imported(body)}
    wanted |= {BY_COMMAND[words[0]] for words in page.commands() if words[0] in BY_COMMAND}
    for package in sorted(wanted - names - set(sys.stdlib_module_names) - {"meshlog_handler"}):
        need(package)
    for program, *_ in page.commands():
        if program not in BY_COMMAND and not shutil.which(program, path=place_path()):
            pytest.skip(f"needs {program}")


def place_path() -> str:
    """Return the PATH of an active environment."""
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def promised(page: Page, place: Place) -> list[str]:
    """Return the lines that the page promises and the place has not shown yet."""
    shown = {shape(line) for text in place.shown().values() for line in text.splitlines()}
    return [line for body in page.blocks("text") for line in body.splitlines() if shape(line) not in shown]


@pytest.mark.parametrize("name", [name for name in NAMES if page_of(name).blocks("python") or page_of(name).commands()])
def test_a_page_shows_what_it_promises(name: str, tmp_path: Path) -> None:
    page = page_of(name)
    need_all(page)
    for body in [*page.scripts(), *page.scripts("torch")]:
        page.run(body, tmp_path)
    if not page.commands():
        return
    for file, body in page.files().items():
        (tmp_path / file).write_text(body)
    if name == "celery":  # what its broker writes is what the worker reads
        (tmp_path / "data_in").mkdir()
        (tmp_path / "data_out").symlink_to("data_in")
    with temporary_directory() as run_directory:
        place = Place(tmp_path, "plain", VARIABLES, Path(run_directory))
        *first, last = page.commands()
        for words in first:
            place.run(*words)
        if name not in SERVERS:
            place.run(*last)
            assert not promised(page, place), place.says()
            return
        added, use = SERVERS[name]
        with place.start(*last, *(word.format(place.port) for word in added)) as server:
            use(server)
            until(lambda: not promised(page, place), DEADLINE, place.says)
            server.stop()


@pytest.mark.parametrize(("name", "number", "method"), CHANGES)
def test_a_changed_program_writes_the_same(name: str, number: int, method: str, tmp_path: Path) -> None:
    page = page_of(name)
    need_all(page)
    written = []
    for side, body in zip(("before", "after"), page.changes()[number], strict=True):
        directory = tmp_path / side
        directory.mkdir()
        texts = {"output": re.sub(r"(?m)^\[\d\] ", "", run_script(body, directory / "block.py", method))}
        texts |= {path.name: path.read_text() for path in directory.glob("*.log")}
        written.append({file: sorted(text.splitlines()) for file, text in texts.items()})
    assert written[0] == written[1]
    promised = {line.removeprefix("[0] ") for text in page.blocks("text") for line in text.splitlines()}
    assert promised & {line for text in written[1].values() for line in text}


@pytest.mark.parametrize("name", NAMES)
def test_a_page_has_the_form_of_all(name: str) -> None:
    text = (FOLDER / f"{name}.md").read_text()
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == HEADINGS
    assert f"]({name}.md)" in (FOLDER / "index.md").read_text()
    assert f"frameworks/{name}.md" in (ROOT / "mkdocs.yml").read_text()
