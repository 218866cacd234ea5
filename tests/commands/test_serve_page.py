"""The page of ``serve`` in a real browser: an image is dropped or chosen, and the answer appears."""

from __future__ import annotations

import base64
import threading

import browsers
import pytest
from real_files import picture, save
from saved import pictures_in, saved_tiny

pytest.importorskip("fastapi")
pytest.importorskip("python_multipart")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx2")
import httpx2
import uvicorn

from avalanche_vlm.commands.requests import ServeRequest
from avalanche_vlm.commands.serve import listening
from avalanche_vlm.commands.serving.application import application
from avalanche_vlm.commands.serving.holding import Serving

pytestmark = pytest.mark.slow

PHONE = 390
SHOWN = "(document.getElementById('classes').hidden ? null : document.getElementById('classes').tBodies[0].innerText)"
SAID = "document.getElementById('said').innerText"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Where a server answers."""
    folder = tmp_path_factory.mktemp("served")
    pictures_in(folder / "searched", good=3, bad=0)
    request = ServeRequest(model=saved_tiny(folder / "m"), images=(str(folder / "searched"),), quiet=True)
    at = listening("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(application(Serving(request)), log_level="error", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [at]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{at.getsockname()[1]}"
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def tab(address):
    for opened in browsers.launched():
        opened.size(PHONE)
        opened.open(f"{address}/")
        yield opened


def given(content: bytes, then: str) -> str:
    """JavaScript that has a file with this content in ``files`` and goes on."""
    text = base64.b64encode(content).decode()
    return f"""(() => {{
        const files = new DataTransfer();
        const bytes = Uint8Array.from(atob("{text}"), (one) => one.charCodeAt(0));
        files.items.add(new File([bytes], "a.png", {{ type: "image/png" }}));
        {then}
    }})()"""


def complaints(tab: browsers.Tab) -> list[str]:
    """What the browser has said, but that an answer was a refusal, of which it tells when it likes."""
    return [line for line in tab.said if "422" not in line]


DROPPED = """document.getElementById("drop").dispatchEvent(
    new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true }));"""
CHOSEN = """const field = document.getElementById("file");
    field.files = files.files; field.dispatchEvent(new Event("change"));"""


@pytest.mark.parametrize(("way", "seed"), [(DROPPED, 1), (CHOSEN, 2)], ids=["dropped", "chosen"])
def test_an_image_is_answered(tab, address, tmp_path, way, seed):
    content = save(tmp_path / "a.png", picture(seed)).read_bytes()
    tab.evaluate(given(content, f"document.getElementById('classes').hidden = true; {way}"))
    rows = [line.split("\t") for line in tab.until(SHOWN).splitlines()]
    told = httpx2.post(f"{address}/predict", content=content, headers={"content-type": "image/png"}).json()
    assert rows == [[of["class"], f"{100 * of['probability']:.1f} %"] for of in told["classes"]]
    # The image is shown, and the version said, when each is there: the answer waits for neither.
    assert tab.until("document.getElementById('shown').naturalWidth") == picture(seed).width
    assert tab.until("document.getElementById('state').innerText === 'v1 answers.'") and tab.evaluate(SAID) == ""
    assert tab.evaluate("document.documentElement.scrollWidth") == PHONE and not complaints(tab)
    assert all(asked.startswith((address, "blob:", "data:")) for asked in tab.asked)


def test_what_is_no_image_is_told_in_a_sentence(tab):
    tab.evaluate(given(b"no image", DROPPED))
    assert "not an image" in tab.until(SAID) and tab.evaluate(SHOWN) is None
    tab.until("getComputedStyle(document.getElementById('shown')).display === 'none'")
    assert not complaints(tab)


def test_images_are_searched(tab):
    search = "document.getElementById('search')"
    tab.until(f"!{search}.hidden")
    tab.evaluate(f"(document.getElementById('text').value = 'a red star', {search}.requestSubmit())")
    found = tab.until("[...document.querySelectorAll('#matches li')].map(one => one.innerText)")
    assert len(found) == 3 and all(".png (" in line for line in found)
    assert tab.evaluate("document.documentElement.scrollWidth") == PHONE and not complaints(tab)
