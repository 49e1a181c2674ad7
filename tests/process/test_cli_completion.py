"""``meshlog completion``: bash completes what the script says; zsh and fish accept theirs, where they are installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from meshlog_handler.cli.parser import COMMANDS
from tests.process.command_line import meshlog
from tests.process.procs import DEADLINE

OPTIONS_OF_RUN = {"--stdin", "--summary", "--aggregate", "--level", "--log-dir", "--ranks-filter", "--prefix", "--json", "-n"}


def script(shell: str, directory: Path) -> Path:
    """Write the script for a shell, and return its path."""
    path = directory / f"meshlog.{shell}"
    path.write_text(meshlog(directory, "completion", shell).out)
    return path


def completed(path: Path, *words: str, before: str = "") -> list[str]:
    """Return what bash offers in place of the last of these words, as it calls a completion function."""
    if not shutil.which("bash"):
        pytest.skip("bash is missing")
    code = f'{before}\nsource "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _meshlog; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(
        ["bash", "--norc", "-c", code, str(path), *words], capture_output=True, text=True, cwd=path.parent, timeout=DEADLINE
    )
    assert done.stderr == ""
    return done.stdout.split("\n")[:-1]


def test_bash_completes_commands_options_and_values(tmp_path: Path) -> None:
    path = script("bash", tmp_path)
    (tmp_path / "my logs").mkdir()
    (tmp_path / "my file").touch()
    assert completed(path, "meshlog", "") == [*COMMANDS, "-h", "--help", "--version"]
    assert completed(path, "meshlog", "ru") == ["run"]
    assert set(completed(path, "meshlog", "run", "-")) >= OPTIONS_OF_RUN
    assert completed(path, "meshlog", "run", "-n", "2", "--ag") == ["--aggregate"]
    assert completed(path, "meshlog", "exec", "--st") == [""]
    assert completed(path, "meshlog", "run", "--log-dir", "my") == ["my logs"]
    # bash makes three words of --log-dir=my.
    assert completed(path, "meshlog", "run", "--log-dir", "=", "my") == ["my logs"]
    assert completed(path, "meshlog", "run", "--log-dir", "=") == ["my logs"]
    assert completed(path, "meshlog", "run", "--level", "") == [""]
    assert completed(path, "meshlog", "tail", "my") == ["my logs"]
    assert completed(path, "meshlog", "tail", "-n", "3", "--js") == ["--json"]
    assert completed(path, "meshlog", "completion", "") == ["bash", "zsh", "fish"]
    assert completed(path, "meshlog", "frobnicate", "") == [""]


@pytest.mark.parametrize("words", [["--"], ["-n", "2"], ["--log-dir", "=", "logs", "--json", "--"], []], ids=" ".join)
def test_bash_completes_the_program_and_its_files(words: list[str], tmp_path: Path) -> None:
    path = script("bash", tmp_path)
    (tmp_path / "train.py").touch()
    assert "printf" in completed(path, "meshlog", "run", *words, "print")
    assert completed(path, "meshlog", "run", *words, "python", "--log-dir", "tr") == ["train.py"]
    # A function of the bash-completion package completes the arguments of any program.
    package = '_command_offset() { COMPREPLY=("from $1 on"); }'
    at = 2 + len(words)
    assert completed(path, "meshlog", "run", *words, "python", "--x", before=package) == [f"from {at} on"]


def test_bash_registers_the_function(tmp_path: Path) -> None:
    if not shutil.which("bash"):
        pytest.skip("bash is missing")
    path = script("bash", tmp_path)
    code = f'set -eu; eval "$(cat {path})"; complete -p meshlog'
    done = subprocess.run(["bash", "--norc", "-c", code], capture_output=True, text=True, timeout=DEADLINE)
    assert (done.stdout, done.stderr) == ("complete -F _meshlog meshlog\n", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_accepts_the_syntax(shell: str, tmp_path: Path) -> None:
    path = script(shell, tmp_path)
    text = path.read_text()
    assert all(option.lstrip("-") in text for option in OPTIONS_OF_RUN)
    if not shutil.which(shell):
        pytest.skip(f"{shell} is missing")
    done = subprocess.run([shell, "-n", str(path)], capture_output=True, text=True, timeout=DEADLINE)
    assert (done.returncode, done.stderr) == (0, "")
