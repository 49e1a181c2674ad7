"""The faults by name, and how each is tried."""

from __future__ import annotations

import random
import shutil
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .counting import Counts
from .scene import Scene, alarming, heard

_MAX_PROBLEMS: Final = 6


@dataclass(frozen=True)
class Fault:
    """One way in which things go wrong.

    Attributes
    ----------
    name : str
        For the table.
    strike : Callable[[Scene], object]
        Starts workers and causes the fault.
    short : bool
        Whether the short form, which tries all faults in a minute or two, includes it.
    """

    name: str
    strike: Callable[[Scene], object]
    short: bool

    def attempt(self, seed: object) -> Counts:
        """Try the fault once. The same seed makes the same choices, but timing on the machine still varies."""
        rng = random.Random(f"{self.name} {seed}")
        directory = Path(tempfile.mkdtemp(prefix="meshlog-fault-"))
        said = directory / "stderr"
        scene = Scene(rng, directory)
        try:
            with heard(said):
                try:
                    self.strike(scene)
                    counts = scene.finish()
                except Exception:
                    scene.problems.append(traceback.format_exc())
                    counts = scene.given_up()
                finally:
                    scene.close()
            text = said.read_text(errors="replace")
            printed = "\n".join(line for line in scene.counting.others if line.startswith("stderr: "))
            counts.problems += alarming(text, scene.allowed) + alarming(printed, scene.allowed)
            problems = list(dict.fromkeys(counts.problems))
            if len(problems) > _MAX_PROBLEMS:
                problems[_MAX_PROBLEMS:] = [f"and {len(problems) - _MAX_PROBLEMS} more"]
            counts.problems = [f"{self.name} (seed {seed}): {problem}" for problem in problems]
            return counts
        finally:
            shutil.rmtree(directory, ignore_errors=True)


FAULTS: dict[str, Fault] = {}


def fault(name: str, *, short: bool = True) -> Callable[[Callable[[Scene], object]], Callable[[Scene], object]]:
    """Register a fault under a name."""

    def register(strike: Callable[[Scene], object]) -> Callable[[Scene], object]:
        assert name not in FAULTS
        FAULTS[name] = Fault(name, strike, short)
        return strike

    return register
