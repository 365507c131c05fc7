"""Every stage with its outputs and what they depend on: options, inputs, and versions of libraries.

Options that change speed or memory alone (batch on one device, cores, concurrency) are not among them: a run may be
resumed on another machine. A model's fingerprint is an input of whatever the model writes, judges or is trained from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from srlm.config import Config, EngineKind, Opponents, Scorer, options_of
from srlm.io.files import hash_of_files, sha256
from srlm.judges.meta import load_template as load_meta_template
from srlm.judges.pairwise import load_template as load_pairwise_template
from srlm.judges.prompt import JudgeTemplate
from srlm.models.chat_template import chat_template_names, read_chat_template
from srlm.models.resolve import identity
from srlm.models.templating import Template
from srlm.pipeline import artifacts
from srlm.pipeline.provenance import TRAINING, TRANSFORMERS, VLLM
from srlm.pipeline.roles import (
    ModelRef,
    dpo_reference,
    judge_of,
    match_judge,
    measured_judge,
    reference_of_judge,
    resolve_role,
)
from srlm.pipeline.stage import Stage
from srlm.pipeline.workspace import Workspace, early_stopping_folder
from srlm.training.methods.sft import EFTLoss, SFTConfig, TrainOn
from srlm.types import Judgement

# Not engine.max_model_len: what fits does not depend on it, and what did not fit is counted (srlm/engines/missing.py).
_ENGINE = ("engine.kind", "engine.dtype", "engine.extra")
# The model itself is an input by its contents, its chat template among them.
_OF_CONTENTS = ("model.name", "model.revision", "model.trust_remote_code", "model.chat_template")
_SPEED = ("micro_batch_size", "gradient_checkpointing", "checkpoint_steps", "processes", "accelerate_config")
_CHECKS = ("save_tolerance",)


def load_writer_template() -> Template:
    return Template.load("new_prompt", "srlm.generation", "prompts", ("count", "examples"))


def all_of(workspace: Workspace, config: Config) -> list[Stage]:
    """Every stage up to the run's last iteration, asked for or there already, in the order they are made."""
    there = [int(path.name.split("_")[1]) for path in workspace.root.glob("iteration_*")]
    ifeval = bool(config.evaluation.ifeval)
    of_run = (data, *((ifeval_prompts,) if ifeval else ()), base_model, sft_baseline, rationales, eft, sft)
    of_run += (reward_model,)
    meta = (meta_judgements,) if config.judge.meta else ()
    of_feedback = (prompts, candidates, judgements, *meta, pairs, dpo)
    of_measures = (held_out_judgements, answers, *((ifeval_answers,) if ifeval else ()), head_to_head, evaluation)
    found = [make(workspace, config) for make in of_run]
    for t in range(max([config.iteration, *there]) + 1):
        found += [make(workspace, config, t) for make in of_feedback if t >= 2]
        found += [make(workspace, config, t) for make in of_measures]
    return found


# What stages depend on


def made_by(*sources: Stage) -> dict[str, str]:
    """Return the hashes of what these stages have made; one that is not complete has made nothing yet."""
    return {path: hash_ for source in sources if source.path.exists() for path, hash_ in source.fingerprints().items()}


def files_by_name(names: Iterable[str]) -> dict[str, str]:
    """Return the hashes of those that are on this machine: files, and local folders that are read as hub:FOLDER."""
    found = {}
    for name in names:
        path = Path(name).expanduser()
        if path.is_file():
            found[name] = sha256(path)
        elif name.startswith("hub:") and (folder := Path(name.removeprefix("hub:"))).is_dir():
            found[name] = hash_of_files(folder, (path for path in folder.rglob("*") if path.is_file()))
    return found


def chat_template(config: Config) -> dict[str, str]:
    """Return the hash of the text of `model.chat_template`, as an input."""
    name = config.model.chat_template
    if not name:
        return {"model.chat_template": "the model's own"}
    if name not in chat_template_names() and not Path(name).expanduser().is_file():
        return {}  # gone: an engine that needs it says so
    return {"model.chat_template": hashlib.sha256(read_chat_template(name).encode()).hexdigest()[:16]}


