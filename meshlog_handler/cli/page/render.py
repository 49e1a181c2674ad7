"""Makes one HTML file of the page and its data: nothing in it is loaded from elsewhere, and no data in it runs. Pure."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import sys
from collections.abc import Mapping
from functools import cache, partial
from importlib.resources import files
from typing import Any, Final

_ESCAPED: Final = {ord(each): f"\\u{ord(each):04x}" for each in "<>&\u2028\u2029"}
_FILES: Final = ("page.html", "page.css", "page.js")


def render(data: Mapping[str, Any] | None) -> str:
    """Return the page with its data. None: without; the page then asks the server from which it came."""
    html, style, script = _sources()
    asked = "none" if data is not None else "self"
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        f"connect-src '{asked}'; base-uri 'none'; form-action 'none'"
    )
    parts = {"POLICY": policy, "STYLE": style, "SCRIPT": script, "DATA": embedded(data)}
    for name, text in parts.items():
        head, found, tail = html.partition(f"@{name}@")
        assert found
        html = f"{head}{text}{tail}"
    return html


def embedded(data: Any) -> str:
    """Return data as JSON that ends no element and begins no comment. The largest numbers stand for infinite ones."""
    dumps = partial(json.dumps, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    try:
        text = dumps(data)
    except ValueError:
        text = dumps(_finite(data))
    return text.translate(_ESCAPED)


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {name: _finite(value) for name, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    if isinstance(data, float) and not math.isfinite(data):
        return 0.0 if math.isnan(data) else math.copysign(sys.float_info.max, data)
    return data


@cache
def _sources() -> tuple[str, str, str]:
    html, style, script = (files(__package__).joinpath(name).read_text("utf-8") for name in _FILES)
    return html, style, script


def _hash(source: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}"
