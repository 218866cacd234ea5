"""``serve``: answers over HTTP are those of ``predict`` and ``retrieve``, and whatever is no request is refused."""

from __future__ import annotations

import io
import json
import shutil
import socket
import threading
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from real_files import picture, save, truncate
from saved import pictures_in, saved_lora, saved_tiny, tiny_with_classes

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("python_multipart")
pytest.importorskip("httpx2")
from fastapi.testclient import TestClient

from avalanche_vlm import cli
from avalanche_vlm.artifacts import save_model
from avalanche_vlm.artifacts.layout import point_to
from avalanche_vlm.commands.requests import ServeRequest
from avalanche_vlm.commands.serve import listening
from avalanche_vlm.commands.serving.application import application
from avalanche_vlm.commands.serving.holding import Serving
from avalanche_vlm.errors import InputError

PNG = {"content-type": "image/png"}


def client_of(serving: Serving) -> TestClient:
    return TestClient(application(serving, every=3600), raise_server_exceptions=False)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    return folder, pictures_in(folder, good=5, bad=1)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return saved_lora(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def client(saved, pictures):
    request = ServeRequest(
        model=saved, images=(str(pictures[0]),), body_bytes=50_000, request_pixels=10_000, requests=2, quiet=True
    )
    with client_of(Serving(request)) as asked:
        yield asked


def printed(capsys, *words) -> list[dict]:
    out = words[-1]
    assert cli.main(list(map(str, words))) == 0
    capsys.readouterr()
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_classes_are_those_of_predict_to_the_last_bit(client, saved, pictures, tmp_path, capsys):
    for number, path in enumerate(pictures[1][:3]):
        (line,) = printed(capsys, "predict", saved, path, "--top-k", 3, "--out", tmp_path / f"{number}.jsonl")
        raw = client.post("/predict?top_k=3", content=path.read_bytes(), headers=PNG)
        form = client.post("/predict?top_k=3", files={"image": ("../../etc/passwd", path.read_bytes())})
        assert raw.status_code == 200 and raw.json() == form.json()
        told = raw.json()
        assert told.pop("version") == "v1" and told.pop("remarks") == []
        assert told == {name: line[name] for name in ("classes", "module", "out_of_distribution")}


def test_sixteen_bits_and_labels_are_read_as_predict_reads_them(client, saved, tmp_path, capsys):
    path = tmp_path / "wide.png"
    Image.fromarray(np.asarray(picture(3))[..., 0].astype("uint16") * 257).save(path)
    words = ["predict", saved, path, "--labels", "red star,moon"]
    (line,) = printed(capsys, *words, "--out", tmp_path / "a.jsonl")
    told = client.post("/predict?label=red%20star&label=moon", content=path.read_bytes(), headers=PNG).json()
    assert told["classes"] == line["classes"] and len(told["classes"]) == 2


def test_a_search_finds_what_retrieve_finds(client, saved, pictures, tmp_path, capsys):
    (line,) = printed(
        capsys, "retrieve", saved, "--images", pictures[0], "--query", "a red star", "--top-k", 3,
        "--out", tmp_path / "a.jsonl",
    )  # fmt: skip
    told = client.get("/search", params={"text": "a red star", "top_k": 3}).json()
    assert told == {"version": "v1", "text": "a red star", "matches": line["matches"]}


def big(side: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("method", "address", "sent", "status", "said"),
    [
        ("POST", "/predict", {}, 415, "an image is sent as"),
        ("POST", "/predict", {"headers": PNG}, 400, "the image is empty"),
        ("POST", "/predict", {"content": b"no", "headers": PNG}, 422, "not an image"),
        ("POST", "/predict", {"content": b"%!PS-Adobe-3.0 EPSF-3.0\n", "headers": PNG}, 422, "not an image"),
        ("POST", "/predict", {"json": {"image": "/etc/passwd"}}, 415, "an image is sent as"),
        ("POST", "/predict", {"content": bytes(50_001), "headers": PNG}, 413, "at most 50,000 bytes"),
        ("POST", "/predict", {"content": iter([bytes(30_000)] * 2), "headers": PNG}, 413, "at most 50,000 bytes"),
        ("POST", "/predict", {"content": big(101), "headers": PNG}, 422, "101 x 101 pixels, and at most 10,000"),
        ("POST", "/predict", {"files": {"image": ("a", b"")}}, 400, "the image is empty"),
        ("POST", "/predict", {"files": {"other": ("a", b"x")}}, 422, "a form has one field"),
        ("POST", "/predict", {"files": [("image", b"x"), ("image", b"y")]}, 400, "the form cannot be read"),
        ("POST", "/predict", {"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "the form"),
        ("POST", "/predict?top_k=0", {"content": big(9), "headers": PNG}, 422, "top_k: "),
        ("POST", "/predict?label=a&label=a", {"content": big(9), "headers": PNG}, 422, "named twice"),
        ("POST", "/predict?label=" + "a" * 201, {"content": big(9), "headers": PNG}, 422, "at most 200 characters"),
        ("POST", "/predict?" + "&".join(f"label={n}" for n in range(101)), {}, 422, "at most 100 items"),
        ("GET", "/search", {}, 422, "text: field required"),
        ("GET", "/search?text=%20", {}, 422, "the text is empty"),
        ("GET", "/search?text=" + "star+" * 60, {}, 422, "longer than the"),
        ("GET", "/search?text=" + "a" * 2001, {}, 422, "at most 2000 characters"),
        ("GET", "/search?text=a&top_k=x", {}, 422, "top_k: "),
        ("GET", "/predict", {}, 405, "asked in another way"),
        ("GET", "/../../etc/passwd", {}, 404, "nothing at this address"),
    ],
)
def test_what_is_no_request_is_refused_in_a_sentence(client, method, address, sent, status, said):
    got = client.request(method, address, **sent)
    assert got.status_code == status and said in got.json()["error"], got.text
    assert list(got.json()) == ["error"] and "\n" not in got.json()["error"]


def test_a_truncated_image_is_refused(client, tmp_path):
    path = truncate(save(tmp_path / "a.png", picture(1)))
    got = client.post("/predict", content=path.read_bytes(), headers=PNG)
    assert got.status_code == 422 and got.json()["error"].startswith("the image cannot be decoded")


KINDS = [
    "image/png",
    "application/octet-stream",
    "multipart/form-data; boundary=x",
    "text/plain",
    "",
]


def test_no_body_makes_the_server_fail(client):
    good = big(9)
    changed = st.tuples(st.integers(0, len(good) - 1), st.binary(max_size=3)).map(
        lambda at: good[: at[0]] + at[1] + good[at[0] + len(at[1]) :]
    )
    form = st.binary(max_size=60).map(lambda b: b"--x\r\nContent-Disposition: form-data; " + b + b"\r\n--x--\r\n")

    @settings(max_examples=120, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(body=st.binary(max_size=100) | changed | form, kind=st.sampled_from(KINDS), query=st.text(max_size=8))
    def check(body, kind, query):
        asked = {"top_k": query} if query else {}
        got = client.post("/predict", params=asked, content=body, headers={"content-type": kind})
        assert got.status_code == 200 or 400 <= got.status_code < 500, (got.status_code, got.text)
        assert ("error" in got.json()) == (got.status_code != 200)
        text = client.get("/search", params={"text": query})
        assert text.status_code in (200, 422), text.text

    check()


def test_the_specification_says_what_is_answered(client, pictures):
    told = client.get("/openapi.json").json()
    assert set(told["paths"]) == {"/predict", "/search", "/health", "/versions"}
    assert set(told["paths"]["/predict"]["post"]["responses"]) == {"200", "4XX", "503"}
    page = client.get("/docs").text
    assert "<code>POST /predict</code>" in page and "//" not in page and "<script" not in page
    assert client.get("/health").json()["images"] == 5


def test_pages_load_nothing_from_elsewhere(client):
    for address in ("/", "/page.js", "/page.css", "/docs"):
        got = client.get(address)
        assert got.status_code == 200 and "http://" not in got.text and "https://" not in got.text
        policy = got.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    home = client.get("/").text
    assert " style=" not in home and "<style" not in home and home.count("<script") == 1
    assert client.get("/nothing").headers["x-content-type-options"] == "nosniff"


def test_nothing_of_a_request_is_written(client, monkeypatch):
    import tempfile

    def refused(*given, **named):
        raise AssertionError("a file was made")

    for name in ("NamedTemporaryFile", "TemporaryFile", "mkstemp"):
        monkeypatch.setattr(tempfile, name, refused)
    body = big(9) + bytes(40_000)
    assert client.post("/predict", files={"image": ("a.png", body)}).status_code == 200


def test_another_version_takes_the_place_when_it_can_be_loaded(tmp_path, pictures):
    folder = saved_tiny(tmp_path / "m")
    content = pictures[1][0].read_bytes()
    serving = Serving(ServeRequest(model=folder, quiet=True))
    with client_of(serving) as client:
        first = client.post("/predict", content=content, headers=PNG).json()
        assert first["version"] == "v1" and not serving.look()
        model = tiny_with_classes()
        model.clip.logit_scale.data -= 1
        save_model(folder, model)
        assert client.get("/health").json()["version"] == "v1" and serving.look()
        second = client.post("/predict", content=content, headers=PNG).json()
        assert second["version"] == "v2" and second["classes"] != first["classes"]
        listed = client.get("/versions").json()
        assert listed["answers"] == "v2" and [of["current"] for of in listed["versions"]] == [False, True]

        shutil.copytree(folder / "versions/v1", folder / "versions/v3")
        for file in (folder / "versions/v3").glob("*.safetensors"):
            file.write_bytes(b"broken")
        (folder / "versions/v3/label_space.json").unlink(missing_ok=True)
        point_to(folder, "v3")
        assert not serving.look() and not serving.look()
        health = client.get("/health").json()
        assert health["version"] == "v2" and health["status"] == "behind" and "DIR" in health["problem"]
        assert str(tmp_path) not in health["problem"]
        assert client.post("/predict", content=content, headers=PNG).json() == second

        point_to(folder, "v1")
        assert serving.look() and client.get("/health").json()["status"] == "ok"
        assert client.post("/predict", content=content, headers=PNG).json() == first
        (folder / "model").unlink()
        assert not serving.look() and client.post("/predict", content=content, headers=PNG).json() == first


def test_too_many_requests_and_too_long_ones_are_told(saved, monkeypatch):
    serving = Serving(ServeRequest(model=saved, requests=1, request_seconds=0.2, quiet=True))
    begun, goes_on = threading.Event(), threading.Event()

    def slow(*_):
        begun.set()
        assert goes_on.wait(20)
        return {"answers": None, "versions": []}

    monkeypatch.setattr(serving, "versions", slow)
    with client_of(serving) as client:
        late: list = []
        thread = threading.Thread(target=lambda: late.append(client.get("/versions")))
        thread.start()
        assert begun.wait(20)
        thread.join(20)
        assert late[0].status_code == 503 and "no answer within 0.2 s" in late[0].json()["error"]
        busy = client.get("/versions")  # the turn is still taken: the work goes on
        assert busy.status_code == 503 and "1 requests" in busy.json()["error"] and busy.headers["retry-after"] == "1"
        assert client.get("/health").status_code == 200
        goes_on.set()
        for _ in range(200):
            if client.get("/versions").status_code == 200:
                break
            time.sleep(0.02)
        else:
            raise AssertionError("the turn was never given back")
        assert client.get("/search?text=x").status_code == 404


def test_a_real_server_swaps_by_itself(tmp_path):
    import uvicorn

    folder = saved_tiny(tmp_path / "m")
    at = listening("127.0.0.1", 0)
    with pytest.raises(InputError, match="cannot listen at"):
        listening("127.0.0.1", at.getsockname()[1])
    app = application(Serving(ServeRequest(model=folder, quiet=True)), every=0.05)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [at]}, daemon=True)
    thread.start()
    try:
        import httpx2

        with httpx2.Client(base_url=f"http://127.0.0.1:{at.getsockname()[1]}") as client:
            assert client.post("/predict", content=big(9), headers=PNG).json()["version"] == "v1"
            save_model(folder, tiny_with_classes())
            seen = ""
            for _ in range(400):
                seen = client.post("/predict", content=big(9), headers=PNG).json()["version"]
                if seen == "v2":
                    break
                time.sleep(0.02)
            assert seen == "v2"
    finally:
        server.should_exit = True
        thread.join(20)
    assert not thread.is_alive()


def test_no_answer_waits_for_its_beginning_to_be_acknowledged():
    with listening("127.0.0.1", 0) as at, socket.create_connection(at.getsockname()):
        accepted, _ = at.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_what_cannot_be_served_ends_before_torch_is_asked(tmp_path, capsys, saved):
    assert cli.main(["serve", str(tmp_path / "none")]) == 2
    assert "there is no saved model at" in capsys.readouterr().err
    assert cli.main(["serve", str(saved), "--host", "no such host", "--port", "0"]) == 2
    assert "cannot listen at no such host" in capsys.readouterr().err
    assert cli.main(["serve", str(saved), "--images", str(tmp_path / "none.png"), "--port", "0"]) == 2
    assert "no image could be read" in capsys.readouterr().err