def model(workspace: Workspace, config: Config, t: int) -> Stage:
    """Return the stage that makes M_t."""
    if t >= 2:
        return dpo(workspace, config, t)
    return sft(workspace, config) if t else base_model(workspace, config)


def model_input(workspace: Workspace, config: Config, ref: ModelRef) -> dict[str, str]:
    """Return the fingerprint of a model, as an input; the server's model has none."""
    if ref.kind == "iteration":
        return made_by(model(workspace, config, ref.iteration))
    if ref.kind == "reward_model":
        return made_by(reward_model(workspace, config))
    return identity(ref.name) if ref.kind == "external" else {}


def judge_input(workspace: Workspace, config: Config, judge: ModelRef) -> dict[str, str]:
    """Return the fingerprints of a judge, and of the model that an implicit-reward judge is compared with."""
    found = model_input(workspace, config, judge)
    if config.judge.scorer is Scorer.implicit:
        found |= model_input(workspace, config, reference_of_judge(config, judge))
    return found


def generation_options(config: Config, ref: ModelRef | None = None) -> dict[str, Any]:
    """Return the options that the text of a model depends on, beside what it is asked; None is a model of the run."""
    if ref is not None and not ref.local:
        return endpoint_options(config) | options_of(config, "model.thought_start", "model.thought_end")
    return model_options(config) | options_of(config, *_ENGINE)


def model_options(config: Config) -> dict[str, Any]:
    """Return the options of group `model` that change texts or token ids."""
    options = options_of(config, "model")
    return {name: value for name, value in options.items() if name not in _OF_CONTENTS}


def engine_libraries(config: Config, ref: ModelRef | None = None, rates: bool = False) -> tuple[str, ...]:
    """Return the libraries whose version can change what a model writes, or what it `rates` without writing."""
    if ref is not None and not ref.local:
        return ()
    return VLLM if config.engine.kind is EngineKind.vllm and not rates else TRANSFORMERS


def _template_unless_server(config: Config, ref: ModelRef) -> dict[str, str]:
    return chat_template(config) if ref.local else {}


# The stages


def data(workspace: Workspace, config: Config) -> Stage:
    options = options_of(config, "data.ift", "data.eft", "data.evaluation", "data.eft_held_out", "seed")
    options |= options_of(config, "data.ift_answers")
    options |= options_of(config, "data.near_duplicate", "data.builtin_languages")
    sources = (config.data.ift.path, config.data.eft.path, config.data.evaluation.path)
    outputs = [artifact.file for artifact in artifacts.SEEDS]

    def inputs() -> dict[str, str]:
        return files_by_name(path for path in sources if path != "builtin")

    return Stage(workspace, workspace.data, "data", outputs, options, inputs, config=config)


def base_model(workspace: Workspace, config: Config) -> Stage:
    """M0 stays where it is, outside the run, and may be gone or another one by now."""
    name = config.model.name

    def inputs() -> dict[str, str]:
        place = workspace.run().get("base_model")
        found = {key.replace(place, name, 1): hash_ for key, hash_ in identity(place).items()} if place else {}
        # A GGUF file is converted once, and the run keeps the checkpoint that was made of it.
        return found | (
            {f"{name} (file)": hash_ for hash_ in identity(name).values()} if name.endswith(".gguf") else {}
        )

    options = options_of(config, "model")
    return Stage(
        workspace, workspace.iteration(0), "base_model", [artifacts.BASE_MODEL], options, inputs, config=config
    )


def sft_baseline(workspace: Workspace, config: Config) -> Stage:
    def inputs() -> dict[str, str]:
        return made_by(data(workspace, config), base_model(workspace, config)) | chat_template(config)

    options = _training(config, "sft", eft=False)
    return _training_stage(workspace, 1, "sft_baseline", artifacts.SFT_BASELINE, options, inputs, config)


