"""Stages that build the EFT training examples: rationales of the SFT baseline, and the examples."""

from __future__ import annotations

from typing import Any, cast

from srlm.config import options_of
from srlm.engines.base import Engine, SequenceScorer, gather_or_cancel
from srlm.engines.dependencies import chat_template, generation_options
from srlm.engines.missing import count_missing, is_missing, refuse_without_any
from srlm.engines.session import GenerationStage, Generator
from srlm.evaluation.agreement import agreement
from srlm.ids import answer_id, judgement_id
from srlm.io.progress import Bars, say
from srlm.io.record_file import RecordFile, write_records
from srlm.judges import spec_of
from srlm.judges.dependencies import judge_options
from srlm.judges.eft import agrees, eft_is_used, examples_of_run, needs_baseline, report
from srlm.judges.pointwise import judge
from srlm.judges.prompt import JudgeTemplate
from srlm.models.templating import Template
from srlm.pipeline.artifacts import EFT, EFT_EXAMPLES, EFT_JUDGEMENTS, SEEDS
from srlm.pipeline.roles import SFT_BASELINE
from srlm.pipeline.stage import LocalStage, recorded
from srlm.types import Candidate, Judgement, RankedPrompt


def _reference_template() -> Template:
    return Template.load("weaknesses", "srlm.judges", "data.rationale_reference", ("better",))


class WriteRationales(GenerationStage):
    """Judge the EFT answers with the SFT baseline, each prompt until the scores rank its answers like people.

    There are at most `data.rationale_attempts` attempts per prompt; judgement N of an answer belongs to attempt N. With
    `data.rationale_reference`, the judge's prompt for a worse answer includes the best answer and asks for the
    weaknesses of the worse one. The training examples do not contain this addition.
    """

    name = "rationales"

    def writes(self) -> list[str]:
        return [EFT_JUDGEMENTS.file]

    def depends_on(self) -> dict[str, Any]:
        options = options_of(self.config, "data.rationale_attempts", "seed")
        options |= generation_options(self.config) | judge_options(self.config)
        if self.config.data.rationale_reference:
            options["data.rationale_reference"] = _reference_template().digest
        return options

    def made_from(self) -> dict[str, str]:
        workspace = self.workspace
        data = (artifact.path(workspace) for artifact in SEEDS)
        return recorded(workspace, *data, workspace.sft_baseline) | chat_template(self.config)

    def wanted(self) -> bool:
        learns_scores = spec_of(self.config.judge).eft == "scores" and eft_is_used(self.config)
        return learns_scores and needs_baseline(EFT.read(self.workspace), self.config.data.rationales)

    def generator(self) -> Generator:
        return Generator(SFT_BASELINE)

    def caption(self) -> str:
        return "The SFT baseline judges the EFT answers"

    async def generate(self, engine: Engine | SequenceScorer, bars: Bars) -> None:
        if self.complete():
            return
        own = self.config.data.own_answers.used  # then the labels of a prompt may be equal
        ranked = [prompt for prompt in EFT.read(self.workspace) if prompt.is_ordered or not own]
        self.begin()
        store = RecordFile(self.outputs[0], Judgement)
        store.forget(lambda judgement: is_missing(judgement.problem))
        template = JudgeTemplate.load(self.config.judge)
        reference = _reference_template()
        bars.add("EFT rationales", len(ranked))
        done = written = agreed = 0

        async def judge_answer(prompt: RankedPrompt, n: int, attempt: int) -> Judgement:
            nonlocal written
            candidate = Candidate(answer_id(prompt.id, n), prompt.id, prompt.answers[n].text, 0, False)
            if judgement_id(candidate.id, attempt) not in store.records:
                best = min(prompt.answers, key=lambda answer: answer.rank)
                is_worse = self.config.data.rationale_reference and prompt.answers[n].rank > best.rank
                note = "\n\n" + reference.fill(better=best.text) if is_worse else ""
                new = await judge(
                    cast(Engine, engine),
                    template,
                    self.config.judge,
                    self.config.seed,
                    prompt.conversation,
                    candidate,
                    1,
                    first=attempt,
                    note=note,
                )
                store.append(*new)
                written += sum(judgement.tokens for judgement in new)
            return store.records[judgement_id(candidate.id, attempt)]

        async def judge_prompt(prompt: RankedPrompt) -> None:
            nonlocal done, agreed
            before = written
            for attempt in range(self.config.data.rationale_attempts):
                judged = await gather_or_cancel(judge_answer(prompt, n, attempt) for n in range(len(prompt.answers)))
                if agrees(prompt, [judgement.score for judgement in judged]):
                    agreed += 1
                    break
            done += 1
            bars.update("EFT rationales", done=done, tokens=written - before)

        await gather_or_cancel(judge_prompt(prompt) for prompt in ranked)
        rows = store.finish()
        counts: dict[str, Any] = {"judgements": len(rows), "valid": sum(row.score is not None for row in rows)}
        missing = count_missing("EFT answers to judge", rows, {prompt.id: prompt.source for prompt in ranked})
        refuse_without_any("EFT prompt has judgements that rank its answers like people", agreed, missing)
        counts |= missing
        self.done({}, counts, written)


class BuildEFT(LocalStage):
    """Build the EFT training examples, with human rationales, rationales of the SFT baseline, or only scores."""

    name = "eft"

    def writes(self) -> list[str]:
        return [EFT_EXAMPLES.file]

    def depends_on(self) -> dict[str, Any]:
        names = ("rationales", "eft_max_score_fraction", "eft_limit", "eft_length_balance", "rationale_attempts")
        options = options_of(self.config, *(f"data.{name}" for name in names), "judge.max_score", "seed")
        return options | ({"judge.learns_pairs": True} if spec_of(self.config.judge).eft == "pairs" else {})

    def made_from(self) -> dict[str, str]:
        workspace = self.workspace
        rationales = [] if spec_of(self.config.judge).eft == "pairs" else [EFT_JUDGEMENTS.path(workspace, 1)]
        return recorded(workspace, *(artifact.path(workspace) for artifact in SEEDS), *rationales)

    def wanted(self) -> bool:
        return eft_is_used(self.config)

    def run(self) -> dict[str, Any]:
        workspace, config, ranked = self.workspace, self.config, EFT.read(self.workspace)
        by_baseline = WriteRationales(workspace, config, 1).wanted()
        judgements = EFT_JUDGEMENTS.read(workspace, 1) if by_baseline else []
        examples, counts = examples_of_run(config, ranked, judgements)
        write_records(self.outputs[0], examples)
        # Measure all judgements of the baseline, including dropped ones that disagree with people; or the targets.
        measured = judgements or [
            Judgement(example.id, example.id, "", example.score) for example in examples if example.other is None
        ]
        accuracy = agreement(ranked, measured, config.evaluation.bootstrap, f"{config.seed}/eft")
        counts["agreement with people"] = accuracy.to_dict()
        for line in report(counts, "their labels do" if config.data.own_answers.used else "people do"):
            say(f"  {line}")
        return counts
