"""The exceptions that stand for a mistake of the user or the limits of the machine, not for a bug."""


class UserError(Exception):
    """One clear sentence: what is wrong, where, and what to do. The command exits with status 2."""


class OutOfMemory(UserError):
    """The device's memory did not suffice; a smaller pack may fit."""
