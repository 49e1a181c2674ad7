"""``meshlog completion``: help, arguments and start."""

from __future__ import annotations

import argparse
from typing import Final

from ..parser import COMMANDS, Parser, make_parser

_ABOUT: Final = """\
Print a script with which bash, zsh or fish completes the commands and options of meshlog."""

_MORE: Final = """\
examples:
  eval "$(meshlog completion bash)"        in ~/.bashrc
  eval "$(meshlog completion zsh)"         in ~/.zshrc, after compinit
  meshlog completion fish | source         in ~/.config/fish/config.fish"""


def add_arguments(parser: Parser) -> None:
    """Add the arguments."""
    parser.description, parser.epilog = _ABOUT, _MORE
    parser.set_defaults(action=_complete)
    parser.add_argument("shell", metavar="SHELL", choices=("bash", "zsh", "fish"), help="bash, zsh or fish")


def _complete(options: argparse.Namespace) -> int:
    from ..shell_completion import CommandArguments, completion_script

    parser, commands = make_parser(COMMANDS)
    described = [
        CommandArguments(name, (each.description or "").partition(".")[0], each.arguments) for name, each in commands.items()
    ]
    print(completion_script(options.shell, parser.arguments, described), end="")
    return 0
