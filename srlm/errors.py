"""Errors that a user can mend, one type for each boundary.

Every message says what was found, where (file and line, option, folder) and what to do about it. Anything else that
is raised is a fault of this package, and is left to show its traceback.
"""


class SrlmError(Exception):
    """Base of all errors that a user can mend; the command line prints its message without a traceback."""

    overrides: tuple[str, ...] = ()  # options with which the same command gets further, such as "pairs.min_pairs=1"


class ConfigError(SrlmError):
    """An option has a value that cannot work."""


class ArgumentError(SrlmError, ValueError):
    """An argument of a Python function has a value that cannot work."""


class ModelError(SrlmError):
    """A model is missing, incomplete, or cannot be used as asked (no chat template, say)."""


class SeedError(SrlmError):
    """Seed data are missing, broken or too few."""


class NoRanksError(SeedError):
    """Data whose format has no ranked answers are asked for EFT examples."""


class RunFolderError(SrlmError):
    """A run folder is in use, damaged, or was made with other options."""


class EngineError(SrlmError):
    """The engine could not start, ran out of memory, or refused a request."""


class NoAnswerError(EngineError):
    """One request cannot be answered, though others can: a caller counts its answer as missing."""


class PromptTooLongError(NoAnswerError):
    """A request does not fit into the engine's context."""


class TrainingError(SrlmError):
    """Training cannot start or was stopped by a check."""


class BenchmarkError(SrlmError):
    """A public benchmark, its data or the package that runs it cannot be had."""


class AlarmError(SrlmError):
    """An alarm about the judge rang whose action is to stop before training."""


class NoPairsError(SrlmError):
    """The feedback left no preference pair to train on."""


class TrackingError(SrlmError):
    """A dashboard cannot be built or sent."""


class ExportError(SrlmError):
    """An export has nothing to write, or would write over something."""


class PushError(SrlmError):
    """An upload is refused, by this package's checks or by the hub."""
