"""Entry point of ``python -m meshlog_handler``, the same as ``meshlog``."""

from __future__ import annotations

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
