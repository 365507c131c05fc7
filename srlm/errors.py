"""Errors that a user can fix, one type for each module boundary.

Every message gives the problem, its location (file and line, option, folder) and the remedy. Every other exception is a
bug of this package and shows its traceback.
"""


class SrlmError(Exception):
    """Base class of all errors that a user can fix; the command line prints its message without a traceback."""

    overrides: tuple[str, ...] = ()  # options with which the same command can continue, such as "pairs.min_pairs=1"


class ConfigError(SrlmError):
    """An option has an invalid value."""


class ArgumentError(SrlmError, ValueError):
    """An argument of a Python function has an invalid value."""


class ModelError(SrlmError):
    """A model is missing, incomplete, or cannot be used as configured, for example without a chat template."""


class SeedError(SrlmError):
    """Seed data are missing, broken or too few."""


class NoRanksError(SeedError):
    """Data whose format has no ranked answers are asked for EFT examples."""


class RunFolderError(SrlmError):
    """A run folder is in use, damaged, or was made with other options."""


class EngineError(SrlmError):
    """The engine could not start, ran out of memory, or refused a request."""


class NoAnswerError(EngineError):
    """One request has no answer, and the caller counts it as missing; other requests are not affected."""


class PromptTooLongError(NoAnswerError):
    """A request does not fit into the engine's context."""


class TrainingError(SrlmError):
    """Training cannot start or was stopped by a check."""


class BenchmarkError(SrlmError):
    """A public benchmark, its data or the package that runs it is not available."""


class VerdictError(SrlmError):
    """A file of a reader's verdicts is damaged or belongs to other runs."""


class AlarmError(SrlmError):
    """An alarm about the judge was triggered whose action is to stop before training."""


class NoPairsError(SrlmError):
    """The feedback contains too little to train on."""


class TrackingError(SrlmError):
    """A dashboard cannot be created or uploaded."""


class ExportError(SrlmError):
    """An export has nothing to write, or would overwrite a file."""


class PushError(SrlmError):
    """An upload is refused by this package's checks or by the Hub."""
