"""Parquet tables as data hubs keep them, with changes of bytes, of columns and of what they say of their columns: rows,
images and streams, or one sentence."""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path
from random import Random
from typing import Any

from example import Example, WrongAccept
from mutators import changed, changed_json, odd_value
from PIL import Image

from avalanche_vlm.errors import InputError

SHARE, QUICK = 4, 12

NAMES = ["cat", "dog, big", "cow"]
_TYPES = (
    "Image",
    "ClassLabel",
    "Value",
    "List",
    "Sequence",
    "Audio",
    "Array2D",
    "Translation",
    "binary",
    "string",
    "int64",
)
_KEYS = ("info", "features", "_type", "dtype", "names", "num_classes", "decode", "feature", "length", "id")
_WORDS = (b"PAR1", b"PARE", b"ARROW:schema", b"huggingface", b"features", b"bytes", b"\x15\x00", b"\xff" * 8, b"\0" * 8)


def make(random: Random) -> Example:
    """A table, changed."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:  # without which none can be written, and none is read
        return Example("table.parquet", changed(random, b"PAR1" + bytes(64) + b"PAR1", _WORDS))
    content = _written(random)
    return Example("table.parquet", content if random.randrange(2) else changed(random, content, _WORDS))


def check(example: Example, folder: Path) -> None:
    """What is read with every row is read when rows may be left out; every image is as long as is said of it."""
    from avalanche_vlm.benchmarks.sources.gathering import gathered
    from avalanche_vlm.benchmarks.sources.inside import container_of, content_inside, size_at
    from avalanche_vlm.benchmarks.sources.problems import Problems
    from avalanche_vlm.benchmarks.sources.registry import kind_of_data, read_rows
    from avalanche_vlm.benchmarks.sources.table import reference_table, table_stream

    path = folder / example.name
    path.write_bytes(example.content)
    with _cache_at(folder / "cache"):
        for image in gathered([path]):
            if image.path is not None and container_of(image.path) is not None:
                with contextlib.suppress(InputError):
                    if size_at(image.path) != len(content_inside(image.path)):
                        raise WrongAccept(f"{image.name} is of another length than is said of it")
            elif image.path is not None and len(image.name) > 1000:
                raise WrongAccept(f"an image is called by a name of {len(image.name)} letters")
        lenient = list(read_rows(path, Problems("skip")))
        if repr(list(read_rows(path, Problems("raise")))) != repr(lenient):  # NaN is not itself
            raise WrongAccept("a table has other rows when it is read again")
        kind = kind_of_data(path)
        options: dict[str, Any] = {"train_transform": _same, "eval_transform": _same, "check": "fast"}
        options |= {"check_workers": 0, "on_error": "skip", "tokenizer": _tokens}
        for read in (
            lambda: table_stream(path, kind=kind, **options),
            lambda: table_stream(path, kind="pairs", **options),
            lambda: table_stream(path, kind="classes", split_classes=1, **options),
            lambda: reference_table(path, transform=_same, on_error="skip", check="none"),
        ):
            with contextlib.suppress(InputError):
                json.dumps(getattr(read(), "protocol", None), allow_nan=False)


def _written(random: Random) -> bytes:
    """A table of the form that the ``datasets`` library writes, of which a column or what is said of one may be odd."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = random.choice((0, 1, 4, 4, 4, 9))
    said: dict[str, Any] = {
        "image": {"_type": "Image"},
        "label": {"names": NAMES, "_type": "ClassLabel"},
        "caption": {"dtype": "string", "_type": "Value"},
        "split": {"dtype": "string", "_type": "Value"},
    }
    cells = [{"bytes": _picture(number), "path": f"{number}.png"} for number in range(rows)]
    columns: dict[str, Any] = {
        "image": pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        "label": pa.array([number % 3 for number in range(rows)], pa.int64()),
        "caption": pa.array([f"a {NAMES[number % 3]}" for number in range(rows)], pa.string()),
        "split": pa.array(["test" if number % 3 == 2 else "train" for number in range(rows)], pa.string()),
    }
    for _ in range(random.choice((0, 1, 1, 2))):
        name = random.choice(list(columns))
        columns[random.choice((name, name, f"{name}/%\0"))] = _odd_column(random, rows)
        if random.randrange(2):
            said.pop(name, None)  # then the column says itself what it is
    if random.randrange(3) == 0:
        said = changed_json(random, said, (*_TYPES, *_KEYS))
    stated = {"info": {"features": said}} if random.randrange(8) else odd_value(random)
    metadata = None if random.randrange(8) == 0 else {"huggingface": _as_json(stated)}
    table = pa.Table.from_arrays(list(columns.values()), list(columns)).replace_schema_metadata(metadata)
    if random.randrange(8) == 0:  # two columns of one name
        table = table.append_column(random.choice(list(columns)), next(iter(columns.values())))
    file = io.BytesIO()
    compression = random.choice(("snappy", "none", "zstd", "gzip"))
    pq.write_table(table, file, row_group_size=max(1, random.choice((1, 3, 100))), compression=compression)
    return file.getvalue()


