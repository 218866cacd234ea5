"""On-disk formats by name: which one a path holds, and where it is read.

A format is one declaration here (or in a distribution of yours, as an entry point of the group
``avalanche_vlm.formats``) and one module that reads it. Most formats are tables: they give rows, and everything else
is done by :mod:`avalanche_vlm.benchmarks.sources.table`. This module is light: a format's code is imported when a file
is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avalanche_vlm._registry import Registry, resolve
from avalanche_vlm.benchmarks.registry import Reader, call_factory, takes
from avalanche_vlm.errors import InputError

if TYPE_CHECKING:
    from avalanche_vlm.benchmarks.scenario import HeldOutSet, ReferencePairs, VLMBenchmark
    from avalanche_vlm.benchmarks.sources.problems import Problems

_HERE = "avalanche_vlm.benchmarks.sources"

Row = tuple[int, dict[str, Any]]
"""Where a row stands in its file (1 is the first line), and its fields by column: ``image``, ``label``, ``caption``,
``task``, ``split``."""


@dataclass(frozen=True)
class Format:
    """The declaration of an on-disk format.

    :param name: the format's name.
    :param summary: what lies on the disk, in a phrase.
    :param suffixes: ends of the names of such files, with the dot, in any case: ``(".csv",)``, ``(".tar.gz",)``; none
        for a folder.
    :param rows: the function ``(path, problems) -> iterator of Row`` that reads a table, or where it is:
        ``"package.module:function"``. None for a format that builds its stream itself.
    :param stream: the function ``(path, *, train_transform, eval_transform, ...) -> VLMBenchmark`` that builds a
        stream, or where it is; by default the stream of a table's rows.
    :param marker: name of a file or folder that tells a folder of this format from others, or several of which one is
        enough, in which ``*`` stands for anything; empty for any folder.
    :param held_out: the function ``(path, name, reading) -> list of HeldOutSet`` that reads held-out sets, or where it
        is; by default that of a table's rows, and for a format without rows the test part of its stream.
    """

    name: str
    summary: str
    suffixes: tuple[str, ...] = ()
    rows: str | Callable[[Path, Problems], Iterator[Row]] | None = None
    stream: str | Callable[..., VLMBenchmark] = "avalanche_vlm.benchmarks.sources.table:table_stream"
    marker: str | tuple[str, ...] = ""
    held_out: str | Callable[..., list[HeldOutSet]] | None = None

    def __post_init__(self) -> None:
        suffixes = [self.suffixes] if isinstance(self.suffixes, str) else self.suffixes
        if self.held_out is None and self.rows is not None:
            object.__setattr__(self, "held_out", f"{_HERE}.aside:table_aside")
        object.__setattr__(self, "suffixes", tuple(dict.fromkeys(suffix.lower() for suffix in suffixes)))
        for suffix in self.suffixes:
            if not suffix.startswith(".") or suffix == ".":
                raise InputError(f"format {self.name!r}: a suffix is a dot and what follows, not {suffix!r}")

    def holds(self, path: Path) -> bool:
        """Whether a path looks like this format: by its suffix, or for a folder by the marker in it."""
        if self.suffixes:
            return not path.is_dir() and path.name.lower().endswith(self.suffixes)
        return path.is_dir() and (not self.marker or any(map(partial(_has, path), self.markers)))

    @property
    def markers(self) -> tuple[str, ...]:
        """The names of files or folders of which one tells a folder of this format."""
        return (self.marker,) if isinstance(self.marker, str) and self.marker else tuple(self.marker)

    def build(self) -> Callable[..., VLMBenchmark]:
        """The function that builds a stream, imported if it is not yet."""
        return resolve(self.stream) if isinstance(self.stream, str) else self.stream

    def takes(self, option: str) -> bool:
        """Whether a stream of this format has an option."""
        return takes(self.build(), option)


def _has(folder: Path, marker: str) -> bool:
    return next(folder.glob(marker), None) is not None if "*" in marker else (folder / marker).exists()


FORMATS: Registry[Format] = Registry("format", Format, "avalanche_vlm.formats")


def register_format(declaration: Format) -> Format:
    """Register a format.

    :param declaration: facts of the format.
    :return: the declaration that was given.
    :raises InputError: if its name or one of its suffixes is taken.
    """
    for other in FORMATS:
        for suffix in set(other.suffixes) & set(declaration.suffixes):
            raise InputError(f"format {declaration.name!r}: files {suffix} are read as {other.name!r} already")
    return FORMATS.add(declaration)


def format_of(path: Path) -> Format:
    """The format that a path holds; of two that fit, the one with a marker, then the one with the longer suffix, then
    the one that was registered last.

    :param path: a file or folder that need not exist.
    :return: the declaration of the format.
    :raises InputError: if none fits.
    """
    fitting = [known for known in FORMATS if known.holds(path)]
    if not fitting:
        *first, last = dict.fromkeys(suffix for known in FORMATS for suffix in known.suffixes)
        ends = f"{', '.join(first)} or {last}"
        raise InputError(f"{path} is no table that can be read: its name must end in {ends}")
    return max(reversed(fitting), key=lambda known: (bool(known.marker), _longest_suffix(known, path)))


def _longest_suffix(known: Format, path: Path) -> int:
    return max((len(suffix) for suffix in known.suffixes if path.name.lower().endswith(suffix)), default=0)


def read_rows(path: Path, problems: Problems) -> Iterator[Row]:
    """The rows of a table of any format.

    :param path: the table to read.
    :param problems: takes what is wrong with single rows.
    :return: the rows in the order of the file.
    :raises InputError: if the path holds no table.
    """
    found = format_of(path)
    if found.rows is None:
        raise InputError(f"{path} is no table: it holds a {found.name}")
    rows: Callable[[Path, Problems], Iterator[Row]] = resolve(found.rows) if isinstance(found.rows, str) else found.rows
    return rows(path, problems)


def read_stream(path: str | Path, *, model: Reader | None = None, **options: Any) -> VLMBenchmark:
    """A stream from a file or folder of any format.

    :param path: file or folder with the data.
    :param model: the model whose transforms and tokenizer read the samples.
    :param options: parameters of the format's stream, such as ``order``, ``seed``, ``label_space``, ``templates`` and
        ``on_error``; see :func:`~avalanche_vlm.benchmarks.sources.table.table_stream`.
    :return: the benchmark that was built.
    :raises InputError: in one sentence, for everything that cannot be used.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"there is no file or folder at {path}")
    found = format_of(path)
    return call_factory(f"{path}, a {found.name},", found.build(), path, model=model, **options)


