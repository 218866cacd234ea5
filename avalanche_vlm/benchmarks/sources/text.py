"""What tables of text share: they are read whole, as UTF-8."""

from __future__ import annotations

from pathlib import Path

from avalanche_vlm.errors import InputError


def read_text(path: Path) -> str:
    """The text of a table.

    :param path: a UTF-8 file, with or without a byte-order mark.
    :return: the whole text of the file.
    :raises InputError: if it is missing, unreadable or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"there is no table at {path}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
