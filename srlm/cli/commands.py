"""The subcommands of `srlm`: their modules and the content of their help texts.

Commands with a `config` take GROUP.OPTION=VALUE and are composed by Hydra; the others take flags (argparse). This
module imports no large library, so that help and completion are fast.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """One subcommand.

    Parameters
    ----------
    module : str
        Module whose `main` runs the command.
    config : str
        For commands that Hydra composes: the name of the yaml file in conf/ and of the dataclass in srlm/config.py.
    options : tuple of (name, meaning)
        The most used options and groups; their defaults are read from the configuration.
    examples : tuple of (words after `srlm NAME`, meaning)
    positional : str
        For commands that Hydra composes: the option (a list) that words without "=" are values of.
    """

    name: str
    module: str
    summary: str
    config: tuple[str, str] | None = None
    options: tuple[tuple[str, str], ...] = ()
    examples: tuple[tuple[str, str], ...] = ()
    positional: str = ""


_DATA = (
    ("data.ift.path", "instruction-answer pairs: builtin, a file, or hub:OWNER/NAME"),
    ("data.eft.path", "prompts with ranked answers (judge training): builtin, a file, or hub:OWNER/NAME"),
    ("data.own_answers.labels", "who labels a model's own answers to these prompts, which replace the ranked ones"),
)
_MODEL = ("model.name", "the base model: a packaged name, a Hub id, a folder or a .gguf file")
_MODELS = ("models", "names, Hub ids, folders or files: [M1,M2]")
_ENGINE = ("engine", "inference engine (a group)")
_JUDGE = ("judge", "judging method (a group)")
_NAME = ("name", "name of the run; its folder is runs_dir/name; the same name resumes it")

COMMANDS: tuple[Command, ...] = (
    Command(
        "run",
        "srlm.run",
        "Train M1 from a base model and seed data, then M2, M3, ... on their own feedback",
        ("config", "Config"),
        (
            ("iteration", "last model to train (M1, M2, ...); completed stages are kept"),
            _NAME,
            ("experiment", "a preset (a group)"),
            _MODEL,
            *_DATA,
            _ENGINE,
            _JUDGE,
            ("prompts.count", "new prompts per iteration"),
            ("prompts.path", "your prompts instead of new ones; also judgements.path, pairs.path"),
            ("candidates.count", "sampled answers per prompt"),
            ("judge.model", "who judges: self, another model, endpoint, or as a control random or program"),
            ("pairs", "how preference pairs are selected (a group)"),
            ("sft.data", "what M1 is trained on: both, ift, eft, or none for an instruct model"),
            ("sft.learning_rate", "peak learning rate of SFT; follows the model"),
            ("dpo.learning_rate", "peak learning rate of DPO; follows the model"),
            ("dpo.beta", "weight of the KL term towards the reference model"),
            ("sft.processes", "number of training processes (GPUs); also dpo.processes"),
            ("seed", "seed of all random choices"),
            ("tracking", "trackers that metrics are logged to (a group)"),
        ),
        (
            ("experiment=smoke", "the whole loop in about a minute, with a random two-layer model"),
            ("", "the whole loop with the packaged model, on a CPU: experiment=facts"),
            ("experiment=free_form", "requests of all kinds, for which the model writes prompts itself"),
            ("name=mine data.ift.path=ift.jsonl data.eft.path=ranked.jsonl", "your data"),
            ("--resume runs/mine", "continue a run with its stored options"),
            (
                "experiment=free_form name=pairs model.name=Qwen/Qwen2.5-0.5B judge=pairwise",
                "another model and another judge",
            ),
            ("-m seed=1,2,3", "one run for each value"),
            ("--config-dir my_conf experiment=my_experiment", "custom yaml files"),
            ("--cfg job", "print all options with their values, and run nothing"),
        ),
    ),
    Command(
        "judge-bench",
        "srlm.cli.judge_bench",
        "Measure judges on answers that people ranked: accuracy, calibration, bias, cost",
        ("judge_bench", "JudgeBench"),
        (_MODELS, ("datasets", "datasets: builtin, attacks, files, hub:OWNER/NAME"), _JUDGE, _ENGINE, _NAME),
        (
            ("models=[runs/default/iteration_1/model,runs/default/iteration_2/model]", "two models of a run"),
            ("judge=pairwise name=pairwise", "the packaged model as a pairwise judge"),
            ("datasets=[attacks] name=attacks", "answers with injected verdicts, instructions or padding"),
        ),
    ),
    Command(
        "evaluate",
        "srlm.cli.evaluate.main",
        "Compare any models: answers, head to heads, losses, public benchmarks",
        ("evaluate", "Evaluate"),
        (
            _MODELS,
            ("suite", "a list of answers, head_to_head, loss, benchmarks"),
            ("dataset", "prompts to answer: builtin, a file, or hub:OWNER/NAME"),
            ("benchmarks", "tasks of lm-evaluation-harness: [arc_easy,gsm8k]"),
            ("group_by", "options that distinguish the arms of a sweep: [sft.train_on]"),
            _ENGINE,
            _NAME,
        ),
        (
            ("models=[runs/default/iteration_1/model,runs/default/iteration_2/model]", "M1 against M2"),
            ("models=[runs/default/iteration_*/model] suite=[answers]", "every model of a run"),
            ("models=[smollm2-135m-instruct] suite=[benchmarks] benchmarks=[arc_easy]", "a public benchmark"),
        ),
    ),
    Command(
        "side-by-side",
        "srlm.cli.side_by_side",
        "Show the answers of models to the same prompts, as a page and in the terminal",
        ("side_by_side", "SideBySide"),
        (
            _MODELS,
            ("dataset", "prompts to answer"),
            ("limit", "number of prompts; 0 = all"),
            ("evaluation.temperature", "above 0: sampled answers"),
            ("num_shown", "prompts in the terminal"),
            _ENGINE,
            _NAME,
        ),
        (("models=[runs/default/iteration_1/model,runs/default/iteration_2/model] limit=5", "M1 next to M2"),),
    ),
    Command(
        "show-masking",
        "srlm.cli.show_masking.main",
        "Show which tokens SFT trains on, example by example",
        ("show_masking", "ShowMasking"),
        (
            ("dataset", "a file or hub:OWNER/NAME; empty = the data that a run trains on"),
            ("count", "examples of each kind"),
            ("sft.train_on", "completion, all, no_shared_text, weighted"),
            _MODEL,
        ),
        (("count=2", "two examples of each kind"), ("sft.train_on=all", "prompts are trained on as well")),
    ),
    Command(
        "check-model",
        "srlm.cli.check_model",
        "Check whether models can be used, from their files: weights, architecture, tokenizer, chat template",
        ("check_model", "CheckModel"),
        (
            ("use", "train (as the base model), generate (as a judge or prompt writer), classify (as a reward model)"),
            ("model.revision", "revision of the models on the Hub"),
            ("model.chat_template", "chat template instead of the models' own"),
            ("model.trust_remote_code", "whether custom code of the models may run"),
            ("engine.max_model_len", "tokens of a prompt and its completion; follows the model"),
            _ENGINE,
        ),
        (
            ("Qwen/Qwen2.5-0.5B", "a model on the Hub, before its weights are downloaded"),
            ("my_model model.chat_template=chatml", "a folder, with another chat template"),
            ("judge_a judge_b use=generate", "two models that only judge"),
        ),
        positional="models",
    ),
    Command("report", "srlm.cli.report", "Write the report page of a run, or of several runs together"),
    Command(
        "compare", "srlm.cli.compare", "Compare finished runs, arm by arm: measures of every model and differences"
    ),
    Command(
        "export",
        "srlm.cli.export",
        "Export the data of a run in the formats of other tools (AlpacaEval, MT-Bench, TRL)",
    ),
    Command("push", "srlm.cli.push", "Upload a model with its card, and the generated data, to the Hub"),
    Command(
        "dashboard", "srlm.tracking.dashboard", "Create the W&B workspace of the project, with panels for every metric"
    ),
)
BY_NAME = {command.name: command for command in COMMANDS}