def rationales(workspace: Workspace, config: Config) -> Stage:
    def inputs() -> dict[str, str]:
        return made_by(data(workspace, config), sft_baseline(workspace, config)) | chat_template(config)

    options = options_of(config, "data.rationale_attempts", "seed")
    options |= generation_options(config) | judge_options(config)
    if config.data.rationale_reference:
        hint = Template.load("weaknesses", "srlm.judges", "data.rationale_reference", ("better",))
        options["data.rationale_reference"] = hint.digest
    folder, outputs = workspace.iteration(1), [artifacts.EFT_JUDGEMENTS.file]
    return Stage(workspace, folder, "rationales", outputs, options, inputs, engine_libraries(config), config)


def eft(workspace: Workspace, config: Config) -> Stage:
    options = options_of(config, "data.rationales", "data.eft_max_score_fraction", "data.eft_limit", "seed")
    options |= options_of(config, "data.eft_length_balance", "data.rationale_attempts", "judge.max_score")
    if config.judge.learns_pairs:
        options["judge.learns_pairs"] = True

    def inputs() -> dict[str, str]:
        baseline = () if config.judge.learns_pairs else (rationales(workspace, config),)
        return made_by(data(workspace, config), *baseline)

    return Stage(
        workspace, workspace.iteration(1), "eft", [artifacts.EFT_EXAMPLES.file], options, inputs, config=config
    )


def sft(workspace: Workspace, config: Config) -> Stage:
    def inputs() -> dict[str, str]:
        file = workspace.relative(artifacts.IFT.path(workspace))
        ift = {name: hash_ for name, hash_ in made_by(data(workspace, config)).items() if name == file}
        examples = () if config.judge.rates else (eft(workspace, config),)
        return ift | made_by(*examples, base_model(workspace, config)) | chat_template(config)

    options = _training(config, "sft") | {"judge.template": judge_options(config).get("judge.template")}
    return _training_stage(workspace, 1, "sft", artifacts.MODEL, options, inputs, config)


def reward_model(workspace: Workspace, config: Config) -> Stage:
    def inputs() -> dict[str, str]:
        return made_by(eft(workspace, config), sft(workspace, config)) | chat_template(config)

    options = _training(config, "reward_model")
    return _training_stage(workspace, 1, "reward_model", "reward_model", options, inputs, config)


def prompts(workspace: Workspace, config: Config, t: int) -> Stage:
    by = resolve_role(config.prompts.model, t - 1)

    def inputs() -> dict[str, str]:
        found = made_by(data(workspace, config), *(prompts(workspace, config, u) for u in range(2, t)))
        return found | model_input(workspace, config, by) | _template_unless_server(config, by)

    options = options_of(config, "prompts", "seed") | generation_options(config, by)
    options["prompts.template"] = load_writer_template().digest
    folder, libraries = workspace.iteration(t), engine_libraries(config, by)
    return Stage(workspace, folder, "prompts", [artifacts.PROMPTS.file], options, inputs, libraries, config)


def candidates(workspace: Workspace, config: Config, t: int) -> Stage:
    def inputs() -> dict[str, str]:
        return made_by(prompts(workspace, config, t), model(workspace, config, t - 1)) | chat_template(config)

    options = options_of(config, "candidates", "seed") | generation_options(config)
    folder, outputs = workspace.iteration(t), [artifacts.CANDIDATES.file]
    return Stage(workspace, folder, "candidates", outputs, options, inputs, engine_libraries(config), config)


def judgements(workspace: Workspace, config: Config, t: int) -> Stage:
    by = judge_of(config, t - 1)

    def inputs() -> dict[str, str]:
        found = made_by(candidates(workspace, config, t)) | judge_input(workspace, config, by)
        return found | _template_unless_server(config, by)

    options = options_of(
        config, "judge.count", "judge.model", "judge.early_stopping", "judge.early_stopping_risk", "seed"
    )
    options |= generation_options(config, by) | judge_options(config)
    if config.judge.early_stopping:  # whether a judgement is needed depends on what makes a pair
        options |= options_of(config, "judge.min_valid", "pairs.length_penalty", "pairs.truncated")
    if config.judge.rates and config.judge.length_penalty is None:
        options |= options_of(config, "pairs.truncated")
    folder, outputs = workspace.iteration(t), _judged(config, artifacts.JUDGEMENTS)
    libraries = engine_libraries(config, by, config.judge.rates)
    return Stage(workspace, folder, "judgements", outputs, options, inputs, libraries, config)


