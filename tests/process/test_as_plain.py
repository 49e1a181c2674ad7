"""A program that logs in an unusual way shows the same with a MeshHandler as with the handlers of the standard library."""

from __future__ import annotations

from pathlib import Path

from .procs import run_python


def shown(how: str, folder: Path) -> dict[str, str]:
    """Return the files that the programs write, by name."""
    folder.mkdir()
    run_python("-m", "tests.process.plainly", how, str(folder))
    return {path.name: path.read_text() for path in sorted(folder.iterdir())}


def test_a_mesh_handler_shows_what_plain_handlers_show(tmp_path: Path) -> None:
    plain = shown("plain", tmp_path / "plain")
    for how in ("here", "forked"):
        ours = shown(how, tmp_path / how)
        assert ours.keys() == plain.keys()
        for name, text in plain.items():
            assert ours[name] == text, (how, name)
