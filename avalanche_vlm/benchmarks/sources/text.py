"""What tables and lists of text share: UTF-8, or UTF-16 where a byte-order mark says so, of a size that was stated."""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from avalanche_vlm._given import SETTINGS_BYTES, open_regular
from avalanche_vlm._memory import refuse_beyond
from avalanche_vlm.errors import InputError

LONGEST_LINE = 16 * 2**20
"""Characters that a line of a table may have: its captions are some hundred."""
TIMES_IN_MEMORY = 4
"""Times the bytes of a table that its rows take in memory (measured with rows of 25 to 160 bytes: 4 to 18)."""


def read_text(path: Path, most: int = SETTINGS_BYTES) -> str:
    """The text of a list of names, labels or prompts.

    :param path: a UTF-8 file, with or without a byte-order mark, or a UTF-16 file with one, as spreadsheets save it.
    :param most: bytes that it may have.
    :return: the whole text of the file, its lines ended by ``\\n``.
    :raises InputError: if it is missing, unreadable, no regular file, larger, or in another encoding, which cannot be
        told from the bytes.
    """
    with _text_of(path, most) as (file, _):
        text = file.read()
    _refuse_null(path, text)
    return text


def filled_lines(path: Path) -> list[str]:
    """The lines of a list that are not blank, without the blanks around them.

    :param path: a text file that :func:`read_text` reads.
    :raises InputError: as :func:`read_text` does.
    """
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def json_content(path: Path) -> Any:
    """What a JSON file holds.

    :param path: a text file that :func:`read_table` reads.
    :raises InputError: as :func:`read_table` does, and if it is no JSON.
    """
    try:
        return json.loads(read_table(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not JSON ({getattr(error, 'msg', error)})") from error


def read_table(path: Path) -> str:
    """The text of a table that has to be read whole, as JSON has.

    :param path: a text file in an encoding of :func:`read_text`, of any size for which there is memory.
    :raises InputError: as :func:`read_text` does, and if its rows cannot fit in memory.
    """
    return "".join(lines_of(path, None))


def lines_of(path: Path, longest: int | None = LONGEST_LINE) -> Iterator[str]:
    """The lines of a table, read as they are asked for.

    :param path: a text file in an encoding of :func:`read_text`, of any size for which there is memory.
    :param longest: characters that a line may have; None for any number.
    :return: lines with their ends, which are ``\\n``.
    :raises InputError: as :func:`read_text` does, and if its rows cannot fit in memory or a line is longer.
    """
    with _text_of(path, None) as (file, size):
        refuse_beyond(TIMES_IN_MEMORY * size, f"what is read of the table {path}")
        number, ended = 0, True
        while line := file.readline(LONGEST_LINE + 1):
            number += ended
            ended = line.endswith("\n")
            _refuse_null(path, line)
            if longest is not None and len(line) > longest:
                raise InputError(f"{path}, line {number}: it is longer than {longest:,} characters, as no row is")
            yield line


@contextmanager
def _text_of(path: Path, most: int | None) -> Iterator[tuple[io.TextIOWrapper, int]]:
    """A file as text, and the bytes that it has."""
    try:
        with open_regular(path, most) as file:
            wide = _begins_wide(file)
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            try:
                yield io.TextIOWrapper(file, encoding="utf-16" if wide else "utf-8-sig"), size
            except UnicodeDecodeError as error:
                kind = "UTF-16" if wide else "UTF-8"
                place = file.tell() - len(error.object) + error.start  # the error is of the last piece that was read
                why = f"(byte {place}): {_as_utf8('ISO-8859-1')}"
                raise InputError(f"{path} is not {kind} text {why}") from error
    except FileNotFoundError as error:
        raise InputError(f"there is no table at {path}") from error
    except UnicodeError as error:
        raise InputError(f"{path} is not UTF-16 text ({error})") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def _begins_wide(file: BinaryIO) -> bool:
    return file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def _refuse_null(path: Path, text: str) -> None:
    if "\0" in text:
        raise InputError(f"{path} is no UTF-8 text, as it has null bytes: {_as_utf8('UTF-16LE')}")


def _as_utf8(likely: str) -> str:
    """What to do about another encoding, which the reader knows or finds out."""
    return f"save it as UTF-8, as `iconv -f {likely} -t UTF-8` does with a file that is {likely}"
