"""Scripts for the completion of shells, made from the arguments of each command."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple


class CommandArguments(NamedTuple):
    """One command of the command line, its description in one sentence, and its arguments."""

    name: str
    about: str
    arguments: Sequence[argparse.Action]

    @property
    def options(self) -> list[argparse.Action]:
        """The arguments that start with a dash."""
        return [each for each in self.arguments if each.option_strings]

    @property
    def positional(self) -> argparse.Action | None:
        """The argument without a dash. One with `argparse.REMAINDER` is another program with its arguments."""
        return next((each for each in self.arguments if not each.option_strings), None)


def completion_script(shell: str, options: Sequence[argparse.Action], commands: Sequence[CommandArguments]) -> str:
    """Return the script for ``bash``, ``zsh`` or ``fish``. `options` are those before the command."""
    return SHELLS[shell](options, commands)


def _bash(options: Sequence[argparse.Action], commands: Sequence[CommandArguments]) -> str:
    cases = []
    for command in commands:
        valued = [each for each in command.options if each.nargs != 0]
        directories = [each for each in valued if _is_directory(each)]
        positional = command.positional
        kind = "directory" if _is_directory(positional) else "program" if _is_program(positional) else "word"
        words = [str(each) for each in positional.choices or ()] if positional is not None else []
        cases.append(
            f"        {command.name})\n"
            f"            options={_bash_words(_names(command.options))} valued=' {' '.join(_names(valued))} '\n"
            f"            directories=' {' '.join(_names(directories))} ' kind={kind} words={_bash_words(words)} ;;\n"
        )
    return _BASH.replace("@FIRST@", _bash_words([*(each.name for each in commands), *_names(options)])).replace(
        "@CASES@", "".join(cases)
    )


def _zsh(options: Sequence[argparse.Action], commands: Sequence[CommandArguments]) -> str:
    described = "\n".join(f"            {_quoted(_colons(each.name) + ':' + _colons(each.about))}" for each in commands)
    cases = []
    for command in commands:
        specs = [*_zsh_options(command.options)]
        positional = command.positional
        if _is_program(positional):
            specs.insert(0, "-S")  # words after -- are no options
            specs += ["'(-)1:command: _command_names -e'", "'*:: :_normal'"]
        elif _is_directory(positional):
            specs.append("'1:directory:_files -/'")
        elif positional is not None:
            specs.append(_quoted(f"1:{positional.metavar}:({' '.join(map(str, positional.choices or ()))})"))
        lines = " \\\n".join(f"                    {spec}" for spec in specs)
        cases.append(f"                {command.name}) _arguments \\\n{lines} ;;\n")
    first = " \\\n".join(f"        {spec}" for spec in _zsh_options(options))
    return _ZSH.replace("@OPTIONS@", first).replace("@COMMANDS@", described).replace("@CASES@", "".join(cases))


def _zsh_options(options: Iterable[argparse.Action]) -> Iterable[str]:
    for option in options:
        # An option that appends may be given again; any other excludes all its names.
        before = "*" if isinstance(option.default, list) else f"({' '.join(option.option_strings)})"
        for name in option.option_strings:
            values = "_files -/" if _is_directory(option) else ""
            value = f":{option.metavar or option.dest.upper()}:{values}" if option.nargs != 0 else ""
            joined = "=" if value and name.startswith("--") else ""
            text = _colons(_help(option)).replace("[", "\\[").replace("]", "\\]")
            yield _quoted(f"{before}{name}{joined}[{text}]{value}")


def _fish(options: Sequence[argparse.Action], commands: Sequence[CommandArguments]) -> str:
    lines = ["complete -c meshlog -f", *(_fish_option("__fish_use_subcommand", each) for each in options)]
    for command in commands:
        lines.append(f"complete -c meshlog -n __fish_use_subcommand -a {command.name} -d {_fish_quoted(command.about)}")
        inside = _fish_quoted(f"__fish_seen_subcommand_from {command.name}")
        lines += [_fish_option(inside, each) for each in command.options]
        positional = command.positional
        values = " ".join(map(str, positional.choices or ())) if positional is not None else ""
        if _is_program(positional):
            valued = [name for each in command.options if each.nargs != 0 for name in each.option_strings]
            # The single dash ends the function's own options. It would take a double dash for an option with a value.
            values = f"(__fish_complete_subcommand --fcs-skip=2 - {' '.join(valued)})"
        elif _is_directory(positional):
            values = "(__fish_complete_directories)"
        lines.append(f"complete -c meshlog -n {inside} -a {_fish_quoted(values)}")
    return "\n".join(lines) + "\n"


def _fish_option(condition: str, option: argparse.Action) -> str:
    names = [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.option_strings]
    value = f" -x -a {_fish_quoted('(__fish_complete_directories)')}" if _is_directory(option) else " -x"
    if option.nargs == 0:
        value = ""
    return f"complete -c meshlog -n {condition} {' '.join(names)}{value} -d {_fish_quoted(_help(option))}"


def _names(options: Iterable[argparse.Action]) -> list[str]:
    return [name for each in options for name in each.option_strings]


def _is_directory(argument: argparse.Action | None) -> bool:
    return argument is not None and argument.metavar == "DIR"


def _is_program(argument: argparse.Action | None) -> bool:
    return argument is not None and argument.nargs == argparse.REMAINDER


def _help(option: argparse.Action) -> str:
    return (option.help or "").replace("%%", "%")


def _bash_words(words: Iterable[str]) -> str:
    """Return words for ``compgen -W`` where `IFS` is a line feed."""
    return "$'" + "\\n".join(words) + "'"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _colons(text: str) -> str:
    return text.replace(":", "\\:")


# COMP_WORDS has --log-dir=logs as three words. Arrays are filled without mapfile, which the bash of macOS does not have.
_BASH: Final = r"""# bash completion for meshlog: eval "$(meshlog completion bash)"
_meshlog() {
    local IFS=$'\n' cur=${COMP_WORDS[COMP_CWORD]} at=2 option= options= valued= directories= kind= words=
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W @FIRST@ -- "$cur"))
        return
    fi
    case ${COMP_WORDS[1]} in
