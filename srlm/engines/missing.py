"""Requests without an answer, most of them too long for the context: counted, named and reported.

A stage continues without them, and measures treat them as missing, never as a bad answer.
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
_EXAMPLES = 100  # that a manifest names
RAISE = "To include them in later stages, raise engine.max_model_len (no finished stage is recomputed for that)"


def problem_of(error: NoAnswerError, too_long: str = UNJUDGED) -> str:
    """Return the problem of a record that is missing for this error; its kind stands before the first colon."""
    return f"{too_long if isinstance(error, PromptTooLongError) else NO_ANSWER}: {error}"


def is_missing(problem: str) -> bool:
    """Return whether a record's problem is that its request had no answer; an unparsed answer is none of these."""
    return problem.split(":")[0] in _KINDS


def named(record_id: str, source: str = "") -> str:
    """Return a record's name for messages: its id, and where it was read, FILE:LINE, if that is known."""
    return f"{record_id} ({source})" if source else record_id


def problems_of(
    records: Iterable[Judgement | Comparison | Rating], sources: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return name -> problem of what is missing, each judged text or match once.

    Parameters
    ----------
    sources : mapping, optional
        Id of a judged text, or of its prompt -> where it was read.
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
    """Return what a manifest's counts hold of missing records: by kind, and by name up to a hundred; {} for none."""
    if not problems:
        return {}
    kinds = Counter(problem.split(":")[0] for problem in problems.values())
    examples = [f"{name}: {problem.partition(': ')[2] or problem}" for name, problem in sorted(problems.items())]
    return {"unanswered": dict(kinds.most_common()), "unanswered_examples": examples[:_EXAMPLES]}


def report_missing(what: str, problems: Mapping[str, str], advice: str) -> None:
    """Log how many of `what` have no answer, the first by name, and what to do about length; nothing if all have."""
    counts = missing_counts(problems)
    if counts:
        too_long = any(not problem.startswith(NO_ANSWER) for problem in problems.values())
        say(f"  {what} without an answer: {describe(counts)}." + (f" {advice}." if too_long else ""))


def refuse_without_any(what: str, usable: int, counts: Mapping[str, Any]) -> None:
    """Refuse to complete a stage that has nothing to continue with, because requests have no answer.

    The stage stays open, so the same command asks again for what is missing, also with a larger context.

    Parameters
    ----------
    what : str
        What there is none of, for the message.
    usable : int
        How many the stage has.
    counts : mapping
        As `missing_counts` returns it.

    Raises
    ------
    EngineError
        If there are none, and some requests have no answer.
    """
    if counts and not usable:
        raise EngineError(
            f"No {what}: {describe(counts)}. If texts are too long, raise engine.max_model_len. Then rerun the "
            "command: the same run continues, and asks again for what has no answer. Shorter texts or a lower "
            "max_new_tokens need a new run (name=...)."
        )


def count_missing(
    what: str, records: Sequence[Judgement | Comparison | Rating], sources: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Log what is missing among a judge's records, and return it for a manifest's counts; see `problems_of`."""
    problems = problems_of(records, sources)
    report_missing(what, problems, f"{RAISE}; or lower the judge's max_new_tokens or what makes its prompts long")
    return missing_counts(problems)


def describe(counts: Mapping[str, Any]) -> str:
    """Return the missing records of a manifest's counts in words; "" for none."""
    kinds = ", ".join(f"{n} {kind}" for kind, n in counts.get("unanswered", {}).items())
    examples = counts.get("unanswered_examples", [])
    more = sum(counts.get("unanswered", {}).values()) - 1
    return f"{kinds} ({examples[0]}{f'; and {more} more' if more else ''})" if examples else kinds


def missing_lines(root: Path) -> list[str]:
    """Return what the finished stages in a folder have no answer to, in words; stages with the same share a line."""
    stages: dict[tuple[str, str], list[str]] = {}
    for path in finished_manifests(root):
        if told := describe(Manifest.load(path).counts):
            folder = path.relative_to(root).parts[0].replace("_", " ")
            stages.setdefault((path.stem.replace("_", " "), told), []).append(folder)
    return [f"Without an answer: {name} ({', '.join(where)}): {told}." for (name, told), where in stages.items()]
