"""Puts the pages that are beside `docs/` into the site, and lets links lead to them. Used by mkdocs (see mkdocs.yml)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
BESIDE = {f"{name}.md": f"{name.lower()}.md" for name in ("README", "CHANGELOG", "SECURITY", "CONTRIBUTING")}


def on_files(files: Files, config: Any) -> Files:
    """Add the pages, and the examples as they stand there."""
    for name, page in BESIDE.items():
        text = re.sub(r"\]\(docs/", "](", (ROOT / name).read_text())
        files.append(File.generated(config, page, content=_linked(text)))
    for example in sorted((ROOT / "examples").glob("*.py")):
        files.append(File.generated(config, f"examples/{example.name}", content=example.read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links to what is beside `docs/` lead to its page."""
    return _linked(markdown)


def _linked(text: str) -> str:
    for name, page in BESIDE.items():
        text = re.sub(rf"\]\((\.\./)?{re.escape(name)}", f"]({page}", text)
    return text.replace("](../examples/", "](examples/")
