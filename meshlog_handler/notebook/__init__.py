"""Notebook support: a notebook shows the lines of its workers under the right cell.

May import: errors, settings, system, protocol, output, client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..system.lazy_imports import exporter

if TYPE_CHECKING:
    from .cells import attach_if_notebook as attach_if_notebook
    from .cells import current_cell as current_cell
    from .cells import detach as detach
    from .cells import show_under as show_under

__all__ = ["attach_if_notebook", "current_cell", "detach", "show_under"]

# `install` looks for a notebook's kernel in every process, and needs no cells.
__getattr__ = exporter(__name__, dict.fromkeys(__all__, "notebook.cells"))
