"""The one exception that means "the input is at fault": its message is a plain sentence that names the culprit; and the
kinds of warnings of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """A file, row, option or model given by the user cannot be used. The CLI prints the message and exits with 2."""


class VLMWarning(UserWarning):
    """What this package warns of: a plain sentence, which the command line prints without a file and a line."""


class DataWarning(VLMWarning):
    """The data can be used, but not as the user will have meant: names that say nothing, classes that cannot be told
    apart. What a benchmark warns of stands in its ``data.notes`` as well, which the command line prints."""


@contextmanager
def naming(what: str) -> Iterator[None]:
    """What is refused within names the thing that it is about.

    :param what: the thing, as it stands at the beginning of the sentence.

    >>> with naming("held-out set 'size'"):
    ...     raise InputError("it is empty")
    Traceback (most recent call last):
    avalanche_vlm.errors.InputError: held-out set 'size': it is empty
    """
    try:
        yield
    except InputError as error:
        raise InputError(f"{what}: {error}") from error
