"""Errors that are meant for the user: one sentence, the offending value, what would be valid.

The command line turns each class into its exit code and prints the message without a traceback.
"""


class UserError(Exception):
    """A failure the user can act on. Exit code 1."""

    exit_code = 1


class ConfigError(UserError):
    """A wrong command line or configuration: unknown key, bad value, missing file. Exit code 3."""

    exit_code = 3


class DataError(UserError):
    """Items that cannot be used: an empty set, a leak, too many malformed rows. Exit code 1."""


class NonFiniteError(UserError):
    """A loss or gradient was NaN or infinite; raised on every rank before any parameter moved. Exit code 1."""


class LayoutError(UserError):
    """The optimizer's tensors cannot be told apart by parameter, as after a change inside DeepSpeed. Exit code 1."""


class StorageError(UserError):
    """A place that cannot be written: full, read-only, or broken; nothing half-written counts. Exit code 1."""


class ClusterError(UserError):
    """Ray lost a process, a node or itself, or did not start; nothing is wrong with what was asked for. Exit code 1."""


class TrackingError(UserError):
    """MLflow cannot be reached, refuses, or took only part; the run itself is whole. Exit code 1."""


class ResumeError(UserError):
    """A run that cannot be continued as asked, refused before anything is loaded. Exit code 3."""

    exit_code = 3