def meta_judgements(workspace: Workspace, config: Config, t: int) -> Stage:
    by = judge_of(config, t - 1)

    def inputs() -> dict[str, str]:
        found = made_by(candidates(workspace, config, t), judgements(workspace, config, t))
        return found | judge_input(workspace, config, by) | _template_unless_server(config, by)

    options = options_of(config, "judge.max_comparisons", "judge.model", "seed") | generation_options(config, by)
    options["judge.meta_template"] = load_meta_template(config.judge).digest
    folder, outputs = workspace.iteration(t), [artifacts.META_COMPARISONS.file]
    return Stage(workspace, folder, "meta_judgements", outputs, options, inputs, engine_libraries(config, by), config)


def pairs(workspace: Workspace, config: Config, t: int) -> Stage:
    def inputs() -> dict[str, str]:
        sources = [make(workspace, config, t) for make in (prompts, candidates, judgements)]
        if not config.judge.meta:
            return made_by(*sources)
        # A judgement's prompt is the judge's, its template filled.
        text = {"judge.template": JudgeTemplate.load(config.judge).template.digest}
        return made_by(*sources, meta_judgements(workspace, config, t)) | text

    options = options_of(config, "pairs.min_gap", "pairs.length_penalty", "judge.min_valid", "judge.meta")
    options |= options_of(config, "pairs.truncated")
    outputs = [artifacts.PAIRS.file, artifacts.UNPAIRED.file]
    if config.judge.meta:
        options |= options_of(config, "judge.meta_max_tokens")
        outputs.append(artifacts.JUDGEMENT_PAIRS.file)
    return Stage(workspace, workspace.iteration(t), "pairs", outputs, options, inputs, config=config)


def dpo(workspace: Workspace, config: Config, t: int) -> Stage:
    early = config.dpo.early_stopping
    validation_judge = resolve_role(early.judge, t - 1)

    def inputs() -> dict[str, str]:
        reasons = workspace.relative(artifacts.UNPAIRED.path(workspace, t))  # training does not read them
        found = {path: hash_ for path, hash_ in made_by(pairs(workspace, config, t)).items() if path != reasons}
        found |= made_by(model(workspace, config, t - 1))
        found |= model_input(workspace, config, dpo_reference(config, t)) | chat_template(config)
        if early.enabled:  # validation prompts are neither trained nor evaluated on
            known = [data(workspace, config), ifeval_prompts(workspace, config)]
            found |= made_by(*known, *(prompts(workspace, config, u) for u in range(2, t + 1)))
            source = config.data.ift.path if early.source.path == "unused_ift" else early.source.path
            found |= model_input(workspace, config, validation_judge) | files_by_name([source])
        return found

    options = _training(config, "dpo")
    options = {name: value for name, value in options.items() if not name.startswith("dpo.early_stopping.")}
    if early.enabled:
        names = (f"evaluation.{name}" for name in ("temperature", "top_p", "max_new_tokens"))
        options |= options_of(config, "dpo.early_stopping", "data.near_duplicate", *names)
        if early.source.path == "unused_ift":
            options |= options_of(config, "data.ift", "data.ift_answers", "data.builtin_languages")
        options |= generation_options(config) | generation_options(config, validation_judge)
        template = load_pairwise_template(config.evaluation.judge_template, "evaluation.judge_template")
        options["evaluation.judge_template"] = template.digest
    stage = _training_stage(workspace, t, "dpo", artifacts.MODEL, options, inputs, config)
    if early.enabled:
        stage.libraries = tuple(dict.fromkeys((*TRAINING, *engine_libraries(config))))
        stage.unfinished.append(early_stopping_folder(workspace, t))
    return stage


