"""The site of the documentation, built once: without a warning and without a network, with no dead link."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

import browsers
import nbformat
import pytest

ROOT = Path(__file__).parents[1]
QUESTIONS = [
    "The first run",
    "Your own data",
    "Your own Avalanche script",
    "Which failure hits me",
    "Choosing a cure",
    "Deploying and updating",
    "Scaling out",
    "Reproducing a paper",
    "Adding something",
    "Looking something up",
]
"""What a newcomer asks, in this order."""

BUILD = """
import socket, sys
def refuse(*_, **__):
    raise AssertionError("the site asks the network")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
from sphinx.cmd.build import main
sys.exit(main(sys.argv[1:]))
"""


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """One of the scripts that build the site."""
    monkeypatch.syspath_prepend(ROOT / "docs")
    return importlib.import_module(name)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The folder that CI's command makes, or has made: a build takes a minute and a half."""
    if made := os.environ.get("AVALANCHE_VLM_SITE"):
        return Path(made)
    for needed in ("sphinx", "furo", "myst_nb"):
        pytest.importorskip(needed, reason="what the site is built with is not installed")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-c", BUILD, "-W", "--keep-going", "-q", "docs", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert not done.returncode and not done.stderr, done.stdout + done.stderr
    return out


class Page(HTMLParser):
    """What a page has of places, and what it asks for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.parts: list[str] = []
        self.captions: list[str] = []
        self.classes: set[str] = set()
        self._in_caption = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        self.ids.update(filter(None, [told.get("id")]))
        self.classes.update((told.get("class") or "").split())
        self._in_caption = self._in_caption or "caption-text" in (told.get("class") or "")
        if tag == "a" and told.get("href"):
            self.links.append(told["href"] or "")
        self.parts += [told[key] or "" for key in ("src", "data") if tag != "a" and told.get(key)]
        if tag == "link" and told.get("rel") in ("stylesheet", "icon", "search", "index", "next", "prev"):
            self.parts.append(told["href"] or "")

    def handle_data(self, data: str) -> None:
        if self._in_caption:
            self.captions.append(data)
            self._in_caption = False


@cache
def read(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def dead(page: Path, address: str) -> bool:
    """Whether an address on a page leads to a file or a place that is not there; of other sites nothing is known."""
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        return False
    aim = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if not aim.is_file():
        return True
    return bool(parts.fragment) and aim.suffix == ".html" and unquote(parts.fragment) not in read(aim).ids


def pages(site: Path) -> list[Path]:
    return sorted(path for path in site.rglob("*.html") if "_static" not in path.parts)


def inventory(content: bytes) -> dict[str, dict[str, str]]:
    """Names by kind, with where they are."""
    from sphinx.util.inventory import InventoryFile

    loaded = InventoryFile.loads(content, uri="")
    return {kind: {name: item.uri for name, item in names.items()} for kind, names in loaded.data.items()}


def named(site: Path) -> dict[str, str]:
    """Everything of Python that the site documents, with where it stands."""
    kinds = inventory((site / "objects.inv").read_bytes())
    return {name: uri for kind, names in kinds.items() if kind.startswith("py:") for name, uri in names.items()}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_link_is_dead(site):
    found = [(page, address) for page in pages(site) for address in (*read(page).links, *read(page).parts)]
    offenders = sorted({f"{page.relative_to(site)}: {address}" for page, address in found if dead(page, address)})
    assert len(found) > 10_000 and not offenders, "\n".join(offenders)


def test_a_dead_link_is_found(tmp_path):
    (tmp_path / "a.html").write_text('<p id="here"></p><a href="b.html#there">x</a>')
    (tmp_path / "b.html").write_text('<p id="there"></p>')
    page = tmp_path / "a.html"
    assert [dead(page, of) for of in ("#here", "b.html#there", "https://b/c")] == [False] * 3
    assert [dead(page, of) for of in ("#there", "b.html#here", "c.html")] == [True] * 3


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_public_name_has_an_entry(site, monkeypatch):
    reference = script("reference", monkeypatch)
    wanted = {f"{module}.{name}" for module, path in reference.modules().items() for name in reference.defined(path)}
    wanted |= set(reference.modules()) | set(reference.offered())
    wanted.discard("avalanche_vlm.__version__")
    missing = wanted - set(named(site))
    assert len(wanted) > 2000 and not missing, sorted(missing)
    stray = [name for name in wanted if dead(site / "index.html", named(site)[name])]
    assert not stray, stray


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_names_of_other_projects_lead_to_their_pages(site, monkeypatch):
    projects = script("inventories", monkeypatch).PROJECTS
    links = {link for page in pages(site) for link in read(page).links}
    for project, (url, _) in projects.items():
        known = {uri for names in inventory((ROOT / f"docs/inventories/{project}.inv").read_bytes()).values()
                 for uri in names.values()}  # fmt: skip
        used = {link.removeprefix(url) for link in links if link.startswith(url) and "#" in link}
        assert used and used <= known, project
        # None is kept that nothing refers to.
        assert known <= used, (project, known - used)


def test_inventories_are_what_their_script_writes(monkeypatch):
    pytest.importorskip("sphinx")
    made = script("inventories", monkeypatch)
    for project in made.PROJECTS:
        kept = (ROOT / f"docs/inventories/{project}.inv").read_bytes()
        # Compressed, they differ with the version of zlib.
        assert inventory(made.inventory(project)) == inventory(kept), project


def test_an_inventory_is_the_same_in_every_version_of_python(monkeypatch):
    made = script("inventories", monkeypatch)
    monkeypatch.setattr(Path, "__module__", "pathlib._local")  # Python 3.13's
    assert made.home("pathlib.Path") == "pathlib.Path"


def test_pages_of_packages_that_are_gone_are_taken_away_whatever_they_are(monkeypatch, tmp_path):
    reference = script("reference", monkeypatch)
    (tmp_path / "api/old").mkdir(parents=True)
    (tmp_path / "api/old/page.rst").write_text("")
    (tmp_path / "api/gone.rst").write_text("")
    monkeypatch.setattr(reference, "modules", lambda: {"avalanche_vlm": reference.PACKAGE / "__init__.py"})
    reference.write(tmp_path / "api")
    assert [path.name for path in (tmp_path / "api").iterdir()] == ["avalanche_vlm.rst"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_notebook_is_a_page_with_its_pictures(site):
    notebooks = sorted((ROOT / "examples").glob("*.ipynb"))
    assert len(notebooks) >= 6
    for path in notebooks:
        notebook = nbformat.read(path, as_version=4)
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        drawn = sum("image/png" in output.get("data", {}) for output in outputs)
        page = site / f"notebooks/{path.stem}.html"
        shown = [part for part in read(page).parts if part.startswith("../_images/")]
        assert drawn and len(shown) == drawn, path.stem
        assert f"notebooks/{path.stem}.html" in read(site / "gallery.html").links


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_guide_goes_by_a_newcomers_questions(site):
    assert read(site / "index.html").captions == QUESTIONS
    order = [Path(link).stem for link in read(site / "index.html").links if link.endswith(".html")]
    firsts = [order.index(page) for page in ("first_run", "own_data", "own_script", "which_failure", "choosing_a_cure",
                                             "deploying", "scaling", "reproduction")]  # fmt: skip
    assert firsts == sorted(firsts)
    told = (site / "first_run.html").read_text()
    assert (
        "1,465,216" in told and "train_mb_size" in (site / "own_script.html").read_text()
    )  # README's, in their places


def test_every_page_of_the_guide_is_named_on_its_first_page():

    index = (ROOT / "docs/index.md").read_text()
    listed = re.findall(r"^- \[[^\]]+\]\((\w+)\.md\)", index, re.MULTILINE)
    in_trees = [line for tree in re.findall(r"^```\{toctree\}\n(.*?)^```", index, re.MULTILINE | re.DOTALL)
                for line in tree.splitlines() if line and not line.startswith(":")]  # fmt: skip
    assert listed == [line for line in in_trees if "/" not in line]
    assert set(listed) == {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}


def search_index(site: Path) -> dict[str, Any]:
    text = (site / "searchindex.js").read_text()
    return json.loads(text.removeprefix("Search.setIndex(").removesuffix(")"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_search_knows_all_pages(site):
    found = search_index(site)
    assert {f"{name}.html" for name in found["docnames"]} | {"genindex.html", "py-modindex.html", "search.html"} == {
        str(page.relative_to(site)) for page in pages(site)
    }
    places = [found[where]["zscl"] for where in ("terms", "titleterms")]
    numbers = {number for of in places for number in (of if isinstance(of, list) else [of])}
    assert {"recipes", "reproduction"} <= {found["docnames"][number] for number in numbers}
    assert any("Diagnosis" in title for title in found["alltitles"])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_page_is_light_or_dark_and_can_be_searched(site):
    for page in pages(site):
        assert "theme-toggle" in read(page).classes and "sidebar-search" in read(page).classes, page


PHONE = 390

FACTS = """(() => ({
    here: location.href,
    links: [...document.querySelectorAll('a[href]')].map(a => a.href).filter(to => to.startsWith('file:')),
    broken: [...document.images].filter(one => one.complete && !one.naturalWidth).map(one => one.src),
    wide: document.documentElement.scrollWidth,
    seen: innerWidth,
}))()"""
"""What a page is asked in the browser."""


def wrong(tab: browsers.Tab) -> list[str]:
    """What is wrong with the page that a browser shows: errors, pictures and links that lead nowhere, its width."""
    facts = tab.evaluate(FACTS)
    here = Path(unquote(urlsplit(facts["here"]).path))
    found = [line for line in tab.said if line.startswith("error")]
    found += [f"no picture: {address}" for address in facts["broken"]]
    found += [f"a dead link: {to}" for to in facts["links"] if dead(here, urlsplit(to)._replace(scheme="").geturl())]
    found += [f"{facts['wide']} pixels wide"] * (facts["wide"] > facts["seen"])
    return [f"{here.name}: {of}" for of in found]


@pytest.fixture(scope="module")
def tab():
    yield from browsers.launched()


@pytest.mark.slow
def test_what_is_wrong_with_a_page_is_seen(tab, tmp_path):
    page = tmp_path / "a.html"
    page.write_text(
        '<a href="b.html">x</a><img src="c.png"><p style="width: 900px">y</p><script>nothing.there</script>'
    )
    tab.size(PHONE)
    tab.open(page.as_uri())
    error, picture, link, width = wrong(tab)
    assert "nothing is not defined" in error and "c.png" in picture and "b.html" in link and "90" in width
    assert not tab.follow("document.querySelector('a').click()")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_guide_is_clicked_through_on_a_phone(site, tab):
    guide = {f"{path.stem}.html" for path in (ROOT / "docs").glob("*.md")}
    tab.size(PHONE)
    tab.open((site / "index.html").as_uri())
    seen, found = {"index.html"}, wrong(tab)
    # The first notebook comes after the gallery, which is the last page of the guide.
    for _ in guide:
        assert tab.follow("document.querySelector('a.next-page').click()"), f"nothing comes after {seen}"
        seen.add(str(Path(unquote(tab.evaluate("location.pathname"))).relative_to(site)))
        found += wrong(tab)
    tab.open((site / "genindex.html").as_uri())
    found += wrong(tab)
    assert seen > guide and len(seen) == len(guide) + 1 and not found, found


KINDS = {
    "guide": "own_data.html",
    "notebook": "notebooks/first_look.html",
    "reference": "api/avalanche_vlm.training.recipes.html",
    "generated tables": "recipes.html",
    "search": "search.html?q=zscl",
    "index of names": "genindex.html",
}
"""A page of each kind."""


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("width", [PHONE, 1280])
@pytest.mark.parametrize("page", KINDS.values(), ids=KINDS)
def test_pages_of_every_kind_are_right_on_a_phone_and_on_a_desk(site, tab, page, width):
    tab.size(width)
    tab.open(site.as_uri() + f"/{page}")
    if "?" in page:  # results come in one after another, and are counted when all are there
        tab.until("/\\d+ page/.test(document.querySelector('.search-summary')?.innerText)")
        assert tab.evaluate("document.querySelectorAll('ul.search li a').length") > 3
    assert tab.evaluate("innerWidth") == width and not wrong(tab)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_recipe_is_found_by_the_search_and_the_site_is_light_or_dark(site, tab):
    tab.size(1280)
    tab.open((site / "index.html").as_uri())
    asked = "(() => { const to = document.querySelector('.sidebar-search'); to.value = 'zscl'; to.form.submit(); })()"
    assert tab.follow(asked)
    # Results come in one after another.
    found = "[...document.querySelectorAll('ul.search li a')].find(a => a.pathname.endsWith('/recipes.html'))"
    assert tab.until(f"!!{found}") and tab.follow(f"{found}.click()")
    assert "ZSCL" in tab.evaluate("document.querySelector('article').innerText") and not wrong(tab)
    grounds = {}
    for _ in range(3):
        theme = tab.evaluate(
            "(document.querySelector('.theme-toggle-content .theme-toggle').click(), document.body.dataset.theme)"
        )
        ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        grounds[theme] = max(map(int, re.findall(r"\d+", ground)[:3]))
    assert set(grounds) == {"auto", "light", "dark"} and grounds["dark"] < 60 and grounds["light"] > 200
