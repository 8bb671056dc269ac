"""The one exception that stands for a mistake of the user, not of the program."""


class UserError(Exception):
    """One clear sentence: what is wrong, where, and what to do. The command exits with status 2."""
