"""Bytes of a file that the disk has for certain.

A file that is only lengthened has holes, for which the file system finds room when they are written to. Through a
memory map no error can be raised then: where the disk is full, the process is killed (SIGBUS).
"""

from __future__ import annotations

import errno
import os

_PIECE = bytes(1 << 20)
_NOT_KNOWN = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)
"""What file systems say that cannot reserve room."""


def allocate(handle: int, start: int, end: int) -> None:
    """Make a file as long as asked for at least, and its bytes in a range the disk's own: new ones are zero.

    :param handle: descriptor of a file that is open for writing; nothing before ``start`` is touched.
    :param start: first byte of the range; none from there on has been written before.
    :param end: the byte after the last one of the range.
    :raises OSError: if the disk is full, or the file would become larger than it may be; the file may have grown.
    """
    if end <= start:
        return
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(handle, start, end - start)
        except OSError as error:
            if error.errno not in _NOT_KNOWN:
                raise
        else:
            return
    os.lseek(handle, start, os.SEEK_SET)
    for at in range(start, end, len(_PIECE)):
        rest = memoryview(_PIECE)[: end - at]
        while len(rest):
            rest = rest[os.write(handle, rest) :]
