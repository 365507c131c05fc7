"""What readers' verdicts say about a run: rows for its table of measures, and sentences about its judge and models."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from srlm.errors import VerdictError
from srlm.evaluation.measures import Measure
from srlm.evaluation.verdicts import SCORES, SKIP, Compared, agreement, read_verdicts, win_rate
from srlm.ids import number_of
from srlm.io.tables import Section, TableRow, cell
from srlm.judges.roles import judge_of
from srlm.metrics import metric
from srlm.reporting.collect import RunNumbers
from srlm.reporting.entries import Entry, all_entries, match_scores
from srlm.types import Verdict


@dataclass(frozen=True)
class Readers:
    """Verdicts of one or several readers on the answers of one run.

    Parameters
    ----------
    pairs : t -> candidates of the feedback for M_t, with the order of their scores
    matches : t -> answers of M_t and M_t-1, with the head-to-head judge's verdict
    left_out : Counter
        Reason -> verdicts that are not used.
    """

    run: RunNumbers
    pairs: dict[int, list[Compared]] = field(default_factory=lambda: defaultdict(list))
    matches: dict[int, list[Compared]] = field(default_factory=lambda: defaultdict(list))
    left_out: Counter[str] = field(default_factory=Counter)

    def section(self) -> Section:
        """Return a section of the table of models: a row for each measure, a cell for M0, M1, ..."""
        models = range(self.run.last + 1)
        rows = {
            "judge_agreement": [agreement(self.pairs.get(t, ())) for t in models],
            "win_rate": [win_rate(self.matches.get(t, ())) for t in models],
            "head_to_head_agreement": [agreement(self.matches.get(t, ())) for t in models],
        }
        metrics = {name: metric(f"reader/{name}") for name in rows}
        return "Verdicts of readers", [
            TableRow(row.heading, [cell(one, row.scale) for one in rows[name]], row.definition)
            for name, row in metrics.items()
        ]

    def sentences(self) -> list[tuple[str, str]]:
        """Return "for", "against" or "note", and a sentence, for the judge and for each pair of models.

        Only an interval beyond 50 % speaks for or against.
        """
        found = []
        pairs = [one for t in sorted(self.pairs) for one in self.pairs[t]]
        judges = ", ".join(dict.fromkeys(str(judge_of(self.run.config, t - 1)) for t in sorted(self.pairs)))
        judge = self.run.models[self.run.last].head_to_head_judge or "the head-to-head judge"
        matches = [one for t in sorted(self.matches) for one in self.matches[t]]
        for compared, who, what in (
            (pairs, judges, " as judge of the feedback"),
            (matches, judge, " as judge head to head"),
        ):
            one = agreement(compared)
            if one.n:
                words = {
                    1: "more often than chance",
                    -1: "less often than chance",
                    0: "no difference from chance shown",
                }
                side = _side(one)
                kind = "for" if side > 0 else "against" if side < 0 else "note"
                found.append((kind, f"{who}{what} agrees with readers on {_percent(one)}: {words[side]}."))
        for t in sorted(self.matches):
            rate = win_rate(self.matches[t])
            words = {1: "better answers", -1: "worse answers", 0: "no difference shown"}
            side = _side(rate)
            kind = "for" if side > 0 else "against" if side < 0 else "note"
            found.append((kind, f"Readers' win rate of M{t} over M{t - 1} is {_percent(rate)}: {words[side]}."))
        return found

    def counted(self) -> str:
        """Return how many verdicts are used, and why others are not."""
        used = sum(map(len, [*self.pairs.values(), *self.matches.values()]))
        reasons = "; ".join(f"{count} {reason}" for reason, count in sorted(self.left_out.items()))
        return f"{used} verdict{'s' * (used != 1)} of readers" + (f"; left out: {reasons}" if reasons else "")


def read_back(runs: Sequence[RunNumbers], files: Sequence[Path]) -> list[Readers]:
    """Return the readers' verdicts on each run, from files that the report page exported.

    Raises
    ------
    VerdictError
        If a file is damaged, or contains no verdict on these runs.
    """
    of_run = {run.id: Readers(run) for run in runs}
    entries = {run.id: {entry.id: entry for entry in all_entries(run)} for run in runs}
    scores = {run.id: {t: match_scores(run, t) for t in range(1, run.last + 1)} for run in runs}
    for path in files:
        verdicts, left_out = read_verdicts(path)
        known = [verdict for verdict in verdicts if verdict.run in of_run]
        if not known:
            others = ", ".join(sorted({verdict.run for verdict in verdicts}))
            raise VerdictError(
                f"{path} contains verdicts on the run {others}, but the report is of {', '.join(of_run)}. Name the run "
                "that the verdicts were marked on; a run that was made again is another run."
            )
        first = of_run[known[0].run]
        first.left_out.update(left_out)
        first.left_out["of another run"] += len(verdicts) - len(known)
        for verdict in known:
            readers = of_run[verdict.run]
            reason = _add(readers, verdict, entries[verdict.run].get(verdict.prompt_id), scores[verdict.run])
            readers.left_out[reason] += 1
    for readers in of_run.values():
        for reason in [reason for reason, count in readers.left_out.items() if not reason or not count]:
            del readers.left_out[reason]
    return list(of_run.values())


def _add(readers: Readers, verdict: Verdict, entry: Entry | None, scores: dict[int, dict[str, float]]) -> str:
    """Add a verdict; return why it is left out, "" if it is not."""
    if verdict.verdict == SKIP:
        return "skipped by the reader"
    if entry is None:
        return "of a prompt that the run does not have"
    answers = {answer.label: answer for answer in entry.answers}
    first, second = answers.get(verdict.first_id), answers.get(verdict.second_id)
    if first is None or second is None:
        return "of answers that the run does not have"
    if (verdict.prompt, verdict.first, verdict.second) != (entry.prompt, first.text, second.text):
        return "of texts that have changed since"
    reader = SCORES[verdict.verdict]
    if entry.source == "feedback":
        judged = None
        if first.score is not None and second.score is not None:
            gap = round(first.score - second.score, 9)
            judged = 0.5 + 0.5 * ((gap > 0) - (gap < 0))
        readers.pairs[entry.iteration].append(Compared(entry.id, reader, judged))
    else:
        t, u = number_of(verdict.first_id), number_of(verdict.second_id)
        if t != u + 1:
            return "of models that do not follow each other"
        readers.matches[t].append(Compared(entry.id, reader, scores.get(t, {}).get(entry.id)))
    return ""


def _side(share: Measure) -> int:
    """Return 1 if a share is significantly above one half, -1 if below, else 0."""
    if share.low is None or share.high is None:
        return 0
    return (share.low > 0.5) - (share.high < 0.5)


def _percent(share: Measure) -> str:
    row = metric("reader/win_rate")
    return f"{cell(share, row.scale).replace(' ', ' % ').replace(',', ', ')} of {share.n} verdict{'s' * (share.n != 1)}"
