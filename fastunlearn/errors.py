"""The one exception that the command line turns into a one-line message."""


class FastUnlearnError(RuntimeError):
    """Something a user can put right: the message names the thing and says what to do, in one line."""
