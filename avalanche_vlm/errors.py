"""The one exception that means "the input is at fault": its message is a plain sentence that names the culprit; what
ends a training that was told to end; and the kinds of warnings of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

LONGEST = 4000
"""Letters of a sentence; what a file says, and a sentence quotes, may have millions."""


class InputError(ValueError):
    """A file, row, option or model given by the user cannot be used. The CLI prints the message and exits with 2.

    :param message: one plain sentence that names the culprit. Of one of more than 4,000 letters the beginning and the
        end are kept.

    >>> len(str(InputError("x" * 100_000))) <= LONGEST
    True
    """

    def __init__(self, message: object = "") -> None:
        text = str(message)
        if len(text) > LONGEST:
            text = f"{text[: LONGEST - 1100]} ... and {len(text) - LONGEST + 100} letters more ... {text[-1000:]}"
        super().__init__(text)


class NotFinite(InputError):
    """A loss, weights, features or logits are NaN or infinite: what was trained, or what training began with, answers
    nothing, and no score of it is one."""


class ProcessLost(RuntimeError):
    """Several processes train together, and one of them is gone or does not answer: the training has ended, and what it
    goes on from is on the disk."""


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
        kind = NotFinite if isinstance(error, NotFinite) else InputError
        raise kind(f"{what}: {error}") from error


class Interrupted(BaseException):
    """A training was told to end, and has: what it goes on from is on the disk. No handler of errors catches it.

    :param message: one plain sentence on why, and from where the same command or script goes on.
    :param signal: number of the signal that told it; None if none did.
    """

    def __init__(self, message: str, signal: int | None = None) -> None:
        super().__init__(message)
        self.signal = signal

    @property
    def exit_code(self) -> int:
        """What a process ends with: 128 and the signal's number, 143 for SIGTERM; 1 without a signal."""
        return 1 if self.signal is None else 128 + self.signal
