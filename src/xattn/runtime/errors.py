"""What means "the input is wrong", as opposed to "the program is wrong", and "this may not be what you mean"."""


class InputError(ValueError):
    """Something a person handed to xattn cannot be used.

    Its message is one sentence that names the file, line or tensor, what was expected of it and what was found. The
    commands print that sentence without a stack trace and leave with exit status 2; a notebook sees an ordinary
    `ValueError`.
    """


class InputWarning(UserWarning):
    """Something a person handed to xattn is used, but perhaps not as they think; one sentence, as in `InputError`."""
