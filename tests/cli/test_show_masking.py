"""srlm show-masking: examples as runs of tokens, on the terminal and in a page without active content."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import io
import itertools
import json
import random
import re
from pathlib import Path
from typing import Any

import hydra
import pytest
from rich.console import Console

from srlm.cli.show_masking import main as command
from srlm.cli.show_masking.examples import Example, examples_of, rows_of, share, shown, visible
from srlm.cli.show_masking.main import legend, render, show
from srlm.config import Config, ShowMasking
from srlm.data.prepare import PrepareData
from srlm.errors import ConfigError, SeedError, TrainingError
from srlm.generation.eft import BuildEFT
from srlm.judges import spec_of
from srlm.models.chat_template import load_tokenizer
from srlm.pipeline.workspace import Workspace
from srlm.run import plain_options
from srlm.training.masking import IGNORED
from srlm.training.methods.sft import TrainOn
from srlm.training.stages import TrainSFT
from srlm.types import SeedExample
from tests.helpers import ROOT, on_cpu, run_step, tiny_tokenizer

HOSTILE = '</pre><script>alert("x")</script> \x1b[31mred \u202eback <|im_end|>'


def options_of(*overrides: str) -> ShowMasking:
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        composed = hydra.compose("show_masking", ["~experiment", *overrides])
        found = on_cpu(plain_options(composed, ShowMasking))
    assert isinstance(found, ShowMasking)
    return found


def examples_with(options: ShowMasking, tokenizer: Any = None) -> dict[str, list[Example]]:
    return examples_of(tokenizer or tiny_tokenizer(), rows_of(options), options)[0]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [
        {"prompt": HOSTILE, "responses": [f"{HOSTILE} 天🙂", "No\x07."], "ranks": [0, 1]},
        {"prompt": "Why is the sky blue?", "responses": ["It\nis.", "Dunno"], "ranks": [0, 1]},
    ]
    path = tmp_path / "ranked.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("train_on", TrainOn, ids=lambda choice: choice.name)
def test_runs_contain_all_tokens_with_their_weights(train_on: TrainOn, data: Path) -> None:
    options = options_of(f"dataset={data}", f"sft.train_on={train_on.name}", "sft.prompt_weight=0.25")
    found = examples_with(options)
    assert {kind: len(of_kind) for kind, of_kind in found.items()} == {"ift": 2, "eft": 4}
    for each in (each for of_kind in found.values() for each in of_kind):
        conversation = each.conversation
        example = shown("one", each)
        tokens = [token for run in example.runs for token in run.tokens]
        assert [token.weight for token in tokens] == each.weights
        assert [token.id for token in tokens] == conversation.ids
        assert "".join(token.text for token in tokens) == visible(conversation.text)
        kinds = {(run.kind, token.weight) for run in example.runs for token in run.tokens}
        assert kinds <= {("learnt", 1.0), ("partly", 0.25), ("masked", 0.0), ("boilerplate", 0.0)}
        assert (("partly", 0.25) in kinds) == (train_on is TrainOn.weighted)
        assert example.share.weight == pytest.approx(sum(token.weight for token in tokens))
        assert all(one.kind != two.kind for one, two in zip(example.runs, example.runs[1:], strict=False))
    rubric = share("EFT", found["eft"])
    assert (rubric.boilerplate > 0) == (train_on in (TrainOn.completion, TrainOn.no_shared_text))


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("plain 天🙂 é", "plain 天🙂 é"),
        ("a\nb", "a↵\nb"),
        ("\x1b[31m\x07\r\t", "\\x1b[31m\\x07\\x0d\\x09"),
        ("\u202e\u2066\ufeff\ud800", "\\u202e\\u2066\\ufeff\\ud800"),
    ],
)
def test_control_characters_are_shown_as_escapes(text: str, seen: str) -> None:
    assert visible(text) == seen


def test_without_colour_brackets_mark_trained_tokens(data: Path) -> None:
    options = options_of(f"dataset={data}", "sft.train_on=no_shared_text")
    found = examples_with(options)
    examples = [shown("IFT 2", found["ift"][1]), shown("EFT 1", found["eft"][0])]
    out = io.StringIO()
    show(examples, [share("IFT", found["ift"])], "Title", 0.0, Console(file=out, width=100))
    printed = out.getvalue()
    assert "⟦learnt, weight 1⟧" in printed
    assert "in part" not in printed
    assert "user↵\n⟦Why is the sky blue?⟧<|im_end|>↵\n<|im_start|>assistant↵\n⟦It↵\nis.<|im_end|>⟧" in printed
    assert "⟨Rate the response to the instruction." in printed
    assert "All 2 IFT examples: " in printed
    assert all(c.isprintable() or c == "\n" for c in printed)


def test_the_page_escapes_all_texts(data: Path) -> None:
    options = options_of(f"dataset={data}", "sft.train_on=all")
    found = examples_with(options)
    examples = [shown(HOSTILE, example) for example in found["eft"]]
    page = render(examples, [share("EFT", found["eft"])], HOSTILE, 0.0, {"data": HOSTILE})
    assert "<script" not in page
    assert "<img" not in page
    assert page.count("</pre>") == len(examples)
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]+)"', page)
    [style] = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert html.unescape(policy) == (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    assert " style=" not in page  # the policy forbids inline styles
    assert "http" not in page.replace("http-equiv", "")
    for kind, *_ in legend(0.5):
        assert f".{kind} {{" in style


def test_the_command_writes_the_page(tiny_checkpoint: Path, data: Path, tmp_path: Path, capfd) -> None:
    options = options_of(f"model.name={tiny_checkpoint}", f"dataset={data}", f"runs_dir={tmp_path}", "count=2")
    path = command.run(options)
    assert path == tmp_path / "show_masking" / "masking.html"
    assert path.read_text(encoding="utf-8").count("<h2>") == 5  # two per kind, and the options
    printed = capfd.readouterr().err
    assert "EFT 2: " in printed
    assert str(path) in printed


def test_data_without_ranks_give_no_eft_examples(tmp_path: Path, capfd) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"prompt": "Hi?", "response": "Hello."}) + "\n", encoding="utf-8")
    assert [type(row) for row in rows_of(options_of(f"dataset={path}"))] == [SeedExample]
    output = capfd.readouterr().err.strip()
    assert output.endswith("pairs.jsonl is shown as IFT data. It has no ranked answers, so it gives no EFT examples.")
    assert "format" not in output


def test_invalid_options_and_files_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="count=0 is invalid"):
        command.run(options_of("count=0"))
    with pytest.raises(SeedError):
        rows_of(options_of(f"dataset={tmp_path / 'none.jsonl'}"))
    options = options_of(f"dataset={data}", "sft.max_length=16")
    with pytest.raises(TrainingError, match=r"longer than sft\.max_length=16"):
        examples_with(options)


def test_templates_that_change_texts_mask_the_prompts(data: Path) -> None:
    options = options_of(f"dataset={data}")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace("message['content']", "message['content'] | upper")
    shown_as = shown("IFT", examples_with(options, tokenizer)["ift"][1])
    assert [(run.kind, "".join(token.text for token in run.tokens)) for run in shown_as.runs] == [
        ("masked", "<|im_start|>user↵\nWHY IS THE SKY BLUE?<|im_end|>↵\n<|im_start|>assistant↵\n"),
        ("learnt", "It↵\nis.<|im_end|>"),  # the answer is trained unchanged
    ]


# The shown examples are those of training


class Stop(Exception):
    """Raised instead of training, with the trainer's dataset."""