@CASES@        *) return ;;
    esac
    # Find the first word that is no option and no value of an option.
    while [ "$at" -lt "$COMP_CWORD" ]; do
        option=
        case ${COMP_WORDS[at]} in
            --) at=$((at + 1)); break ;;
            -*)
                [[ $valued == *" ${COMP_WORDS[at]} "* ]] && option=${COMP_WORDS[at]}
                at=$((at + 1))
                [ -n "$option" ] || continue
                [ "${COMP_WORDS[at]}" = = ] && at=$((at + 1))
                [ "$at" -lt "$COMP_CWORD" ] || break
                option=
                at=$((at + 1)) ;;
            *) break ;;
        esac
    done
    if [ -n "$option" ]; then
        [ "$cur" = = ] && cur=
        if [[ $directories == *" $option "* ]]; then
            compopt -o filenames 2> /dev/null
            COMPREPLY=($(compgen -d -- "$cur"))
        fi
    elif [ "$at" -ge "$COMP_CWORD" ] && [[ $cur == -* ]] && [ "${COMP_WORDS[at - 1]}" != -- ]; then
        COMPREPLY=($(compgen -W "$options" -- "$cur"))
    elif [ "$kind" = word ]; then
        COMPREPLY=($(compgen -W "$words" -- "$cur"))
    elif [ "$kind" = directory ]; then
        compopt -o filenames 2> /dev/null
        COMPREPLY=($(compgen -d -- "$cur"))
    elif declare -F _comp_command_offset > /dev/null; then
        unset IFS
        _comp_command_offset "$at"
    elif declare -F _command_offset > /dev/null; then
        unset IFS
        _command_offset "$at"
    else
        compopt -o filenames 2> /dev/null
        if [ "$at" -ge "$COMP_CWORD" ]; then
            COMPREPLY=($(compgen -c -- "$cur"))
        else
            COMPREPLY=($(compgen -f -- "$cur"))
        fi
    fi
}
complete -F _meshlog meshlog
"""

_ZSH: Final = r"""#compdef meshlog
# zsh completion for meshlog: eval "$(meshlog completion zsh)", after compinit
_meshlog() {
    local curcontext=$curcontext state line
    local -a names
    typeset -A opt_args
    _arguments -C \
@OPTIONS@ \
        '1:command:->command' \
        '*:: :->rest'
    case $state in
        command)
            names=(
@COMMANDS@
            )
            _describe command names ;;
        rest)
            case $words[1] in
@CASES@            esac ;;
    esac
}
if [ "$funcstack[1]" = _meshlog ]; then
    _meshlog "$@"
else
    compdef _meshlog meshlog
fi
"""

SHELLS: Final[Mapping[str, Callable[[Sequence[argparse.Action], Sequence[CommandArguments]], str]]] = {
    "bash": _bash,
    "zsh": _zsh,
    "fish": _fish,
}
"""The shells for which there are scripts."""
