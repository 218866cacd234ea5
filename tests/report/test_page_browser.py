"""The report in a real browser without a window, where the machine has one: on a phone and on a desk."""

from __future__ import annotations

import re
from pathlib import Path

import browsers
import numpy as np
import page_files as files
import pytest

from avalanche_vlm.report import page

LONG = "a task whose name is much longer than what fits above one column of a heat map"


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tab():
    yield from browsers.launched()


@pytest.fixture(scope="module")
def dark_tab():
    yield from browsers.launched(dark=True)


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(page.as_html(page.content(files.entries(), files.diagnosis(), files.advice())))
    return path


@pytest.fixture(scope="module")
def crowded(tmp_path_factory) -> Path:
    """Eleven recipes, nine tasks, long names, one word without a blank."""
    tasks = [LONG, "x" * 90, *files.TASKS, "last"]
    names = [*files.LAST, *(f"recipe-with-a-long-name-{k}" for k in range(7))]
    entries = [files.entry(name, 0, tasks) for name in names]
    diagnosis = files.diagnosis(tasks)
    diagnosis["attribution"][0]["verdict"]["sentence"] = "y" * 300
    path = tmp_path_factory.mktemp("crowded") / "report.html"
    path.write_text(page.as_html(page.content(entries, diagnosis, files.advice())))
    return path


def look(tab: browsers.Tab, path: Path, width: int) -> tuple[np.ndarray, dict]:
    """The page's first 2,600 lines as pixels, and what the browser says of it."""
    tab.size(width, 2600)
    tab.open(path.as_uri())
    facts = tab.evaluate(
        """({
            page: document.documentElement.scrollWidth,
            clipped: [...document.querySelectorAll('svg text')].filter(t => {
                const [x, y, w, h] = t.ownerSVGElement.getAttribute('viewBox').split(' ').map(Number);
                const b = t.getBBox(), m = t.getCTM(), o = t.ownerSVGElement.getCTM();
                if (t.hasAttribute('transform')) return false;
                return b.x < x - 1 || b.y < y - 1 || b.x + b.width > w + 1 || b.y + b.height > h + 1;
            }).map(t => t.ownerSVGElement.getAttribute('aria-label') + ': ' + t.textContent),
            unnamed: [...document.querySelectorAll('svg')].filter(s => !s.getAttribute('aria-label')).length,
            smallest: Math.min(...[...document.querySelectorAll('svg text')].map(
                t => parseFloat(getComputedStyle(t).fontSize) * t.getScreenCTM().a)),
            fills: [...document.querySelectorAll('.gauge .fill')].map(r => getComputedStyle(r).fill),
            alerts: [...document.querySelectorAll('script')].length,
        })"""
    )
    pixels = tab.picture(path.with_suffix(".png"))
    return pixels, {**facts, "said": tab.said, "asked": tab.asked}


@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_shows_its_content_in_light_and_dark(tab, dark_tab, report, width):
    grounds = {}
    for scheme, of in (("light", tab), ("dark", dark_tab)):
        pixels, facts = look(of, report, width)
        assert facts["said"] == [] and facts["asked"] == [report.as_uri()]
        assert facts["page"] == pixels.shape[1] == width, "the page scrolls sideways"
        assert facts["clipped"] == [] and facts["unnamed"] == 0
        assert facts["smallest"] >= 9, "text of a chart is too small to read"
        grounds[scheme] = pixels[2, 2].astype(int)
        shown = set(np.unique(pixels.astype(np.int32) @ [65536, 256, 1]).tolist())
        assert len(shown) > 200, "the page is all but blank"
        assert len(set(facts["fills"])) == 3
        for fill in facts["fills"]:
            red, green, blue = (int(v) for v in fill[4:-1].split(","))
            assert 65536 * red + 256 * green + blue in shown, f"no gauge is drawn in {fill}"
        rows = (pixels != grounds[scheme]).any(axis=(1, 2))
        assert rows.mean() > 0.9
    assert grounds["light"].min() > 200 and grounds["dark"].max() < 60


@pytest.mark.parametrize("width", [360, 1280])
def test_long_names_and_many_recipes_stay_inside(tab, crowded, width):
    _, facts = look(tab, crowded, width)
    assert facts["page"] == width and facts["clipped"] == [] and facts["said"] == []


def test_names_of_users_run_no_script(tab, tmp_path):
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>"
    path = tmp_path / "report.html"
    path.write_text(page.as_html(page.content([files.entry(tasks=[evil, "b"], benchmark=evil)])))
    _, facts = look(tab, path, 360)
    assert facts["alerts"] == 0 and facts["said"] == [] and facts["asked"] == [path.as_uri()]


def test_on_paper_there_is_no_navigation(tab, report):
    tab.size(794)
    tab.open(report.as_uri())
    names = tab.evaluate("[...document.querySelectorAll('nav a')].map(a => a.innerText)")
    one_after_the_other = re.compile(r"\s+".join(map(re.escape, names)))
    assert len(names) > 5 and one_after_the_other.search(tab.evaluate("document.body.innerText"))
    paper = tab.paper(report.with_suffix(".pdf"))
    assert "Results of 12 runs" in paper and not one_after_the_other.search(paper)
