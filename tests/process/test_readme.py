"""The code in the README and in the pages of docs runs, and shows the lines that follow it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .documents import Page
from .procs import ROOT

pytestmark = pytest.mark.docs

README = Page("README.md")
NAMES = ("README.md", "docs/insight.md", "docs/operations.md", "docs/recipes.md", "docs/stacks.md", "docs/tutorial.md")
PAGES = {path: Page(path) for path in NAMES}
BLOCKS = [(path, number) for path, page in PAGES.items() for number in range(len(page.scripts()))]

# Other tests run the code of these: test_recipes, test_neighbours, test_notebook, test_pages, and the tests of the engines.
RUN_ELSEWHERE = {f"docs/{name}.md" for name in ("dask", "integrations", "monarch", "neighbours", "notebooks", "ray")}


@pytest.mark.parametrize(("path", "number"), BLOCKS)
def test_a_python_block_runs_and_shows_the_lines_that_follow_it(path: str, number: int, tmp_path: Path) -> None:
    page = PAGES[path]
    page.run(page.scripts()[number], tmp_path)


def test_the_code_of_every_page_is_run_by_a_test() -> None:
    pages = [Path(ROOT, "README.md"), *Path(ROOT, "docs").glob("*.md")]
    assert {str(page.relative_to(ROOT)) for page in pages if "```python" in page.read_text()} == {*PAGES, *RUN_ELSEWHERE}


@pytest.mark.parametrize(
    "path", sorted(Path(ROOT).glob("*.md")) + sorted(Path(ROOT, "docs").rglob("*.md")), ids=lambda path: path.name
)
def test_the_target_of_every_link_exists(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", path.read_text())
    targets = [(path.parent / file if file else path, anchor) for file, anchor in links]
    assert [
        str(target) for target, anchor in targets if not target.exists() or (anchor and anchor not in anchors(target))
    ] == []


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes for the headings of a page."""
    headings = re.findall(
        r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_first_two_shell_blocks_are_one_command_each() -> None:
    for block in README.blocks("sh")[:2]:
        lines = [line for line in block.splitlines() if line and not line.startswith("#")]
        assert len(lines) == 1


def test_each_guarantee_has_a_test_and_each_test_names_an_existing_guarantee() -> None:
    """Tests name the guarantees in comments. The README names no tests."""
    section = Path(ROOT, "README.md").read_text().partition("## What is guaranteed")[2].partition("\n## ")[0]
    given = set(re.findall(r"^- \*\*(.+?)\.\*\*", section, re.MULTILINE))
    tests = "\n".join(path.read_text() for path in Path(ROOT, "tests").rglob("*.py"))
    named = re.findall(r"^# README, \"What is guaranteed\": ([^.]+)\.", tests, re.MULTILINE)
    assert given
    assert {each for names in named for each in names.split(", ")} == given
