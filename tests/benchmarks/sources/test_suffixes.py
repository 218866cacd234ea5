"""Suffixes of formats, as people write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from avalanche_vlm.benchmarks.sources.registry import FORMATS, Format, format_of, register_format
from avalanche_vlm.errors import InputError


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    monkeypatch.setattr(FORMATS, "_registered", dict(FORMATS._known))


@pytest.mark.parametrize("suffixes", [".FEATHER", (".Feather",), [".feather", ".feather"]])
def test_suffixes_in_any_case_one_or_several(suffixes):
    register_format(Format("feather", "columns", suffixes))
    assert format_of(Path("a/B.FEATHER")).name == "feather"
    with pytest.raises(InputError, match="no table that can be read"):
        format_of(Path("no-suffix-at-all"))
    with pytest.raises(InputError, match="read as 'feather' already"):
        register_format(Format("other", "columns", (".fEaThEr",)))


def test_a_suffix_of_two_parts_goes_before_its_end():
    register_format(Format("packed", "a packed table", (".csv.gz",)))
    register_format(Format("gz", "anything packed", (".gz",)))
    assert format_of(Path("a.csv.gz")).name == "packed" and format_of(Path("a.tsv.gz")).name == "gz"


@pytest.mark.parametrize("suffixes", [("csv2",), (".",), ("",)])
def test_what_is_no_suffix(suffixes):
    with pytest.raises(InputError, match="a suffix is a dot and what follows"):
        Format("odd", "nothing", suffixes)
