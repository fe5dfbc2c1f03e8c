"""The site that `make docs` builds, and the references in it, held against the package and the command line."""

import html
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import pytest
import typer

import refiner_cka as rc
from cli.app import app

ROOT = Path(__file__).parents[1]
NEEDED = ("furo", "myst_nb", "sphinx")


class Page(HTMLParser):
    """What a page of the site offers and asks for."""

    def __init__(self, file):
        super().__init__()
        self.anchors, self.links, self.loaded = set(), set(), set()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        held = dict(attrs)
        self.anchors.add(held.get("id"))
        if tag == "a":
            self.links.add(held.get("href", ""))
        elif address := held.get("src") or (held.get("href") if tag == "link" else None):
            self.loaded.add(address)


def build(folder):
    site = folder / "site"
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", "docs"]
    done = subprocess.run(
        [*command, "-d", folder / "read", ".", site],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return site


def broken(pages):
    """Every link within the site that leads nowhere, as (page, link)."""
    for file, page in pages.items():
        for link in page.links | page.loaded:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            anchor = unquote(parts.fragment)
            if not target.is_file() or (
                anchor and target in pages and anchor not in pages[target].anchors
            ):
                yield file.name, link


def options(command):
    """The long names of all options of a command and of those below it."""
    found = {name for param in command.params for name in param.opts if name.startswith("--")}
    return found.union(*map(options, getattr(command, "commands", {}).values()))


@pytest.mark.whole
@pytest.mark.skipif(
    not all(map(find_spec, NEEDED)), reason="the packages of the extra `docs` are not installed"
)
def test_the_site_builds_without_a_warning_its_links_hold_and_nothing_public_is_missing(tmp_path):
    site = build(tmp_path).resolve()
    pages = {file: Page(file) for file in site.rglob("*.html")}
    assert not list(broken(pages))
    elsewhere = {each for page in pages.values() for each in page.loaded if urlsplit(each).netloc}
    assert not elsewhere
    pages_of = (ROOT.glob(f"docs/{place}*.md") for place in ("", "howto/"))
    sources = {*chain(*pages_of), *ROOT.glob("notebooks/*.ipynb"), ROOT / "README.md"}
    for source in sources:
        assert site / source.relative_to(ROOT).with_suffix(".html") in pages

    documented = set().union(*(page.anchors for page in pages.values()))
    for name in rc.__all__:
        thing = getattr(rc, name)
        assert isinstance(thing, ModuleType) or f"refiner_cka.{name}" in documented, name
    reference = site / "docs" / "reference"
    assert ":</p>" not in (reference / "python.html").read_text(encoding="utf-8")
    assert not any("\\ " in file.read_text(encoding="utf-8") for file in reference.glob("*.html"))

    command = typer.main.get_command(app)
    text = (reference / "commands.html").read_text(encoding="utf-8")
    words = " ".join(html.unescape(re.sub(r"<[^>]*>", "", text)).replace("\u2019", "'").split())
    for name, each in command.commands.items():
        assert f"refiner-cka-{name}" in documented
        about = each.help.split("\n\n")[0].strip().replace("\n", " ")
        assert words.count(about) == 2  # in the list, and at its place
    assert "torchrun --nproc-per-node" in words
    for option in options(command):
        assert option in text, option
