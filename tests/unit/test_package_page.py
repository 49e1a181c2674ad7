"""The page of the package on PyPI: it has no other files there, so a relative link would be broken."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def page() -> str:
    """Return the description that the package is uploaded with."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    return (ROOT / settings["metadata"]["long_description"].removeprefix("file:").strip()).read_text()


def test_the_page_has_no_relative_links() -> None:
    assert [
        link for link in re.findall(r"\]\(([^)]*)\)|href=|^\[.*\]: ", page()) if not link.startswith(("https://", "#"))
    ] == []


def test_what_the_page_shows_is_in_the_readme_too() -> None:
    """Other tests run the code of the README, and compare what it prints."""
    readme = (ROOT / "README.md").read_text()
    blocks = re.findall(r"^```(?:python|text)\n.*?^```$", page(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    assert [block for block in blocks if block not in readme] == []
    used = re.findall(r"^\| [^|]+ \| ([^|]+) \|", page(), re.MULTILINE)
    assert [use for use in used[2:] if use not in readme] == [
        "`attach()` of `meshlog_handler.integrations.ray`, `.dask` or `.monarch`"
    ]


def test_the_page_is_in_the_source_distribution() -> None:
    assert "PYPI.md" in (ROOT / "MANIFEST.in").read_text()
