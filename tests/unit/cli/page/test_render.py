"""The HTML of the page: one file that loads nothing, in which no data becomes an element or code."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import re
import sys

import hypothesis
import hypothesis.strategies as st
import pytest

from meshlog_handler.cli.page.render import embedded, render


class Scripts(html.parser.HTMLParser):
    """Collects the elements of a page, and the texts of its scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self._inside = tag in ("script", "style")
        if self._inside:
            self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.texts[-1] += data


def parsed(page: str) -> Scripts:
    parser = Scripts()
    parser.feed(page)
    parser.close()
    return parser


ATTACKS = ["</script><script>alert(1)</script>", "<!--", "<!--<script>", "]]>", "@SCRIPT@", "@DATA@", "&lt;", "\u2028", "'\"`"]


@hypothesis.given(st.recursive(st.sampled_from(ATTACKS) | st.text(), lambda inner: st.lists(inner, max_size=3), max_leaves=5))
def test_data_stays_data(data: object) -> None:
    text = embedded(data)
    assert re.search("[<>&\u2028\u2029\n]", text) is None
    assert json.loads(text) == data


def test_numbers_that_json_does_not_have() -> None:
    strict = json.loads(embedded({"a": [1.5, float("inf"), -float("inf"), float("nan")]}), parse_constant=pytest.fail)
    assert strict == {"a": [1.5, sys.float_info.max, -sys.float_info.max, 0.0]}


def test_the_page_has_the_same_elements_whatever_its_data_is() -> None:
    plain, hostile = parsed(render({"title": ""})), parsed(render({"title": "".join(ATTACKS)}))
    assert hostile.tags == plain.tags
    assert json.loads(hostile.texts[1]) == {"title": "".join(ATTACKS)}


def test_the_policy_allows_these_two_sources_and_nothing_else() -> None:
    page = parsed(render({"title": "<b>"}))
    style, _, script = page.texts
    policy = dict(page.attributes)["content"]
    policies = [value for name, value in page.attributes if name == "content" and value and "default-src" in value]
    assert len(policies) == 1, policy
    for source, directive in ((script, "script-src"), (style, "style-src")):
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policies[0]
    assert "default-src 'none'" in policies[0]
    assert "connect-src 'none'" in policies[0]
    assert "connect-src 'self'" in render(None)


def test_nothing_is_loaded_and_nothing_is_parsed_as_html() -> None:
    page = render({})
    assert [value for name, value in parsed(page).attributes if name in ("src", "href", "style", "onclick", "onload")] == []
    assert re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|https?:", page) is None
