"""Generation of new prompts with few-shot examples, and their filters (arXiv 2401.10020, section 2.2, step 1).

The filters follow Self-Instruct (arXiv 2212.10560, section 2.2): overlap with all known prompts, keywords of tasks that
text cannot solve, length, language, broken output. Every rejected attempt is stored with its reason.

New prompts are single turns. The example of a conversation is the user's first turn, which needs no context.

Attempts run in rounds. All attempts of a round draw their examples from the same accepted prompts and are decided in
order, so that results do not depend on the order in which an engine finishes them. If the examples of an attempt do not
fit into the model's context, the longest one is excluded and all are drawn again, with the attempt's own seed.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from srlm.config import options_of
from srlm.data.config import ROW_OPTIONS
from srlm.data.languages import in_languages, script
from srlm.data.splits import Overlap
from srlm.data.words import contains_word, tokens
from srlm.engines.base import Completion, Engine, Sampling
from srlm.engines.dependencies import chat_template, generation_options, model_input
from srlm.engines.missing import NO_ANSWER, RAISE, TOO_LONG, missing_counts, named, problem_of, report_missing
from srlm.engines.session import Generator
from srlm.errors import EngineError, NoAnswerError, PromptTooLongError
from srlm.generation.chain import SourceStage
from srlm.generation.config import PromptsConfig
from srlm.ids import derive_seed, prompt_id
from srlm.io.progress import Bars, say
from srlm.io.record_file import RecordFile
from srlm.models.conversation import compared_texts, user_texts
from srlm.models.templating import Template
from srlm.pipeline.artifacts import EFT, EFT_HELD_OUT, EVALUATION_PROMPTS, IFT, PROMPTS, SEEDS
from srlm.pipeline.roles import resolve_role
from srlm.pipeline.stage import recorded
from srlm.types import Prompt, RecordId

_REDRAWS = 20  # number of redraws of an attempt's examples before their number is reduced
_EXAMPLES = "examples too long"
_HEAD = re.compile(r"^\s*(?:(?:instruction|task)\s*[0-9]*\s*[:.)]|[0-9]+[.)](?=\s))\s*", re.IGNORECASE)
_BY_LETTER = ("thai", "lao", "khmer", "myanmar")  # scripts that are split by letter; a word has about three letters
_LETTERS_A_RUN = 9
_CONTROL = re.compile(r"<\|[^|\n]{0,40}\||\ufffd|[\x00-\x08\x0b-\x1f]|\{\{|\}\}")


def clean(completion: str) -> str:
    """Return the instruction of a completion, without a number before it and quotes around it."""
    text = _HEAD.sub("", completion).strip()
    if len(text) > 1 and text[0] == text[-1] == '"' and text.count('"') == 2:
        text = text[1:-1].strip()
    return text


def rejection(text: str, truncated: bool, config: PromptsConfig, seen: Overlap) -> str:
    """Return the reason why a new prompt is rejected; "" if it is accepted.

    Parameters
    ----------
    text : str
        The cleaned instruction.
    truncated : bool
        Whether the completion reached the token limit.
    seen : Overlap
        All prompts that it must not repeat.
    """
    words = tokens(text)
    if not words:
        return "broken: no words"
    if truncated:
        return "broken: cut off"
    if _CONTROL.search(text):
        return "broken: control characters or template marks"
    if repeats(words, n=_LETTERS_A_RUN if script(text) in _BY_LETTER else 3):
        return "broken: repeats itself"
    if len(words) < config.min_words:
        return "too short"
    if len(words) > config.max_words:
        return "too long"
    if not in_languages(text, config.languages):
        return "language"
    if word := next((word for word in config.keywords if contains_word(text, word)), None):
        return f"keyword: {word}"
    overlap, _ = seen.most_similar(text)
    if overlap >= config.max_overlap:
        return "overlap"
    return ""


def repeats(words: Sequence[str], n: int = 3, times: int = 3) -> bool:
    """Return whether an n-gram of words occurs at least `times` times."""
    runs = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    return bool(runs) and max(runs.values()) >= times


def has_no_answer(attempt: Prompt) -> bool:
    """Return whether an attempt has no completion: its examples were too long, or a server failed."""
    return attempt.rejected.startswith((_EXAMPLES, NO_ANSWER))


def choose_shots(
    rng: random.Random, ift: Sequence[RecordId], accepted: Sequence[RecordId], config: PromptsConfig
) -> list[str]:
    """Return the ids of the examples of one attempt: `shots_generated` accepted prompts and IFT prompts, shuffled."""
    generated = rng.sample(list(accepted), min(config.shots_generated, len(accepted)))
    from_ift = config.shots_ift + config.shots_generated - len(generated)
    shots = generated + rng.sample(list(ift), min(from_ift, len(ift)))
    rng.shuffle(shots)
    return shots


async def write_prompts(
    engine: Engine,
    template: Template,
    config: PromptsConfig,
    run_seed: int,
    t: int,
    ift: dict[RecordId, str],
    earlier: dict[RecordId, str],
    seen: Overlap,
    store: RecordFile[Prompt],
    on_progress: Callable[[int, int], None] = lambda attempts, tokens: None,
) -> AsyncIterator[Prompt]:
    """Generate new prompts for iteration `t` until `config.count` are accepted, and yield the accepted ones.

    Parameters
    ----------
    ift : dict
        Id -> instruction of the IFT seeds (of a conversation, the first turn), from which examples are drawn.
    earlier : dict
        Id -> text of the prompts accepted in earlier iterations.
    seen : Overlap
        All prompts that a new one must not repeat; accepted prompts are added to it.
    store : RecordFile of Prompt
        Every attempt is appended; stored attempts are not repeated.
    on_progress : callable
        Called with (number of stored attempts, newly generated tokens).

    Raises
    ------
    EngineError
        If no attempt was accepted.
    """

    async def write(seed: int, texts: Sequence[str]) -> Completion:
        listed = "\n\n".join(f"Instruction {n}: {text}" for n, text in enumerate(texts, 1))
        content = template.fill(count=str(len(texts)), examples=listed)
        sampling = Sampling(
            temperature=config.temperature,
            top_p=config.top_p,
            max_new_tokens=config.max_new_tokens,
            seed=seed,
            stop=("\nInstruction", "\nAnswer"),
            priority=-2,  # higher than candidates and judgements, which need the prompt
        )
        prefill = f"Instruction {len(texts) + 1}:"
        [completion] = await engine.generate([{"role": "user", "content": content}], sampling, prefill)
        return completion

    accepted = dict(earlier)
    new = 0
    limit = config.count * config.attempts
    for start in range(0, limit, config.round_size):
        pool = list(accepted)

        async def attempt(i: int, pool: list[str] = pool) -> tuple[Prompt, bool, int]:
            attempt_id = prompt_id(t, i)
            if attempt_id in store.records:
                return store.records[attempt_id], False, 0
            seed = derive_seed(run_seed, "prompts", attempt_id)
            rng, too_long = random.Random(seed), list[RecordId]()
            shots = choose_shots(rng, list(ift), pool, config)
            while True:
                try:
                    completion = await write(seed, [ift.get(shot) or accepted[shot] for shot in shots])
                    break
                except PromptTooLongError as error:
                    longest = max(shots, key=lambda shot: (len(ift.get(shot) or accepted[shot]), shot))
                    too_long.append(longest)
                    if len(too_long) <= _REDRAWS:
                        short_ift, short_pool = ([shot for shot in ids if shot not in too_long] for ids in (ift, pool))
                        shots = choose_shots(rng, short_ift, short_pool, config)
                    else:
                        shots.remove(longest)
                    if not shots:
                        return Prompt(attempt_id, "", (), f"{_EXAMPLES}: {error}", tuple(too_long)), False, 0
                except NoAnswerError as error:
                    return Prompt(attempt_id, "", tuple(shots), problem_of(error), tuple(too_long)), False, 0
            text = clean(completion.text)
            prompt = Prompt(attempt_id, text, tuple(shots), too_long=tuple(too_long))
            return prompt, completion.truncated, completion.tokens

        indices = range(start, min(start + config.round_size, limit))
        stored = sum(not p.rejected for p in (store.records.get(prompt_id(t, i)) for i in indices) if p)
        if new + stored >= config.count:  # the stored attempts are sufficient
            indices = range(start, start + sum(prompt_id(t, i) in store.records for i in indices))
        attempts = [asyncio.create_task(attempt(i)) for i in indices]
        try:
            for task in attempts:
                prompt, truncated, generated = await task
                if prompt.id not in store.records:
                    reason = prompt.rejected or rejection(prompt.text, truncated, config, seen)
                    prompt = replace(prompt, rejected=reason)
                    store.append(prompt)
                on_progress(len(store.records), generated)
                if not prompt.rejected:
                    accepted[prompt.id] = prompt.text
                    seen.add(prompt.text)
                    new += 1
                    yield prompt
                    if new == config.count:
                        return
        finally:
            for task in attempts:
                task.cancel()
    most = Counter(prompt.rejected for prompt in store.records.values() if prompt.rejected).most_common(3)
    reasons = ", ".join(f"{count} x {reason}" for reason, count in most)
    if not new:
        raise EngineError(
            f"None of {limit} new prompts of iteration {t} was accepted: {reasons}. They are in {store.path}. If the "
            "examples are too long, raise engine.max_model_len and rerun the command. To generate prompts with other "
            "options (prompts.attempts, prompts.model) or filters (prompts.max_overlap, prompts.languages, "
            f"prompts.keywords), delete {store.path.parent} first."
        )
    if new < config.count:
        say(f"  {new} of {config.count} new prompts are accepted after all {limit} attempts; most rejected: {reasons}")


def load_writer_template() -> Template:
    """Return the prompt template that asks for a new prompt."""
    return Template.load("new_prompt", "srlm.generation", "prompts", ("count", "examples"))


class WritePrompts(SourceStage):
    """Generate new prompts for M_t with M_t-1 or with the model that `prompts.model` names."""

    name = "prompts"

    def writes(self) -> list[str]:
        return [PROMPTS.file]

    def depends_on(self) -> dict[str, Any]:
        unused = {f"prompts.{name}" for name in ROW_OPTIONS if name != "path"}
        options = options_of(self.config, "prompts", "seed") | generation_options(self.config, self.generator().model)
        options = {name: value for name, value in options.items() if name not in unused}
        return options | {"prompts.template": load_writer_template().digest}

    def made_from(self) -> dict[str, str]:
        workspace, writer = self.workspace, self.generator().model
        data = [artifact.path(workspace) for artifact in SEEDS]
        inputs = recorded(workspace, *data, *(PROMPTS.path(workspace, u) for u in range(2, self.t)))
        return inputs | model_input(workspace, writer) | chat_template(self.config, writer)

    def generator(self) -> Generator:
        return Generator(resolve_role(self.config.prompts.model, self.t - 1))

    def caption(self) -> str:
        return f"New prompts for M{self.t}, by {self.generator().model}"

    async def items(self, engine: Engine, bars: Bars) -> AsyncIterator[Prompt]:
        workspace, options, complete = self.workspace, self.config.prompts, self.complete()
        store = RecordFile(self.outputs[0], Prompt)
        seeds = IFT.read(workspace)
        ift = {row.id: user_texts(row.conversation)[0] for row in seeds}
        earlier = {
            prompt.id: prompt.text
            for u in range(2, self.t)
            for prompt in PROMPTS.read(workspace, u)
            if not prompt.rejected
        }
        others = [row for artifact in (EFT, EFT_HELD_OUT, EVALUATION_PROMPTS) for row in artifact.read(workspace)]
        data = [text for row in (*others, *seeds) for text in compared_texts(row.conversation)]
        seen = Overlap([*data, *earlier.values()])
        if not complete:
            self.begin()
            bars.add("new prompts", options.count)
            if all(
                attempt.rejected for attempt in store.records.values()
            ):  # otherwise later attempts used accepted prompts as examples
                store.forget(has_no_answer)
        accepted = written = 0

        def on_progress(attempts: int, tokens: int) -> None:
            nonlocal written
            written += tokens
            if not complete:
                bars.update("new prompts", done=accepted, tokens=tokens)

        async for prompt in write_prompts(
            engine, load_writer_template(), options, self.config.seed, self.t, ift, earlier, seen, store, on_progress
        ):
            accepted += 1
            on_progress(len(store.records), 0)
            yield prompt
        if not complete:
            rows = store.finish()
            reasons = Counter(row.rejected.split(":")[0] for row in rows if row.rejected)
            counts = {"attempts": len(rows), "accepted": accepted, "rejected": dict(reasons.most_common())}
            counts |= _examples_too_long(rows, {row.id: row.source for row in seeds})
            self.done({}, counts, written)
            bars.update("new prompts", total=accepted)


def _examples_too_long(attempts: Sequence[Prompt], sources: Mapping[str, str]) -> dict[str, Any]:
    """Log and count the examples that were replaced because the request was too long."""
    replaced = Counter(shot for attempt in attempts for shot in attempt.too_long)
    problems = {
        named(
            shot, sources.get(shot, "")
        ): f"{TOO_LONG}: excluded from the examples of {times} requests for new prompts"
        for shot, times in replaced.items()
    }
    options = "prompts.shots_ift, prompts.shots_generated or prompts.max_new_tokens"
    report_missing("Examples for new prompts", problems, f"{RAISE}; or lower {options}")
    return missing_counts(problems)
