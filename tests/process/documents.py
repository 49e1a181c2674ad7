"""Find the code in our documentation, run it, and compare its output with the output on the page."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"(?:#|//) ([\w.]+\.\w+)\n")
"""The first line of a block that is a file."""

MAIN = 'if __name__ == "__main__":\n'
STARTS = {"multiprocessing", "multiprocess", "concurrent"}
"""Packages whose default start method a test sets."""

ENGINES = {"torch", "monarch", "ray", "dask", "distributed"}
"""Packages that only `tests.engines` have, each in a separate environment."""


class Page:
    """A page of the documentation.

    Parameters
    ----------
    path : str
        Path of the page from the root of the repository.
    """

    def __init__(self, path: str) -> None:
        self.text = (ROOT / path).read_text()

    def blocks(self, language: str) -> list[str]:
        """Return the fenced blocks in a language."""
        return [body for name, body in BLOCK.findall(self.text) if name == language]

    def scripts(self, engine: str | None = None) -> list[str]:
        """Return the Python blocks that import `engine`, or no engine if it is None; skip blocks that are named files."""
        scripts = [body for body in self.blocks("python") if not NAMED.match(body)]
        return [body for body in scripts if (engine in imported(body) if engine else not imported(body) & ENGINES)]

    def file(self, name: str) -> str:
        """Return the Python block whose first line is the comment ``# name``."""
        (body,) = [body for body in self.blocks("python") if body.startswith(f"# {name}\n")]
        return body

    def files(self) -> dict[str, str]:
        """Return all blocks that are files, by name."""
        bodies = [body for _, body in BLOCK.findall(self.text)]
        return {named[1]: body for body in bodies if (named := NAMED.match(body))}

    def commands(self) -> list[list[str]]:
        """Return the words of every command line on the page."""
        return [shlex.split(line) for body in self.blocks("sh") for line in body.splitlines()]

    def changes(self) -> list[tuple[str, str]]:
        """Return the programs in the blocks that show a change, before and after it."""
        return [(_side(body, "-"), _side(body, "+")) for body in self.blocks("diff") if MAIN in body.replace("\n ", "\n")]

    def command(self, program: str) -> list[str]:
        """Return the words of the only command line on the page that begins with `program`."""
        lines = [line for body in self.blocks("sh") for line in body.splitlines()]
        (line,) = [line for line in lines if line.startswith(f"{program} ")]
        return line.split()

    def promised(self, body: str) -> list[str]:
        """Return the output lines that the page gives for a block."""
        follows = r"```\n+(?:[^\n`]+\n+)?```text\n(.*?)```"
        found = re.search(re.escape(body) + follows, self.text, re.DOTALL)
        return found[1].splitlines() if found is not None else []

    def run(self, body: str, directory: Path, method: str | None = None) -> None:
        """Run a block as a script in `directory`; check that it succeeds and shows the output on the page.

        The script finds the commands of this Python first, as in an active environment.

        Parameters
        ----------
        method : str or None
            The default start method of multiprocessing; None leaves the default unchanged.
        """
        script = directory / "block.py"
        shown = {shape(line) for line in run_script(body, script, method).replace(str(script), script.name).splitlines()}
        for line in self.promised(body):
            assert shape(line) in shown, f"the page promises {line!r}; shown was:\n{sorted(shown)}"


def run_script(body: str, script: Path, method: str | None = None) -> str:
    """Run a block in the directory of `script`; check that it succeeds, and return its output. See `Page.run`."""
    lines = f"    for name in ('multiprocessing', 'multiprocess'):\n        __import__(name).set_start_method({method!r})\n"
    script.write_text(body.replace(MAIN, MAIN + lines) if method else body)
    return output(str(script), cwd=script.parent)


def output(*words: str, cwd: Path) -> str:
    """Run a script; return its output on both streams."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", *words],
        cwd=cwd,
        env=active(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def _side(change: str, sign: str) -> str:
    """Return the lines that a change leaves, or had: those that begin with a space or `sign`."""
    return "".join(line[1:] or "\n" for line in change.splitlines(keepends=True) if line[0] in f" {sign}\n")


def active() -> dict[str, str]:
    """Return the environment, with the commands of this Python first in PATH."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def imported(body: str) -> set[str]:
    """Return the names of the packages that a script imports."""
    found = set()
    for node in ast.walk(ast.parse(body)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def shape(text: str) -> str:
    """Replace the numbers that differ between runs: times, pids, order of ranks."""
    return re.sub(r"\d+(\.\d+)?", "0", text.rstrip())
