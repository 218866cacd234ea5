"""A page of many tasks: matrices are pictures, a pixel a cell, and nothing grows with the square of the tasks."""

from __future__ import annotations

import base64
import io
import json
import re

import numpy as np
from PIL import Image
from test_report import entry

from avalanche_vlm.commands import store
from avalanche_vlm.report.page import as_html, as_markdown, content
from avalanche_vlm.report.page.charts.heatmap import NUMBERED, STRONGEST, heat


def entry_of(tasks: int) -> dict:
    found = entry()
    scores = np.random.default_rng(0).integers(0, 101, (tasks + 1, tasks)).astype(float).tolist()
    scores[1][0] = None
    found["result"] |= {"tasks": [f"task {i}" for i in range(tasks)], "matrix": scores, "held_out": {}}
    return found


def drawn(html: str) -> list[np.ndarray]:
    """Red, green, blue and opacity of the pictures in a page."""
    found = re.findall(r'href="data:image/png;base64,([^"]+)"', html)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGBA")) for text in found]


def test_a_matrix_of_many_cells_is_a_picture_with_a_pixel_a_cell():
    cells = np.full((60, 40), 50.0).tolist()
    cells[0] = [0.0, 100.0, -100.0, None, -0.1, *[25.0] * 35]
    cells[1] = [25.0]  # a row that is shorter
    names = [str(i) for i in range(60)]
    html = heat(cells, rows=names, columns=names, path="a", kind="percent", title="<b>", scale=100)
    (pixels,) = drawn(html)
    assert pixels.shape == (60, 40, 4) and "<b>" not in html and "data-path" not in html
    above, below, none = pixels[0, 1], pixels[0, 2], pixels[0, 3]
    assert above[3] == below[3] == round(255 * STRONGEST) and tuple(above[:3]) != tuple(below[:3])
    assert pixels[0, 0, 3] == 0 and none[3] > 0 and len(set(none[:3].tolist())) == 1
    assert abs(int(pixels[2, 7, 3]) - above[3] / 2) <= 1 and abs(int(pixels[1, 0, 3]) - above[3] / 4) <= 1
    assert (pixels[1, 1:] == none).all()
    assert html.count("<text") == 60 + 40  # there is room for all names
    few = heat(cells[:37], rows=names, columns=names, path="a", kind="percent", title="t", scale=100)
    assert NUMBERED >= 37 * 40 and not drawn(few) and few.count("data-path") > 37


def test_a_page_does_not_grow_with_the_square_of_the_tasks():
    sizes = {}
    for tasks in (100, 400):
        found = content([entry_of(tasks)])
        html, text = as_html(found), as_markdown(found)
        (pixels,) = drawn(html)
        assert pixels.shape[:2] == (tasks + 1, tasks) and len(found["groups"][0]["recipes"][0]["matrix"]) == tasks + 1
        assert f"{tasks + 1} rows and {tasks} columns, in report.json" in text
        sizes[tasks] = len(re.sub(r'base64,[^"]+', "", html)) + len(text)
    assert sizes[400] < 2 * sizes[100]


def test_the_names_of_a_thousand_tasks_do_not_overlap():
    found = entry_of(1000)["result"]
    html = heat(found["matrix"], rows=["pretrained", *found["tasks"]], columns=found["tasks"], path="a", kind="percent",
                title="t", scale=100)  # fmt: skip
    heights = [float(y) for y in re.findall(r'<text x="0" y="([0-9.]+)" class="name"', html)]
    assert len(heights) > 50 and min(np.diff(heights)) > 13.9
    assert len(html) < 3 * 2**20


def test_a_row_of_a_matrix_is_a_line_of_the_file(tmp_path):
    for found in (entry_of(3), {}, [], {"a": {}, "b": [], "c": [[]], "d": [{"e": [1, None, "x"]}]}, 3, "\ud800"):
        store.write_json(tmp_path / "a.json", found)
        assert json.loads((tmp_path / "a.json").read_text()) == found
    store.write_json(tmp_path / "a.json", {"matrix": [[1, 2], [3, None]]})
    assert (tmp_path / "a.json").read_text() == '{\n "matrix": [\n  [1, 2],\n  [3, null]\n ]\n}\n'
