"""Errors that a user can act on: the command line prints their message and exits with status 2.

A message names the thing, where it was found, and the remedy. Anything else that is raised is a
defect of ours and keeps its traceback.
"""


class UserError(Exception):
    """Bad input of any kind. The message says what, where, and the remedy."""


class ConfigError(UserError):
    """An unknown config, key or value, or values that do not fit together."""


class DataError(UserError):
    """A missing, empty, truncated or undecodable dataset or record."""


class CheckpointError(UserError):
    """A missing, damaged or foreign checkpoint."""
