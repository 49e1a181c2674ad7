"""MeshRecord: a record that crossed from another process. And what can be said of templates and their arguments. Pure."""

from __future__ import annotations

import logging
import re
from typing import Final

_CONVERSION: Final = re.compile(r"%(\(.*?\))?[-#0 +]*(\d+|\*)?(\.(\d+|\*))?[hlL]?.", re.DOTALL)


class MeshRecord(logging.LogRecord):
    """A record that crossed from another process. Its message can always be had."""

    def getMessage(self) -> str:
        """Return the message; where template and arguments do not fit, both and the reason."""
        try:
            text = str(self.msg)
            return str(text % self.args) if self.args else text
        except Exception as failure:
            return f"{self.msg} {_spell(self.args)} [cannot be formatted: {type(failure).__name__}: {failure}]"


class Rendered(str):
    """A message template that gives, whatever it is given, the text that its process gave it.

    Arguments that were rendered there may not fit the template any more. Whoever copies a record and formats it anew, as many
    formatters do, gets the text all the same. Equal to the template, and can be pickled.
    """

    def __new__(cls, template: str, text: str) -> Rendered:
        """Return the template, with its text."""
        made = super().__new__(cls, template)
        made.text = text
        return made

    text: str

    @property
    def template(self) -> str:
        """The template alone."""
        return str.__str__(self)

    def __str__(self) -> str:
        return self

    def __mod__(self, args: object) -> str:
        return self.text

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]  # str's own are fewer
        return self.template, self.text


def gives(template: object, args: object, text: str) -> bool:
    """Tell whether any record with this template and these arguments has this text."""
    try:
        return (str(template) % args if args else str(template)) == text
    except Exception:
        return False


def has_words(template: str) -> bool:
    """Tell whether a template says something by itself. One like ``%s: %s`` does not."""
    return any(map(str.isalpha, _CONVERSION.sub("", template)))


def _spell(args: object) -> str:
    try:
        return repr(args)
    except ValueError:  # Python writes no whole number of more than 4300 digits
        return "<arguments too long to write>"
