"""What tables of text share: they are read whole, as UTF-8, or as UTF-16 where a byte-order mark says so."""

from __future__ import annotations

import codecs
from pathlib import Path

from avalanche_vlm.errors import InputError


def read_text(path: Path) -> str:
    """The text of a table.

    :param path: a UTF-8 file, with or without a byte-order mark, or a UTF-16 file with one, as spreadsheets save it.
    :return: the whole text of the file.
    :raises InputError: if it is missing, unreadable or in another encoding, which cannot be told from the bytes.
    """
    try:
        with path.open("rb") as file:
            wide = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        text = path.read_text(encoding="utf-16" if wide else "utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"there is no table at {path}") from error
    except UnicodeDecodeError as error:
        kind = "UTF-16" if wide else "UTF-8"
        raise InputError(f"{path} is not {kind} text (byte {error.start}): {_as_utf8('ISO-8859-1')}") from error
    except UnicodeError as error:
        raise InputError(f"{path} is not UTF-16 text ({error})") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    if "\0" in text:
        raise InputError(f"{path} is no UTF-8 text, as it has null bytes: {_as_utf8('UTF-16LE')}")
    return text


def _as_utf8(likely: str) -> str:
    """What to do about another encoding, which the reader knows or finds out."""
    return f"save it as UTF-8, as `iconv -f {likely} -t UTF-8` does with a file that is {likely}"