def kind_of_data(path: str | Path, **options: Any) -> str | None:
    """What the samples of a table are, before anything but the table is read.

    :param path: file or folder with the data.
    :param options: options of the format's stream, of which ``kind`` and names of columns decide.
    :return: ``"classes"`` or ``"pairs"``; None for data that are no table or cannot be told.
    """
    kind: Callable[..., str | None] = resolve("avalanche_vlm.benchmarks.sources.table:table_kind")
    found = format_of(Path(path))
    return None if found.rows is None else kind(path, **options)


def read_reference(path: str | Path, *, model: Reader, on_error: str = "raise", **options: Any) -> ReferencePairs:
    """Reference pairs from the ``image`` and ``caption`` columns of a table of any format.

    :param path: the table to read.
    :param model: the model whose evaluation transform reads the images.
    :param on_error: ``"raise"`` stops at the first row that cannot be used; ``"skip"`` leaves it out and says so in
        ``skipped`` of the pairs.
    :param options: further parameters of :func:`~avalanche_vlm.benchmarks.sources.table.reference_table`.
    :return: pairs of images and captions.
    :raises InputError: in one sentence, for everything that cannot be used.
    """
    table: Callable[..., ReferencePairs] = resolve("avalanche_vlm.benchmarks.sources.table:reference_table")
    return table(path, transform=model.transforms.eval, on_error=on_error, **options)


for _format in (
    Format(
        "class-folder",
        "images in folders task/class or class, with train, val and test above, between or below them",
        stream=f"{_HERE}.folder:image_folder_stream",
        held_out=f"{_HERE}.aside:folder_aside",
    ),
    Format("csv", "a table with a header line, fields separated by commas", (".csv",), f"{_HERE}.delimited:comma_rows"),
    Format("tsv", "a table with a header line, fields separated by tabs", (".tsv",), f"{_HERE}.delimited:tab_rows"),
    Format("jsonl", "a JSON object per line", (".jsonl",), f"{_HERE}.jsonl:json_rows"),
    Format(
        "annotations",
        "COCO's captions, Karpathy's splits, or a list of objects",
        (".json",),
        f"{_HERE}.annotations:annotation_rows",
    ),
    Format(
        "caption-list",
        "a picture and a caption a line, as Flickr8k and Flickr30k have them",
        (".txt", ".token"),
        f"{_HERE}.caption_list:list_rows",
    ),
    Format(
        "described-folder",
        "pictures with a table metadata.csv or metadata.jsonl (file_name, text or label)",
        rows=f"{_HERE}.described_folder:described_rows",
        marker=tuple(
            folder + table
            for folder in ("", "train/", "test/", "val/", "validation/")
            for table in ("metadata.csv", "metadata.jsonl")
        ),
    ),
    *(
        Format(
            name,
            f"{what} with images in a column, as data hubs have them (extra parquet)",
            suffixes,
            rows,
            marker=marker,
        )
        for rows in (f"{_HERE}.parquet:parquet_rows",)
        for name, what, suffixes, marker in (
            ("parquet", "a Parquet table", (".parquet",), ()),
            ("parquet-folder", "a folder of Parquet tables", (), ("*.parquet", "data/*.parquet")),
        )
    ),
    *(
        Format(
            name,
            f"{what} of WebDataset's samples (image with cls, txt or json), in CLIP_benchmark's layout as well",
            suffixes,
            f"{_HERE}.webdataset:tar_rows",
            f"{_HERE}.webdataset:tar_stream",
            marker,
            f"{_HERE}.webdataset:tar_aside",
        )
        for name, what, suffixes, marker in (
            ("tar", "a tar", (".tar",), ""),
            ("tar-folder", "a folder of tars", (), ("*.tar", *(f"{part}/*.tar" for part in ("train", "test", "val")))),
        )
    ),
):
    FORMATS.add(_format)