def trained_on(options: ShowMasking, tiny_checkpoint: Path, folder: Path, monkeypatch: Any) -> list[dict[str, Any]]:
    """Return the rows of the dataset that a run with these options passes to TRL's trainer."""
    import trl

    fields = {field.name: getattr(options, field.name) for field in dataclasses.fields(Config)}
    config = Config(**fields | {"name": "run", "runs_dir": str(folder)})
    workspace = Workspace.of(config)
    workspace.save_config(config)
    workspace.iteration(0).mkdir(parents=True)
    workspace.update_run(base_model=str(tiny_checkpoint))
    run_step(PrepareData(workspace, config))
    run_step(BuildEFT(workspace, config, 1))

    class Trainer:
        def __init__(self, *_: Any, train_dataset: Any, **__: Any) -> None:
            raise Stop(train_dataset)

    monkeypatch.setattr(trl, "SFTTrainer", Trainer)
    with pytest.raises(Stop) as stopped:
        TrainSFT(workspace, workspace.config(), 1).work()
    return list(stopped.value.args[0])


def examples_in(row: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Return ids and weights of each example in a trainer's row, which contains several with packing."""
    weights = row.get("weights") or [float(label != IGNORED) for label in row["labels"]]
    ends = list(itertools.accumulate(row.get("seq_lengths") or [len(weights)]))
    cuts = list(zip([0, *ends], ends, strict=False))
    return [(tuple(row["input_ids"][start:end]), tuple(weights[start:end])) for start, end in cuts]


@pytest.fixture
def sources(tmp_path: Path) -> list[str]:
    """Return options with 12 ranked prompts as IFT and 16 as EFT, two of them equal, some Chinese, some long."""
    words = [f"word{number}" for number in range(20)]

    def row(number: int) -> dict[str, Any]:
        draw = random.Random(number)
        prompt = f"Tell {' '.join(draw.sample(words, 5))} number {number}"
        lengths = (9, 5, 3) if number % 2 else (3, 5, 9)  # the best answer alternates between longest and shortest
        answers = [
            f"{name} {' '.join(draw.choices(words, k=length))}" for name, length in zip("ABC", lengths, strict=True)
        ]
        answers = answers[: 2 if number % 4 == 0 else 3]
        return {"prompt": prompt, "responses": answers, "language": "zh" if number % 3 == 0 else "en"}

    for name, numbers in {"ift": range(12), "eft": range(10, 26)}.items():
        rows = [row(number) for number in numbers]
        rows[0]["responses"][0] += " and so on" * 60
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    given = [f"data.{name}.path={tmp_path / name}.jsonl" for name in ("ift", "eft")]
    return ["data=files", *given, "data.near_duplicate=0.95", "sft.max_length=2048", "sft.lora.enabled=false"]


CHOICES = {
    "the options of a run by default": [],
    "the worst answers": ["data.ift_answers=worst"],
    "all answers": ["data.ift_answers=all"],
    "limits": ["data.ift.limit=5", "data.eft.limit=9", "data.eft_limit=6"],
    "another seed": ["data.ift.limit=5", "seed=7", "data.eft_held_out=0.5"],
    "languages": ["data.ift.languages=[zh]", "data.eft.languages=[en]"],
    "long examples left out": ["sft.max_length=400"],
    "near-duplicates left out": ["data.near_duplicate=0.6"],
    "scores evened out": ["data.eft_max_score_fraction=0.4"],
    "lengths evened out": ["data.eft_length_balance=true"],
    "prompts learnt": ["sft.train_on=all"],
    "prompts learnt in part": ["sft.train_on=weighted", "sft.prompt_weight=0.25"],
    "no boilerplate": ["sft.train_on=no_shared_text"],
    "boilerplate by a pattern": ["sft.train_on=no_shared_text", "sft.shared_text=Tell"],
    "packing": ["sft.packing=true"],
    "packing with weights": ["sft.packing=true", "sft.train_on=weighted"],
    "EFT by order": ["sft.eft_loss=ranking", "data.eft_max_score_fraction=1"],
    "a judge of pairs": ["judge=pairwise"],
    "a judge that SFT does not teach": ["judge=implicit"],
    "another rubric": ["judge=additive"],
    "another chat template": ["model.chat_template=chatml"],
}


@pytest.mark.parametrize("choice", CHOICES)
def test_shown_examples_equal_those_of_the_trainer(
    choice: str, sources: list[str], tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [f"model.name={tiny_checkpoint}", *sources, "data.rationales=none", *CHOICES[choice]]
    options = options_of(*given)
    found, _ = examples_of(load_tokenizer(tiny_checkpoint, options.model), rows_of(options), options)
    rows = trained_on(options, tiny_checkpoint, tmp_path, monkeypatch)
    trained = [example for row in rows for example in examples_in(row)]
    ours = [(tuple(each.conversation.ids), tuple(each.weights)) for of_kind in found.values() for each in of_kind]
    if options.sft.packing:
        assert len(rows) < len(trained)
        trained, ours = sorted(trained), sorted(ours)
    assert ours == trained
    assert len(found["ift"]) > 1
    assert ("eft" in found) == spec_of(options.judge).eft_in_sft
    runs = [shown("one", each).runs for of_kind in found.values() for each in of_kind]
    seen = [[(token.id, token.weight) for run in of_one for token in run.tokens] for of_one in runs]
    pairs = [list(zip(*each, strict=True)) for each in ours]
    assert sorted(seen) == sorted(pairs)


@pytest.mark.variant
def test_each_option_changes_the_examples(sources: list[str]) -> None:
    """This shows that the test above can fail."""
    tokenizer = tiny_tokenizer()

    def of(*given: str) -> Any:
        options = options_of(*sources, "data.rationales=none", *given)
        found, data = examples_of(tokenizer, rows_of(options), options)
        return [(each.conversation.ids, each.weights) for kind in found.values() for each in kind], data.columns.keys()

    default = of()
    same = {"the options of a run by default", "another chat template"}
    assert [choice for choice, given in CHOICES.items() if choice not in same and of(*given) == default] == []


def test_one_file_gives_ift_and_eft_examples(data: Path) -> None:
    worst = examples_with(options_of(f"dataset={data}", "data.ift_answers=worst"))
    assert [each.conversation.text.count("Dunno") for each in worst["ift"]] == [0, 1]
    one = examples_with(options_of(f"dataset={data}", "data.ift_answers=all", "data.eft.limit=1"))
    assert {kind: len(of_kind) for kind, of_kind in one.items()} == {"ift": 4, "eft": 2}
    assert len(examples_with(options_of("data=files", f"dataset={data}", "data.ift.limit=1"))["ift"]) == 1
    with pytest.raises(ConfigError, match=r"data\.ift_answers"):
        options_of("dataset=builtin", "data.ift_answers=worst")


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml")))
def test_options_of_every_experiment_are_accepted(name: str) -> None:
    options = options_of(f"experiment={name}", "data.ift.path=a.jsonl", "data.eft.path=b.jsonl")
    assert options.name == "show_masking"  # not the experiment's run name


def test_the_number_of_packed_rows_is_printed(tiny_checkpoint: Path, sources: list[str], tmp_path: Path, capfd) -> None:
    given = [f"model.name={tiny_checkpoint}", f"runs_dir={tmp_path}", *sources, "data.rationales=none"]
    command.run(options_of(*given, "sft.packing=true", "sft.max_length=4096"))
    printed = capfd.readouterr().err
    assert re.search(r"sft\.packing: \d+ examples in \d+ rows of at most 4096 tokens", printed)
    assert "ift.jsonl: 12 read, 0 left out" in printed


def test_own_eft_answers_are_not_shown(capfd: pytest.CaptureFixture[str]) -> None:
    """A model writes them during the run; IFT is that of the run, without prompts near the EFT prompts."""
    given = ("data.eft.path=facts:eft", "data.own_answers.labels=checkers", "data.ift.limit=20")
    rows = rows_of(options_of(*given))
    assert rows
    assert {type(row) for row in rows} == {SeedExample}
    assert "EFT examples are not shown, because a model writes their answers" in capfd.readouterr().err
