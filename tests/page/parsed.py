"""A page as its text and its tags."""

import re
from html.parser import HTMLParser

ATTACK = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'><b>"
VOID = {"meta", "img", "input", "link", "br", "hr", "rect", "line", "circle", "polyline", "path"}


class Page(HTMLParser):
    """Text by the id it stands under, every tag with its attributes; complains about tags that do not match."""

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags, self.open, self.texts, self.ids = [], [], {}, []
        self.feed(self.source)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag not in VOID:
            self.open.append((tag, attributes.get("id")))

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open and self.open[-1][0] in ("style", "script"):
            return
        for name in {identifier for _, identifier in self.open if identifier} | {""}:
            self.texts[name] = self.texts.get(name, "") + data

    def text(self, identifier=""):
        return " ".join(self.texts[identifier].split())

    def all(self, tag, **wanted):
        return [a for t, a in self.tags if t == tag and all(a.get(k) == v for k, v in wanted.items())]


def assert_self_contained(page):
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "poster", "action", "data", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "data:image/")), attributes
        assert not [name for name in attributes if name.startswith("on")]
    assert not re.search(r"url\(|@import|https?://", page.source)
    (policy,) = (a["content"] for a in page.all("meta", **{"http-equiv": "Content-Security-Policy"}))
    assert policy.startswith("default-src 'none'; img-src data:;")
