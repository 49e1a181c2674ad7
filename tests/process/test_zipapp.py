"""Programs that are one file: a zipapp has the package and all that it needs inside, a frozen program has no interpreter."""

from __future__ import annotations

import compileall
import importlib.util
import os
import shutil
import subprocess
import sys
import zipapp
from pathlib import Path

import pytest

from meshlog_handler import SettingError
from meshlog_handler.mesh.start_methods import check_start_method
from tests.process.procs import DEADLINE

PROGRAM = """
import logging
import sys

from meshlog_handler import LogClient, current_rank, install, this_host
from meshlog_handler.cli import main as command_line

log = logging.getLogger("app")


def step(number):
    log.warning("step %d on %d", number, current_rank())
    return current_rank()


def main():
    if sys.argv[1:2] == ["run"]:
        return command_line()
    method = None if sys.argv[1] == "default" else sys.argv[1]
    with this_host().spawn_procs(per_host={"gpus": 2}, start_method=method) as procs:
        print(procs.call(step, 3).get(timeout=60))


if __name__ == "__main__":
    sys.exit(main())
"""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a zipapp."""
    directory = tmp_path_factory.mktemp("zipapp") / "app"
    directory.mkdir()
    (directory / "__main__.py").write_text(PROGRAM)
    for name in ("meshlog_handler", "multiprocess", "_multiprocess", "dill", "typing_extensions"):
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:
            continue
        if found.submodule_search_locations:
            left_out = shutil.ignore_patterns("tests", "__pycache__")
            shutil.copytree(os.path.dirname(found.origin), directory / name, ignore=left_out)
        else:
            shutil.copy(found.origin, directory)
    compileall.compile_dir(directory, quiet=1, legacy=True)  # an import from a zip does not keep what it compiles
    zipapp.create_archive(directory, directory.with_suffix(".pyz"))
    return directory.with_suffix(".pyz")


def run(app: Path, *words: str) -> str:
    """Run the zipapp with an interpreter that finds nothing else; return what it prints to stdout and stderr."""
    command = [sys.executable, "-I", "-S", str(app), *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=app.parent, timeout=DEADLINE)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("method", ["default", "fork", "spawn"])
def test_a_mesh_starts_in_a_zipapp(method: str, app: Path) -> None:
    assert sorted(run(app, method).splitlines()) == ["[0, 1]", "[0] step 3 on 0", "[1] step 3 on 1"]


def test_the_command_line_works_in_a_zipapp(app: Path) -> None:
    assert sorted(run(app, "run", "-n", "2", "--", "echo", "here").splitlines()) == ["[0] here", "[1] here"]


def test_a_frozen_program_can_only_be_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert check_start_method(None) == "fork"
    assert check_start_method("fork") == "fork"
    for method in ("spawn", "forkserver"):
        with pytest.raises(SettingError, match=f"start_method='{method}' .*sys.frozen.*Use start_method='fork'"):
            check_start_method(method)


@pytest.mark.parametrize("before", [None, "/before"])
def test_commands_of_a_frozen_command_line_do_not_load_libraries_of_the_bundle(before: str | None) -> None:
    words = ["run", "-n", "1", "--", "sh", "-c", 'echo "path: ${LD_LIBRARY_PATH-none} ${LD_LIBRARY_PATH_ORIG-none}"']
    code = f"import sys; sys._MEIPASS = '/bundle'\nfrom meshlog_handler.cli import main\nsys.exit(main({words!r}))"
    bundled = {"LD_LIBRARY_PATH": "/bundle", **({} if before is None else {"LD_LIBRARY_PATH_ORIG": before})}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **bundled}, timeout=DEADLINE
    )
    assert done.stdout == f"[0] path: {before or 'none'} none\n"