def held_out_judgements(workspace: Workspace, config: Config, t: int) -> Stage:
    judge = measured_judge(config, t)

    def inputs() -> dict[str, str]:
        return made_by(data(workspace, config)) | judge_input(workspace, config, judge) | chat_template(config)

    options = options_of(config, "evaluation.eft_prompts", "evaluation.judgements", "seed")
    options |= generation_options(config) | judge_options(config)
    if config.judge.scorer is Scorer.reward_model:  # the same one judges for every M_t
        options |= options_of(config, "judge.model")
    folder, outputs = workspace.evaluation(t), _judged(config, artifacts.HELD_OUT_JUDGEMENTS)
    libraries = engine_libraries(config, rates=config.judge.rates)
    return Stage(workspace, folder, "held_out_judgements", outputs, options, inputs, libraries, config)


def answers(workspace: Workspace, config: Config, t: int) -> Stage:
    def inputs() -> dict[str, str]:
        return made_by(data(workspace, config), model(workspace, config, t)) | chat_template(config)

    names = ("prompts", "temperature", "top_p", "max_new_tokens")
    options = options_of(config, *(f"evaluation.{name}" for name in names), "seed") | generation_options(config)
    folder, libraries = workspace.evaluation(t), engine_libraries(config)
    return Stage(workspace, folder, "answers", [artifacts.ANSWERS.file], options, inputs, libraries, config)


def ifeval_prompts(workspace: Workspace, config: Config) -> Stage:
    options = options_of(config, "evaluation.ifeval", "evaluation.ifeval_prompts", "seed")

    def inputs() -> dict[str, str]:
        return files_by_name([config.evaluation.ifeval])

    return Stage(workspace, workspace.data, "ifeval", [artifacts.IFEVAL_PROMPTS.file], options, inputs, config=config)


def ifeval_answers(workspace: Workspace, config: Config, t: int) -> Stage:
    def inputs() -> dict[str, str]:
        return made_by(ifeval_prompts(workspace, config), model(workspace, config, t)) | chat_template(config)

    options = options_of(config, "evaluation.ifeval_max_new_tokens", "seed") | generation_options(config)
    folder, libraries = workspace.evaluation(t), engine_libraries(config)
    return Stage(
        workspace, folder, "ifeval_answers", [artifacts.IFEVAL_ANSWERS.file], options, inputs, libraries, config
    )


def opponents(config: Config, t: int) -> list[int]:
    """The earlier models whose answers M_t's are compared with, the last one first."""
    return list(range(t - 1, -1, -1))[: 1 if config.evaluation.opponents is Opponents.previous else None]


def head_to_head(workspace: Workspace, config: Config, t: int) -> Stage:
    by, rivals = match_judge(config), opponents(config, t)

    def inputs() -> dict[str, str]:
        found = made_by(*(answers(workspace, config, u) for u in (t, *rivals)))
        return found | model_input(workspace, config, by) | _template_unless_server(config, by)

    options = options_of(config, "evaluation.judge") | generation_options(config, by)
    template = load_pairwise_template(config.evaluation.judge_template, "evaluation.judge_template")
    options["evaluation.judge_template"] = template.digest
    if t >= 2:  # before that there is one opponent anyway
        options |= options_of(config, "evaluation.opponents")
    folder, outputs = workspace.evaluation(t), [artifacts.head_to_head(u).file for u in rivals]
    libraries = engine_libraries(config, by)
    return Stage(workspace, folder, "head_to_head", outputs, options, inputs, libraries, config)


def judge_is_measured(config: Config, t: int) -> bool:
    """Whether M_t has a judge to measure; a reward model comes after M0."""
    return t >= (1 if config.judge.scorer is Scorer.reward_model else 0)


