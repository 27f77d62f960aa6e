"""What every page of a report must be."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from xml.etree import ElementTree


class Tags(HTMLParser):
    """All tags and what they refer to."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.open: list[str] = []
        self.references: list[str] = []
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}
        found = [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        self.references += [value or "" for value in found]
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def check(html: str, script: str = "") -> None:
    """Well-formed, without scripts but one that is given, and nothing comes from elsewhere."""
    tags = Tags()
    tags.feed(html)
    tags.close()
    assert not tags.open
    assert re.findall(r"<script>(.*?)</script>", html, re.DOTALL) == ([script] if script else [])
    assert html.lower().count("<script") == bool(script)
    for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
        ElementTree.fromstring(svg)
    assert not tags.names & {"img", "link", "iframe", "object", "embed", "base", "image"}
    assert not {name for name in tags.attributes if name.startswith("on")}
    assert all(reference.startswith("#") for reference in tags.references)
    assert all(found == "#" for found in re.findall(r"url\(['\"]?(.)", html))
    assert "@import" not in html
    policy = "default-src &#x27;none&#x27;; style-src &#x27;unsafe-inline&#x27;"
    if script:
        digest = b64encode(sha256(script.encode()).digest()).decode()
        policy += f"; script-src &#x27;sha256-{digest}&#x27;"
    assert f'content="{policy}"' in html
