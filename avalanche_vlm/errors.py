"""The one exception that means "the input is at fault": its message is a plain sentence that names the culprit."""


class InputError(ValueError):
    """A file, row, option or model given by the user cannot be used. The CLI prints the message and exits with 2."""