def measure_sources(workspace: Workspace, config: Config, t: int) -> list[Stage]:
    """The stages whose outputs `measures` of M_t reads."""
    with_previous = (t, t - 1) if t else (t,)
    judges = [u for u in with_previous if judge_is_measured(config, u)]
    return [
        data(workspace, config),
        *(prompts(workspace, config, u) for u in range(2, t + 1)),
        *(held_out_judgements(workspace, config, u) for u in judges),
        *(answers(workspace, config, u) for u in (t, *opponents(config, t))),
        *([ifeval_prompts(workspace, config)] if config.evaluation.ifeval else []),
        *(ifeval_answers(workspace, config, u) for u in with_previous if config.evaluation.ifeval),
        *([head_to_head(workspace, config, t)] if t else []),
    ]


def evaluation(workspace: Workspace, config: Config, t: int) -> Stage:
    options = options_of(config, "evaluation.bootstrap", "judge.max_score", "judge.scorer", "seed")
    if config.evaluation.ifeval:
        options |= options_of(config, "evaluation.ifeval")

    def inputs() -> dict[str, str]:
        return made_by(*measure_sources(workspace, config, t))

    return Stage(
        workspace, workspace.iteration(t), "evaluation", [artifacts.EVALUATION], options, inputs, config=config
    )


def _training_stage(
    workspace: Workspace,
    t: int,
    name: str,
    output: str,
    options: dict[str, Any],
    inputs: Callable[[], dict[str, str]],
    config: Config,
) -> Stage:
    folder, checkpoints = workspace.iteration(t), [f"checkpoints/{name}"]
    return Stage(workspace, folder, name, [output], options, inputs, TRAINING, config, checkpoints)


def _training(config: Config, group: str, eft: bool = True) -> dict[str, Any]:
    options = options_of(config, group, "seed")
    by_order = group == "sft" and eft and config.sft.eft_loss is EFTLoss.ranking
    unused = _unused_masking(config.sft) if group == "sft" else set()
    if not by_order:
        unused |= {"sft.eft_loss", "sft.eft_length_control"}
    kept = {
        name: value for name, value in options.items() if not name.endswith(_SPEED + _CHECKS) and name not in unused
    }
    kept |= model_options(config)
    # Answers are compared within a micro-batch: there its size is no matter of speed alone.
    return kept | (options_of(config, "sft.micro_batch_size") if by_order else {})


def _unused_masking(sft: SFTConfig) -> set[str]:
    """Options of masking that this training does not look at: they are not among those it was made with."""
    used = {
        "sft.train_on": sft.train_on is not TrainOn.completion,
        "sft.prompt_weight": sft.train_on is TrainOn.weighted,
        "sft.shared_text": sft.train_on is TrainOn.no_shared_text,
        "sft.packing": sft.packing,
    }
    return {name for name, looked_at in used.items() if not looked_at}


def judge_options(config: Config) -> dict[str, Any]:
    """What one judgement depends on, beside model and engine; only what its scorer looks at."""
    scorer = config.judge.scorer
    names = ["scorer", "max_score"]
    if not config.judge.evidence:
        names += ["temperature", "top_p", "max_new_tokens"]
    names += {Scorer.pairwise: ["max_comparisons"], Scorer.implicit: ["reference", "length_penalty"]}.get(scorer, [])
    names += ["length_penalty"] if scorer is Scorer.reward_model else []
    options = options_of(config, *(f"judge.{name}" for name in names))
    if scorer is Scorer.implicit:
        options |= options_of(config, "dpo.beta")
    return (
        options
        if config.judge.rates
        else options | {"judge.template": JudgeTemplate.load(config.judge).template.digest}
    )


def endpoint_options(config: Config) -> dict[str, Any]:
    """Return the options of a server that its answers depend on, at least in what is asked of it."""
    options = options_of(config, *(f"endpoint.{name}" for name in ("base_url", "model", "prefill", "logprobs")))
    return options | ({} if config.endpoint.temperature is None else options_of(config, "endpoint.temperature"))


def _judged(config: Config, judgements: artifacts.Artifact[Judgement]) -> list[str]:
    """Return the files of a stage that judges: judgements, and the evidence of judges that compare or rate."""
    evidence = artifacts.EVIDENCE.get((judgements.file, config.judge.evidence))
    return [judgements.file, *([evidence.file] if evidence else [])]
