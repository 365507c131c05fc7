"""Stage that samples N candidates per prompt (arXiv 2401.10020, section 2.2, step 2)."""

from __future__ import annotations

from typing import Any, cast

from srlm.config import options_of
from srlm.engines.base import Engine, Sampling, SequenceScorer
from srlm.engines.dependencies import chat_template, generation_options, model_input
from srlm.engines.missing import RAISE, TOO_LONG, missing_counts, problem_of, refuse_without_any, report_missing
from srlm.engines.session import Generator
from srlm.errors import NoAnswerError
from srlm.generation.chain import Feedback, ItemStage
from srlm.generation.config import CandidatesConfig
from srlm.ids import candidate_id, derive_seed
from srlm.io.progress import Bars
from srlm.io.record_file import RecordFile
from srlm.models.conversation import messages_of
from srlm.pipeline.artifacts import CANDIDATES, PROMPTS
from srlm.pipeline.roles import iteration
from srlm.pipeline.stage import recorded
from srlm.types import Candidate, Prompt


async def sample_candidates(engine: Engine, config: CandidatesConfig, run_seed: int, prompt: Prompt) -> list[Candidate]:
    """Return `config.count` sampled answers to one prompt; ids are PROMPT_ID/cN.

    Answers that reach the token limit are marked as truncated. A limit inside a character's bytes leaves a replacement
    character at the end, which is removed.
    """
    sampling = Sampling(
        temperature=config.temperature,
        top_p=config.top_p,
        max_new_tokens=config.max_new_tokens,
        seed=derive_seed(run_seed, "candidates", prompt.id),
        n=config.count,
        priority=-1,
    )
    completions = await engine.generate(messages_of(prompt.conversation), sampling)
    return [
        Candidate(
            id=candidate_id(prompt.id, n),
            prompt_id=prompt.id,
            text=completion.text.rstrip("\ufffd").strip() if completion.truncated else completion.text.strip(),
            tokens=completion.tokens,
            truncated=completion.truncated,
            thought=completion.thought.lstrip(),
        )
        for n, completion in enumerate(completions)
    ]


class SampleCandidates(ItemStage):
    """Sample candidates of M_t-1 for each new prompt of iteration t."""

    name = unit = "candidates"

    def writes(self) -> list[str]:
        return [CANDIDATES.file]

    def depends_on(self) -> dict[str, Any]:
        return options_of(self.config, "candidates", "seed") | generation_options(self.config)

    def made_from(self) -> dict[str, str]:
        inputs = recorded(self.workspace, PROMPTS.path(self.workspace, self.t))
        return inputs | model_input(self.workspace, self.generator().model) | chat_template(self.config)

    def generator(self) -> Generator:
        return Generator(iteration(self.t - 1))

    def open(self, engine: Engine | SequenceScorer, bars: Bars) -> None:
        self._engine, self._bars = cast(Engine, engine), bars
        self._store = RecordFile(self.outputs[0], Candidate)
        self._unanswered: dict[str, str] = {}  # accepted prompt without candidates -> reason
        self._tokens = self._count = 0
        self._finished = self.complete()
        if not self._finished:
            self.begin()

    def planned(self, items: int) -> int:
        return (items - len(self._unanswered)) * self.config.candidates.count

    async def process(self, item: Feedback) -> bool:
        ids = [candidate_id(item.prompt.id, n) for n in range(self.config.candidates.count)]
        tokens = 0
        if not self._finished and any(id not in self._store.records for id in ids):
            try:
                new = await sample_candidates(self._engine, self.config.candidates, self.config.seed, item.prompt)
            except NoAnswerError as error:
                self._unanswered[item.prompt.id] = problem_of(error, TOO_LONG)
                return False
            self._store.append(*new)
            tokens = sum(candidate.tokens for candidate in new)
        item.candidates = [self._store.records[id] for id in ids if id in self._store.records]
        self._tokens, self._count = self._tokens + tokens, self._count + len(item.candidates)
        self._bars.update(self.unit, done=self._count, tokens=tokens)
        return bool(item.candidates)

    def close(self) -> None:
        rows = self._store.finish()
        counts = {"candidates": len(rows), "truncated": sum(candidate.truncated for candidate in rows)}
        report_missing("Accepted prompts", self._unanswered, f"{RAISE}; or lower candidates.max_new_tokens")
        missing = missing_counts(self._unanswered)
        refuse_without_any("accepted prompt could be answered", len(rows), missing)
        self.done({}, counts | missing, self._tokens)
