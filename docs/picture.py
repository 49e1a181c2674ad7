"""Makes docs/console.svg, the picture in the README: the real output of `meshlog run`, drawn by rich.

::

    .venv/bin/pip install --quiet -e ".[neighbours]" && .venv/bin/python docs/picture.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

WIDTH = 104

TRAIN = """
import logging, os, time

rank = int(os.environ["RANK"])
log = logging.getLogger("train")
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")

for step in range(4):
    log.info("step %d loss=%.3f", step, 1 / (step + 1 + rank / 10))
    time.sleep(0.7)
    if step == 1 and rank == 2:
        log.warning("gradient is not finite, the step is left out")
print("saved", f"/ckpt/model-{rank}.pt")
if rank == 3:
    raise RuntimeError("cannot write /ckpt: no space left on device")
"""


def main() -> None:
    """Run the program on four ranks, and draw what was shown."""
    environ = {**os.environ, "FORCE_COLOR": "1", "COLUMNS": str(WIDTH)}
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "train.py").write_text(TRAIN.lstrip())
        command = ["meshlog", "run", "-n", "4", "--aggregate", "0.5", "--", "python", "train.py"]
        shown = subprocess.run(
            [sys.executable, "-m", "meshlog_handler", *command[1:-2], sys.executable, "train.py"],
            cwd=directory,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            text=True,
        ).stdout
        shown = shown.replace(f"{directory}/", "")
    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, width=WIDTH, file=nowhere, force_terminal=True)
        console.print(Text.from_ansi(f"$ {' '.join(command)}\n{shown}".rstrip()))
    picture = console.export_svg(title="four ranks, one console", theme=MONOKAI, unique_id="console")
    Path(__file__).with_name("console.svg").write_text(picture)


if __name__ == "__main__":
    main()