def _odd_column(random: Random, rows: int) -> Any:
    """A column of another kind than a reader of images, classes or captions expects, or with gaps."""
    import pyarrow as pa

    pictures = [_picture(number) for number in range(rows)]
    kinds: list[tuple[list[Any], Any]] = [
        (pictures, pa.binary()),
        (pictures, pa.large_binary()),
        ([of if number % 2 else None for number, of in enumerate(pictures)], pa.binary()),
        (
            [{"bytes": None, "path": "a.png"} for _ in pictures],
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        ),
        ([{"bytes": number} for number in range(rows)], pa.struct([("bytes", pa.int8())])),
        ([None] * rows, pa.struct([("bytes", pa.large_binary())])),
        ([[of] for of in pictures], pa.list_(pa.binary())),
        ([b"12345678"] * rows, pa.binary(8)),
        ([(-1) ** number * 2 ** (7 * number) for number in range(rows)], pa.int64()),
        ([2**64 - 1] * rows, pa.uint64()),
        ([float("nan"), -0.0, 1e308, *([float("inf")] * rows)][:rows], pa.float64()),
        ([bool(number % 2) for number in range(rows)], pa.bool_()),
        ([None] * rows, pa.null()),
        ([["a cat", None, "one"], [], None, *([["x" * 70000]] * rows)][:rows], pa.list_(pa.string())),
        ([[["a"]]] * rows, pa.list_(pa.list_(pa.string()))),
        (["", " ", "../../x", "\0", "/dev/null", "a" * 300, *(["table.parquet/image/0"] * rows)][:rows], pa.string()),
        ([10**15 * number for number in range(rows)], pa.timestamp("us")),
        ([2**40] * rows, pa.timestamp("s")),
        (list(range(rows)), pa.duration("ns")),
        ([[("a", number)] for number in range(rows)], pa.map_(pa.string(), pa.int64())),
    ]
    values, kind = random.choice(kinds)
    column = pa.array(values, kind)
    return column.dictionary_encode() if kind in (pa.string(), pa.binary()) and random.randrange(3) == 0 else column


def _picture(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (2 + number, 3), (number, 0, 0)).save(file, "PNG")
    return file.getvalue()


def _as_json(value: Any) -> bytes:
    with contextlib.suppress(ValueError):
        return json.dumps(value).encode(errors="surrogatepass")
    return b"{"


@contextlib.contextmanager
def _cache_at(folder: Path) -> Any:
    """Keep what is kept of tables beneath the input, whence it goes with it."""
    before = os.environ.get("AVALANCHE_VLM_CACHE")
    os.environ["AVALANCHE_VLM_CACHE"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["AVALANCHE_VLM_CACHE"]
        else:
            os.environ["AVALANCHE_VLM_CACHE"] = before


def _same(image: Any) -> Any:
    return image


def _tokens(texts: list[str]) -> Any:
    import torch

    return torch.zeros(len(texts), 8, dtype=torch.long)
