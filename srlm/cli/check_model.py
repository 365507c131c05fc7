"""`srlm check-model MODEL...`: check whether models can be used, from their files, without loading weights.

Every other command makes the same checks of the models that it names, before it does anything else.
"""

from __future__ import annotations

from srlm.cli.application import application
from srlm.cli.named_models import named_models, reports_of
from srlm.config import CheckModel
from srlm.errors import ConfigError, ModelError
from srlm.io.progress import say

_USES = {"train": "the base model", "generate": "a fixed model", "classify": "a reward model"}


def run(options: CheckModel) -> None:
    """Print the problems and the notes of each model; raise ModelError if there are problems."""
    models = named_models(options)
    if not models:
        raise ConfigError("check-model needs models: srlm check-model NAME ...")
    reports = reports_of(options, models)
    for report in reports:
        say(f"{report.model.name}: {'can' if not report.problems else 'cannot'} be used as {_USES[options.use]}")
        for problem in report.problems:
            say(f"  Problem: {problem}")
        for note in report.notes:
            say(f"  Note: {note}")
    refused = [report.model.name for report in reports if report.problems]
    if refused:
        raise ModelError(f"{len(refused)} of {len(reports)} models cannot be used: {', '.join(refused)}.")


main = application("check-model", run)

if __name__ == "__main__":
    main()
