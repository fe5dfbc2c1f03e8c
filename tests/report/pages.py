"""Results with names that want to be markup, and what can be read from a page without a browser."""

from __future__ import annotations

import base64
import gzip
import json
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

from refiner_cka.results.contents import Unreadable
from tests.synthetic import synthetic_result, with_smoothing

IMAGE = "<img src=x onerror=alert(1)>"
SCRIPT = "</script><script>alert(2)</script>"
TEMPLATE = "{{7*7}}{% raw %}${8*8}"
QUOTES = "\"'><b onclick='alert(3)'>bold</b>&lt;i&gt;"
LINK = '<a href="https://example.org/">%{x} $x^2$</a>'
HOSTILE = [IMAGE, SCRIPT, TEMPLATE, QUOTES, LINK]


def made(names, paths=("blocks.0", "blocks.1", "blocks.2"), said="plain", **more):
    """A small result with everything that a page shows, of models and layers with these names."""
    models = dict.fromkeys(names, paths)
    result = with_smoothing(
        synthetic_result(
            models,
            batches=4,
            batch_size=16,
            references=["labels", "pixels"],
            unresolved=[names[-1]],
            unreadable=[Unreadable(f"{said}.png", said)],
            warnings=[said],
            provenance={
                "batch_size": 16,
                "seed": 0,
                "data": said,
                "command": said,
                said: {said: [said]},
                "groups": {},
                **more,
            },
        ),
        refined=names[:1],
    )
    # A measure of somebody else's.
    label = [
        replace(each, label=said, about=said, source=said) if each.name == "token_norm" else each
        for each in result.quantities
    ]
    return replace(result, quantities=tuple(label))


class Page(HTMLParser):
    """What a parser finds in a page.

    Attributes:
        tags: how often each element is there.
        attributes: the names of all attributes.
        texts: all text outside of scripts and styles, element by element.
        options: what can be chosen.
        packed: the content of each script by its `id`.
        scripts: the scripts that run.
    """

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes = Counter(), set()
        self.options = []
        self.texts, self.packed, self.scripts, self.policy = [], {}, [], ""
        self._inside = ("", {})
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes |= {name for name, _ in attrs}
        self._inside = (tag, dict(attrs))
        if self._inside[1].get("http-equiv") == "Content-Security-Policy":
            self.policy = self._inside[1]["content"]

    def handle_endtag(self, tag):
        self._inside = ("", {})

    def handle_data(self, data):
        tag, attributes = self._inside
        if tag == "script" and "id" in attributes:
            self.packed[attributes["id"]] = data
        elif tag == "script":
            self.scripts.append(data)
        elif tag == "option":
            self.options.append(data)
        elif tag != "style" and data.strip():
            self.texts.append(data.strip())

    def unpacked(self, name):
        return gzip.decompress(base64.b64decode(self.packed[name])).decode()

    @property
    def specs(self):
        """The page's figures, in their order."""
        return json.loads(self.unpacked("numbers"))
