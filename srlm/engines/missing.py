"""Count and report requests without an answer, most of them too long for the context.

A stage continues without them. Measures treat them as missing, never as bad answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from srlm.errors import EngineError, NoAnswerError, PromptTooLongError
from srlm.ids import ancestors, parent
from srlm.io.progress import say
from srlm.pipeline.manifest import Manifest, finished_manifests
from srlm.types import Comparison, Judgement, Rating

TOO_LONG = "too long"
UNJUDGED = "too long for the judge"
NO_ANSWER = "no answer"
_KINDS = (TOO_LONG, UNJUDGED, NO_ANSWER)
_EXAMPLES = 100  # records named in a manifest
RAISE = "To include them in later stages, raise engine.max_model_len (no finished stage is recomputed for that)"


def problem_of(error: NoAnswerError, too_long: str = UNJUDGED) -> str:
    """Return the problem of a record that is missing because of this error: "KIND: details"."""
    return f"{too_long if isinstance(error, PromptTooLongError) else NO_ANSWER}: {error}"


def is_missing(problem: str) -> bool:
    """Return whether a record's request had no answer. An answer that could not be parsed is another problem."""
    return problem.split(":")[0] in _KINDS


def named(record_id: str, source: str = "") -> str:
    """Return a record's name for messages: its id and, if known, its source (FILE:LINE)."""
    return f"{record_id} ({source})" if source else record_id


def problems_of(
    records: Iterable[Judgement | Comparison | Rating], sources: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return name -> problem of the missing records, once for each judged text or match.

    Parameters
    ----------
    sources : mapping, optional
        Id of a judged text or of its prompt -> FILE:LINE.
    """
    found: dict[str, str] = {}
    for record in records:
        if is_missing(record.problem):
            judged = record.candidate_id if isinstance(record, Judgement) else record.id
            judged = parent(judged) if isinstance(record, Comparison) else judged
            source = next((s for part in (judged, *ancestors(judged)) if (s := (sources or {}).get(part))), "")
            found.setdefault(named(judged, source), record.problem)
    return found


def missing_counts(problems: Mapping[str, str]) -> dict[str, Any]:
    """Return a manifest's counts of missing records, by kind, with up to 100 names; {} for none."""
    if not problems:
        return {}
    kinds = Counter(problem.split(":")[0] for problem in problems.values())
    examples = [f"{name}: {problem.partition(': ')[2] or problem}" for name, problem in sorted(problems.items())]
    return {"unanswered": dict(kinds.most_common()), "unanswered_examples": examples[:_EXAMPLES]}


def report_missing(what: str, problems: Mapping[str, str], advice: str) -> None:
    """Log how many of `what` have no answer, with an example and advice about length; nothing if all have one."""
    counts = missing_counts(problems)
    if counts:
        too_long = any(not problem.startswith(NO_ANSWER) for problem in problems.values())
        say(f"  {what} without an answer: {describe(counts)}." + (f" {advice}." if too_long else ""))


def refuse_without_any(what: str, usable: int, counts: Mapping[str, Any]) -> None:
    """Raise an error if a stage has no usable record because requests have no answer.

    The stage stays incomplete, so the same command repeats these requests, also with a larger context.

    Parameters
    ----------
    what : str
        The records, for the message.
    usable : int
        How many usable records the stage has.
    counts : mapping
        As returned by `missing_counts`.

    Raises
    ------
    EngineError
        If there is no usable record, and some requests have no answer.
    """
    if counts and not usable:
        raise EngineError(
            f"No {what}: {describe(counts)}. If texts are too long, raise engine.max_model_len and rerun the "
            "command: the run continues with the requests that have no answer. Shorter texts or a lower "
            "max_new_tokens need a new run (name=...)."
        )


def count_missing(
    what: str, records: Sequence[Judgement | Comparison | Rating], sources: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Log the missing ones of a judge's records, and return their counts for a manifest; see `problems_of`."""
    problems = problems_of(records, sources)
    report_missing(what, problems, f"{RAISE}; or lower the judge's max_new_tokens, or shorten its prompts")
    return missing_counts(problems)


def describe(counts: Mapping[str, Any]) -> str:
    """Return a description of the missing records in a manifest's counts; "" for none."""
    kinds = ", ".join(f"{n} {kind}" for kind, n in counts.get("unanswered", {}).items())
    examples = counts.get("unanswered_examples", [])
    more = sum(counts.get("unanswered", {}).values()) - 1
    return f"{kinds} ({examples[0]}{f'; and {more} more' if more else ''})" if examples else kinds


def missing_lines(root: Path) -> list[str]:
    """Return descriptions of the missing records of a folder's finished stages; equal ones share a line."""
    stages: dict[tuple[str, str], list[str]] = {}
    for path in finished_manifests(root):
        if missing := describe(Manifest.load(path).counts):
            folder = path.relative_to(root).parts[0].replace("_", " ")
            stages.setdefault((path.stem.replace("_", " "), missing), []).append(folder)
    return [f"Without an answer: {name} ({', '.join(where)}): {missing}." for (name, missing), where in stages.items()]
