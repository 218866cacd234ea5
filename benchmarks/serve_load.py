"""How many images a second ``avalanche-vlm serve`` answers on loopback, and after how long.

    python benchmarks/serve_load.py --clients 1,4,8 --seconds 10    # the shipped model, saved for this
    python benchmarks/serve_load.py --model runs/mine --image a.jpg

The server is a process of its own; each client is a thread with a connection of its own that asks one image after the
other. For each number of clients: answers a second, the median and the 99th percentile of their milliseconds, and how
many were refused with 503, which happens with more clients than --max-requests. The first row asks ``/health``, which
no model takes part in: what HTTP itself costs. Says the load of the machine, without which no figure means anything.
"""

from __future__ import annotations

import argparse
import http.client
import io
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image


def saved_tiny(folder: Path) -> Path:
    """The shipped model with five classes, saved."""
    from avalanche_vlm.artifacts import save_model
    from avalanche_vlm.benchmarks.label_space import LabelSpace
    from avalanche_vlm.models import create_vlm

    names = ["star", "heart", "moon", "cup", "flower"]
    save_model(folder, create_vlm("tiny").set_label_space(LabelSpace.from_names(names)))
    return folder


def drawn_image(side: int) -> bytes:
    """A JPEG file of noise."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(file, "JPEG")
    return file.getvalue()


def asked(port: int, content: bytes | None, until: float, found: list[tuple[int, float]]) -> None:
    """One client: requests one after the other until a time, with the status and seconds of each."""
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    while (began := time.perf_counter()) < until:
        if content is None:
            line.request("GET", "/health")
        else:
            line.request("POST", "/predict", content, {"content-type": "image/jpeg"})
        got = line.getresponse()
        got.read()
        found.append((got.status, time.perf_counter() - began))
    line.close()


def measured(port: int, content: bytes | None, clients: int, seconds: float) -> str:
    """The row of a number of clients."""
    found: list[list[tuple[int, float]]] = [[] for _ in range(clients)]
    until = time.perf_counter() + seconds
    threads = [threading.Thread(target=asked, args=(port, content, until, each)) for each in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    every = [one for each in found for one in each]
    times = sorted(1000 * taken for status, taken in every if status == 200)
    others = {status for status, _ in every} - {200, 503}
    assert times and not others, others
    late = times[min(len(times) - 1, int(0.99 * len(times)))]
    refused = sum(status == 503 for status, _ in every)
    return f"{len(times) / seconds:.1f} | {statistics.median(times):.1f} | {late:.1f} | {refused}"


def main() -> None:
    """Start a server, ask it, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--image", type=Path)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--clients", default="1,4,8")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--threads", default="1")
    options = parser.parse_args()
    content = drawn_image(options.side) if options.image is None else options.image.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or saved_tiny(Path(folder, "model"))
        words = ["serve", str(model), "--port", "0", "--threads", options.threads]
        server = subprocess.Popen(
            [sys.executable, "-m", "avalanche_vlm", *words], stderr=subprocess.PIPE, text=True, encoding="utf-8"
        )
        try:
            assert server.stderr is not None
            told = next(line for line in server.stderr if "answers at http" in line)
            port = int(told.rstrip().rpartition(":")[2])
            print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors; {len(content)} bytes")
            print("| what | clients | answers a second | median ms | 99 % ms | refused |\n|---|---|---|---|---|---|")
            print(f"| health | 1 | {measured(port, None, 1, options.seconds)} |")
            for clients in map(int, options.clients.split(",")):
                print(f"| predict | {clients} | {measured(port, content, clients, options.seconds)} |")
        finally:
            server.terminate()
            server.wait(30)


if __name__ == "__main__":
    main()
