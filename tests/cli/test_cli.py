"""The command `srlm`: help, completion, and hints for mistyped names; nothing here runs a job."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from omegaconf import OmegaConf

from srlm import config
from srlm.__main__ import main
from srlm.cli import schemas  # noqa: F401  (registers the dataclasses with Hydra)
from srlm.cli.application import folders_of
from srlm.cli.commands import BY_NAME, COMMANDS, Command
from srlm.cli.completion import SCRIPTS, complete
from srlm.cli.help import chosen_groups, command_help, conf_folder, default_of, groups
from srlm.cli.overrides import (
    foreign_group,
    option_names,
    unknown_choice,
    unknown_option,
    with_free_keys,
    with_short_job_names,
    with_texts,
)
from srlm.training.by_model import for_default_run
from tests.helpers import ROOT

OF_OPTIONS = [command for command in COMMANDS if command.config]


def composed(command: Command, *overrides: str) -> Any:
    """Return the options of a command composed from its yaml files and overrides."""
    assert command.config
    name, _ = command.config
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return OmegaConf.to_object(compose(name, overrides=list(overrides)))


@pytest.mark.parametrize("command", OF_OPTIONS, ids=lambda command: command.name)
def test_help_shows_the_defaults_that_hydra_composes(command: Command) -> None:
    options = for_default_run(composed(command))
    for name, _ in command.options:
        shown = default_of(command, name)
        if name in chosen_groups(command):
            assert shown == "" or shown in groups()[name]
            continue
        value = options
        for part in name.split("."):
            value = getattr(value, part)
        value = getattr(value, "name", value)
        assert shown == (f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value))
        assert f"{name}={shown}" in command_help(command)


EXAMPLES = [(command, words) for command in OF_OPTIONS for words, _ in command.examples]


@pytest.mark.parametrize(("command", "words"), EXAMPLES, ids=[f"{c.name} {w}" for c, w in EXAMPLES])
def test_examples_of_commands_compose(command: Command, words: str, tmp_path: Path) -> None:
    assert command.config
    given = shlex.split(words.replace("my_conf", str(tmp_path)))
    (tmp_path / "experiment").mkdir()
    assert unknown_option(given, getattr(config, command.config[1]), folders_of(given)) is None
    overrides = [word for word in given if "=" in word and not word.startswith("-")]
    if "-m" not in given and "--config-dir" not in given:
        composed(command, *overrides)


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (["judge.cuont=3"], "judge.count"),
        (["jugde=additive"], "judge"),
        (["+sft.learning_rat=1"], "sft.learning_rate"),
        (["++dpo.lora.rr=1"], "dpo.lora.r"),
        (
            ["learning_rate=1"],
            "sft.learning_rate or reward_model.learning_rate or dpo.learning_rate or kto.learning_rate",
        ),
        (["min_net_win=0.1"], "dpo.early_stopping.min_net_win or kto.early_stopping.min_net_win"),
        (["~prompts.cuont"], "prompts.count"),
        (["iteration=2", "nmae=x"], "name"),
    ],
)
def test_mistyped_options_get_a_suggestion(words: list[str], near: str) -> None:
    message = unknown_option(words, config.Config)
    assert message
    assert f"Did you mean {near}?" in message
    assert "--cfg job" in message


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("datasets=[attacks]", "There is no option datasets. It is an option of srlm judge-bench. To"),
        ("suite=[loss]", "There is no option suite. It is an option of srlm evaluate, srlm side-by-side. To"),
    ],
)
def test_options_of_other_commands_are_named(word: str, message: str) -> None:
    assert message in (unknown_option([word], config.Config) or "")


def test_options_similar_to_none_get_no_suggestion() -> None:
    message = unknown_option(["qqqqq=1"], config.Config)
    assert message
    assert "There is no option qqqqq. To list all options" in message


@pytest.mark.parametrize(
    "word",
    [
        *("iteration=3", "judge=additive", "experiment=[smoke,one_gpu]", "data.ift.columns.prompt=question", "-m"),
        *("+model.chat_template_kwargs.enable_thinking=false", "hydra.searchpath=[file:///x]", "hydra/launcher=slurm"),
        *("--config-name", "config", "dpo.lora={r: 8}", "seed=1,2,3", "dpo.early_stopping.source.path=x.jsonl"),
    ],
)
def test_words_accepted_by_hydra_are_not_refused(word: str) -> None:
    assert unknown_option([word], config.Config) is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["judge=logprb"], "There is no judge=logprb. Did you mean judge=logprob? There are additive, "),
        (["model=smollm"], "There is no model=smollm. Did you mean model=smollm2_135m_instruct? There are "),
        (["experiment=[smoke,one_gqu]"], "There is no experiment=one_gqu. Did you mean experiment=one_gpu? There are "),
        (["judge=pairwise,aditive"], "There is no judge=aditive. Did you mean judge=additive? There are "),
        (["engine=qqq"], "There is no engine=qqq. There are transformers, vllm."),
    ],
)
def test_mistyped_choices_of_a_group_get_a_suggestion(words: list[str], message: str) -> None:
    assert (unknown_choice(words) or "").startswith(message)


@pytest.mark.parametrize(
    "word",
    ["judge=my.module:Judge", "experiment=[smoke,one_gpu]", "judge=pairwise,additive", "seed=1"],
)
def test_existing_choices_are_accepted(word: str) -> None:
    assert unknown_choice([word]) is None


def test_choices_in_the_users_folder_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "judge").mkdir()
    (tmp_path / "judge" / "mine.yaml").touch()
    assert unknown_choice(["judge=mine"], [tmp_path]) is None
    assert "mine" in str(unknown_choice(["judge=mime"], [tmp_path]))


@pytest.mark.parametrize(
    ("command", "word", "message"),
    [
        ("evaluate", "judge=logprob", "srlm evaluate has no judge=NAME; .* Did you mean evaluation.judge\\?"),
        ("evaluate", "sft=full", "srlm evaluate has no sft=NAME; .* Single options can be set: sft.OPTION=VALUE."),
        ("judge-bench", "experiment=smoke", "srlm judge-bench has no experiment=NAME; it has model=NAME and .*NAME."),
    ],
)
def test_groups_of_other_commands_are_refused(command: str, word: str, message: str) -> None:
    assert re.fullmatch(message, foreign_group([word], BY_NAME[command]) or "")


def test_every_command_accepts_its_own_groups() -> None:
    for command in COMMANDS:
        if command.config:
            assert foreign_group([f"{group}=x" for group in chosen_groups(command)], command) is None


def test_config_groups_in_the_users_folder_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    for words in (["--config-dir", str(tmp_path)], [f"--config-dir={tmp_path}"], [f"hydra.searchpath=[{tmp_path}]"]):
        assert unknown_option([*words, "+cluster=mine"], config.Config, folders_of(words)) is None
    assert unknown_option(["+cluster=mine"], config.Config)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        (
            "model.chat_template_kwargs={enable_thinking: false}",
            "++model.chat_template_kwargs={enable_thinking: false}",
        ),
        ("model.chat_template_kwargs.enable_thinking=false", "++model.chat_template_kwargs.enable_thinking=false"),
        ("+data.ift.columns.prompt=question", "+data.ift.columns.prompt=question"),
        ("judge.count=3", "judge.count=3"),
        ("model.chat_template=chatml", "model.chat_template=chatml"),
        ("--config-dir", "--config-dir"),
    ],
)
def test_keys_of_mapping_options_need_no_plus(word: str, expected: str) -> None:
    assert with_free_keys([word], config.Config) == [expected]


def test_mapping_options_compose() -> None:
    words = ["model.chat_template_kwargs={enable_thinking: false}", "data.ift.columns.prompt=question"]
    words.append("data.eft.columns={prompt: question, responses: answers}")
    options = composed(BY_NAME["run"], *with_free_keys(words, config.Config))
    assert options.model.chat_template_kwargs == {"enable_thinking": False}
    assert options.data.ift.columns == {"prompt": "question"}
    assert options.data.eft.columns == {"prompt": "question", "responses": "answers"}


@pytest.mark.parametrize(
    "value",
    [
        *("2026_11_28", "1e3", "2e51234", "0x10", "5", "-1", "true", "inf", "nan", "010", "plain", "a b", "a:b", ""),
        *(
            "/data/café/x.jsonl",
            "データ/x.jsonl",
            "~/x.jsonl",
            "runs/lab-seed=1/model",
            "a#b (1)",
            "a[1]",
            "a&b;c!",
            "hub:a/b:c@d[train[:10%]]",
        ),
    ],
)
def test_text_options_keep_the_typed_value(value: str) -> None:
    words = [f"name={value}", f"model.revision={value}", f"+data.ift.columns.prompt={value}"]
    options = composed(BY_NAME["run"], *with_free_keys(with_texts(words, config.Config), config.Config))
    assert (options.name, options.model.revision, options.data.ift.columns["prompt"]) == (value, value, value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("[runs/lab-seed=1/model, 2e51234]", ["runs/lab-seed=1/model", "2e51234"]),
        ("[~/modèle]", ["~/modèle"]),
        ("['a,b', c]", ["a,b", "c"]),
        ("[hub:a/b[test], hub:c/d:main@v1[train[:10]],x=1]", ["hub:a/b[test]", "hub:c/d:main@v1[train[:10]]", "x=1"]),
        ("[]", []),
    ],
)
def test_list_options_keep_the_typed_texts(value: str, expected: list[str]) -> None:
    words = with_texts([f"models={value}"], config.Evaluate)
    assert composed(BY_NAME["evaluate"], *words).models == expected


def test_values_of_a_sweep_keep_the_typed_text() -> None:
    [word] = with_texts(["name=1e3,true,a b,é"], config.Config)
    override = OverridesParser.create().parse_override(word)
    assert [one.text if isinstance(one, QuotedString) else one for one in override.value().list] == [
        *("1e3", "true", "a b", "é"),
    ]


@pytest.mark.parametrize(
    "word",
    [
        *("name=a,b", "name=range(1,3)", "name='1e3'", "name=a\\,b", "runs_dir=${oc.env:HOME}/runs"),
        *("iteration=3", "sft.learning_rate=1e-3", "judge=pairwise", "prompts.languages=[en,de]", "seed=1,2"),
        *("model.chat_template_kwargs.enable_thinking=false", "hydra.run.dir=a=b", "--config-dir=a=b", "-m"),
    ],
)
def test_other_values_and_hydra_syntax_are_unchanged(word: str) -> None:
    assert with_texts([word], config.Config) == [word]


def test_options_of_all_commands_are_accepted() -> None:
    for command in OF_OPTIONS:
        assert command.config
        kind = getattr(config, command.config[1])
        assert unknown_option([f"{name}=1" for name in option_names(kind)], kind) is None


@pytest.mark.parametrize(
    ("line", "some"),
    [
        ("srlm ", ["run", "judge-bench", "completion"]),
        ("srlm ju", ["judge-bench"]),
        ("srlm completion ", ["bash", "zsh", "fish"]),
        ("srlm run judge=v", ["judge=verdict_only"]),
        ("srlm run judge=", [f"judge={name}" for name in groups()["judge"]]),
        ("srlm run iteration=3 sft.lora.la", ["sft.lora.last_n_layers="]),
        ("srlm show-masking cou", ["count="]),
        ("srlm report runs/", []),
        ("srlm nothing ", []),
    ],
)
def test_completion_suggests_commands_options_and_groups(line: str, some: list[str]) -> None:
    found = complete(line)
    assert set(some) <= set(found)
    assert all(word.startswith(line.split(" ")[-1]) for word in found)
    if not some:
        assert found == []


def test_bash_completes_after_the_equals_sign() -> None:
    """Bash treats "=" as a word break and replaces only the text after it."""
    script = SCRIPTS["bash"].replace("srlm --complete", f"{sys.executable} -m srlm --complete")
    for line, expected in (("srlm run judge=verd", ["verdict_only"]), ("srlm judge", ["judge-bench"])):
        code = f'{script}\nCOMP_LINE="{line}"; COMP_POINT=${{#COMP_LINE}}\n_srlm\nprintf "%s\\n" "${{COMPREPLY[@]}}"'
        ran = subprocess.run(["bash", "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
        assert ran.stdout.split() == expected


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in BY_NAME)
    assert main([]) == 2


@pytest.mark.parametrize(("name", "near"), [("rnu", "run"), ("judge_bnch", "judge-bench"), ("xyz", "")])
def test_unknown_commands_get_a_suggestion(name: str, near: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name]) == 2
    text = capsys.readouterr().err
    assert f"There is no command {name}." in text
    assert (f"Did you mean {near}?" in text) == bool(near)


def test_version_option_prints_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    from srlm import __version__

    main(["--version"])
    assert capsys.readouterr().out.strip() == __version__


@pytest.mark.parametrize("words", ["--help", "run --help", "evaluate -h", "--complete 'srlm run ju'", "completion zsh"])
def test_help_and_completion_import_no_large_package(words: str) -> None:
    code = (
        f"import sys; from srlm.__main__ import main; main({shlex.split(words)!r})\n"
        "heavy = {'torch', 'transformers', 'trl', 'vllm', 'wandb', 'datasets', 'scipy', 'numpy', 'matplotlib',"
        "'hydra', 'omegaconf'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.process
@pytest.mark.parametrize("name", list(BY_NAME))
def test_every_command_prints_its_help(name: str) -> None:
    ran = subprocess.run([sys.executable, "-m", "srlm", name, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "usage: srlm " + name in ran.stdout


@pytest.mark.process
def test_help_with_a_closed_pipe_exits_without_error() -> None:
    command = f"{sys.executable} -m srlm run --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "excluded"),
    [
        (["-m", "seed=1,2", "engine=transformers", "++data.ift.columns.a=b"], ["engine", "data.ift.columns.a"]),
        (["--multirun", "judge=pairwise,logprob", "hydra/launcher=basic", "hydra.verbose=false"], []),
        (["-m", "dpo.beta=choice(0.1,0.3)", "~evaluation", "seed=7"], ["evaluation", "seed"]),
    ],
)
def test_names_of_jobs_have_swept_options_only(words: list[str], excluded: list[str]) -> None:
    names = ",".join(["name", "iteration", "runs_dir", "experiment", *excluded])
    added = f"hydra.job.config.override_dirname.exclude_keys=[{names}]"
    found = with_short_job_names(words)
    assert [word for word in found if word != added] == words
    assert found[1] == added
    assert with_short_job_names([*words[1:], words[0]])[0] == added


@pytest.mark.parametrize("words", [["seed=1"], ["-m", "seed=1,2", "name=a b=c"]])
def test_words_of_single_runs_and_wrong_words_are_unchanged(words: list[str]) -> None:
    assert with_short_job_names(words) == words
