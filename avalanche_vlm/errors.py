"""The one exception that means "the input is at fault": its message is a plain sentence that names the culprit."""


class InputError(ValueError):
    """A file, row, option or model given by the user cannot be used. The CLI prints the message and exits with 2."""


class DataWarning(UserWarning):
    """The data can be used, but not as the user will have meant: names that say nothing, classes that cannot be told
    apart. What a benchmark warns of stands in its ``data.notes`` as well, which the command line prints."""
