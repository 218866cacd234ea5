"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path


def replace_file(path: Path, content: bytes) -> None:
    """Write a file; an interruption leaves the old one or the new one.

    A new file has the permissions that the process's umask leaves, as any file that a program opens for writing; one
    that is replaced keeps its own.

    :param path: the file that is replaced, in a folder that is there.
    :param content: its new content.
    :raises OSError: if it cannot be written; nothing else is left behind.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    # Not tempfile's: it makes files that nobody but their owner may read, whatever the umask.
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        if path.exists():
            temporary.chmod(stat.S_IMODE(path.stat().st_mode))
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
