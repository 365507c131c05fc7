"""Tokenizer loading and chat template preparation, so that training, generation and external tools use the same text.

A template is prepared once, when the tokenizer is loaded. Training saves the prepared template with the model, so that
vLLM, transformers and lm-evaluation-harness use the same template as this package:

- Variables from `model.chat_template_kwargs` become defaults inside the template.
- `strftime_now(...)` is replaced with the fixed date `model.template_date`, so that prompts do not depend on the day.
- Packaged templates begin with the BOS token if the tokenizer adds one to ordinary text.
- Some templates write text before an answer only if the answer is given (Vicuna's role, gpt-oss's channel). The
  prepared template also writes it in the generation prompt. Thoughts are the exception: they belong to the reply
  (`srlm.models.chat`).
- The EOS token becomes the token that ends a turn. The model's previous EOS token still stops generation.

Templates that have no system role get the system prompt as the beginning of the first user's text
(`srlm.models.chat.fit_roles`).
"""

from __future__ import annotations

import json
import re
import traceback
from collections.abc import Mapping, Sequence
from datetime import date
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srlm.errors import ModelError
from srlm.io.files import write_atomic
from srlm.models.config import ModelConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]  # {"role": "user", "content": "..."}
_DATE = re.compile(r"strftime_now\s*\(\s*(?P<quote>[\"'])(?P<format>[^\"']*)(?P=quote)\s*\)")
# Marks that must be a single token. "[INST]" is excluded, because Llama 2 writes it as ordinary text.
_MARK = re.compile(r"<\|[^<>|\s]{1,60}\|>|<｜[^<>｜\s]{1,60}｜>|</?(?:start|end)_of_[a-z_]{1,40}>|</?s>")
_TOKEN_MARK = re.compile(rf"{_MARK.pattern}|\[/?[A-Z_]{{3,}}\]")  # also "[INST]", if the tokenizer has this token
_RESERVED = re.compile(r"messages|add_generation_prompt|\w+_token")  # transformers always sets these
_PREVIOUS_EOS = "previous_eos"  # a base model's EOS token before it was replaced with the end-of-turn token
QUESTION_MARK, ANSWER_MARK = "§0§", "§1§"  # texts that no template writes, and that upper-casing does not change
_TAG = r"([\w:]*(?:think|thought|reason)[\w:]*)"
_OPENED = re.compile(rf"<{_TAG}>\s*\Z")  # a thought that the template opens, such as DeepSeek-R1's "<think>\n"
_THOUGHT = re.compile(rf"\s*</?{_TAG}>")  # the start of a thought before an answer, or the end of an open thought


def load_tokenizer(folder: Path, options: ModelConfig | None = None) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a checkpoint with a prepared chat template, an EOS token that ends turns, and padding.

    Parameters
    ----------
    folder : Path
        A checkpoint.
    options : ModelConfig, optional
        `chat_template` replaces the model's template; "" keeps it. None = defaults of all options.

    Raises
    ------
    ModelError
        If the tokenizer cannot be loaded, has no chat template, or the template does not fit the tokenizer.
    """
    from transformers import AutoTokenizer

    options = options or ModelConfig()
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=options.trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"The tokenizer of {folder} cannot be loaded: {error}") from error
    return prepare_loaded(tokenizer, folder, options)


def prepare_loaded(tokenizer: Any, source: Path, options: ModelConfig) -> Any:
    """Return a tokenizer with the chat template that `options` names or its own, prepared as `load_tokenizer` does.

    Parameters
    ----------
    source : Path
        The folder or the GGUF file that the tokenizer was loaded from, for messages.
    """
    if options.chat_template:
        tokenizer.chat_template = read_chat_template(options.chat_template)
    if isinstance(tokenizer.chat_template, dict):  # several named templates, as in Command R
        tokenizer.chat_template = tokenizer.chat_template.get("default")
    if not tokenizer.chat_template:
        raise ModelError(
            f"The model in {source} has no chat template. Set one: model.chat_template=chatml "
            f"(available: {', '.join(chat_template_names())}) or the path of a .jinja file."
        )
    prepare(tokenizer, options)
    return tokenizer


def prepare(tokenizer: Any, options: ModelConfig) -> None:
    """Change a tokenizer's chat template, EOS token and padding token as described in the module's docstring.

    Raises
    ------
    ModelError
        If the template does not render, drops the user's text, or writes marks that the tokenizer would split.
    """
    name = tokenizer.srlm_chat_template = options.chat_template
    template = _fix_date(tokenizer.chat_template, options.template_date)
    template = _with_defaults(template, options.chat_template_kwargs)
    if name in chat_template_names() and adds_bos(tokenizer):
        template = "{{ bos_token }}" + template
    tokenizer.chat_template = template
    special = [mark for mark in (options.thought_start, options.thought_end) if mark in tokenizer.all_special_tokens]
    if special and options.thought_end:
        raise ModelError(
            f"{special[0]} is a special token of this model, so it is not in generated text, and thoughts cannot "
            'be split from answers. Set model.thought_end="" if the model does not think, or make it an ordinary token.'
        )
    question: list[Message] = [{"role": "user", "content": QUESTION_MARK}]
    asked, answered = render(tokenizer, question, True), render(tokenizer, [*question, _answer(ANSWER_MARK)], False)
    if QUESTION_MARK not in asked or ANSWER_MARK not in answered:
        missing = "user" if QUESTION_MARK not in asked else "assistant"
        raise ModelError(
            f"The chat template{_named(name)} drops the text of {missing} messages, so the model would not get it. "
            "Use another template, such as model.chat_template=chatml or plain."
        )
    lead, closing = around_answer(tokenizer, question, asked)
    # Role marks of the model's own template may be ordinary text (Zephyr): the model was trained with them.
    _refuse_split_marks(tokenizer, f"{asked} {answered}" if name else closing, name)
    thought = _THOUGHT.match(lead) or (options.thought_start and lead.lstrip().startswith(options.thought_start))
    if lead.strip() and (not thought or asked == render(tokenizer, question, False)):
        role = lead.rstrip(" ")  # a space before the answer belongs to the answer, as in Llama 2
        text = tokenizer.chat_template.removesuffix("\n")  # Jinja ignores one newline at the end of a template
        tokenizer.chat_template = text + "{% if add_generation_prompt %}{{ " + _literal(role) + " }}{% endif %}"
    _end_turns_with(tokenizer, _end_of_turn(tokenizer, closing, name))


def render(tokenizer: Any, messages: Sequence[Message], add_generation_prompt: bool) -> str:
    """Return the text of a chat, rendered with the chat template.

    Raises
    ------
    ModelError
        If the template has an error, or rejects these messages.
    """
    from jinja2 import TemplateError, TemplateSyntaxError

    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt))
    except TemplateSyntaxError as error:
        problem = str(error.message).rstrip(".")
        raise ModelError(
            f"The chat template {_source(tokenizer)} has a syntax error in line {error.lineno}: {problem}. Fix it, or "
            "use another template, such as model.chat_template=chatml."
        ) from error
    except (TemplateError, TypeError) as error:
        roles = ", ".join(message["role"] for message in messages)
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<template>"]
        where = f" in line {lines[-1]}" if lines else ""
        raise ModelError(
            f"The chat template {_source(tokenizer)} rejects a chat with the roles {roles}{where}: {error}. Use "
            "another template, such as model.chat_template=chatml."
        ) from error


def around_answer(tokenizer: Any, messages: Sequence[Message], before: str) -> tuple[str, str]:
    """Return the template's text between the prompt `before` and an answer, and its text after the answer.

    The prompt may contain a thought that the chat with an answer does not contain. If the prompt only opens the
    thought, the first text closes it. If the prompt has a complete (empty) thought, the first text is "".

    Raises
    ------
    ModelError
        If the template renders the prompt differently in a chat with an answer.
    """
    chat = render(tokenizer, [*messages, _answer(ANSWER_MARK)], False)
    start, found, closing = chat.rpartition(ANSWER_MARK)
    opened = _OPENED.search(before)
    if start.startswith(before):
        return start[len(before) :], closing
    if opened and start == before[: opened.start()]:
        return f"</{opened[1]}>\n\n", closing
    if opened and start.startswith(before.rstrip()):
        return start[len(before.rstrip()) :], closing  # "</think>", if the prompt has a newline after "<think>"
    if found and before.startswith(start) and messages[-1]["content"].strip() in start:
        return "", closing
    raise ModelError(
        "The chat template renders a prompt differently with and without an answer, so the answer's tokens cannot be "
        "located. Use another template, such as model.chat_template=chatml."
    )


def notes(tokenizer: Any, folder: Path) -> list[str]:
    """Return warnings about a prepared template; usually none."""
    warnings = []
    text = render(tokenizer, [{"role": "user", "content": QUESTION_MARK}], True)
    if adds_bos(tokenizer) and not text.lstrip().startswith(tokenizer.bos_token):
        warnings.append(
            f"the tokenizer begins ordinary text with {tokenizer.bos_token}, but the chat template does not write it. "
            "If the model was not trained that way, begin the template with {{ bos_token }}."
        )
    for token in set(_named_eos(folder)) - {*stop_token_ids(tokenizer, folder)}:
        warnings.append(
            f"config.json or generation_config.json names token {token} ({tokenizer.convert_ids_to_tokens(token)!r}) "
            "as EOS, but it is ordinary text in this tokenizer. Generation does not stop at this token."
        )
    return warnings


def stop_token_ids(tokenizer: Any, folder: Path) -> list[int]:
    """Return the ids of the tokens that end generation: the end of a turn first, then the model's other EOS tokens.

    Other EOS tokens are those in the checkpoint's generation_config.json and config.json, and the tokenizer's previous
    EOS token, because a base model may still end its text with the EOS token of its pretraining. Ordinary tokens are
    excluded: a configuration for another tokenizer may name one (Llama's default, 2).
    """
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if str(token).strip()}
    previous = tokenizer.init_kwargs.get(_PREVIOUS_EOS)
    others = [i for i in _named_eos(folder) if i in added or i in tokenizer.all_special_ids]
    others += [tokenizer.convert_tokens_to_ids(previous)] if previous else []
    return list(dict.fromkeys([tokenizer.eos_token_id, *others]))


def _named_eos(folder: Path) -> list[int]:
    """Return the EOS tokens that a checkpoint's configurations name."""
    named = [_read_json(folder / file).get("eos_token_id") for file in ("generation_config.json", "config.json")]
    return [i for ids in named for i in (ids if isinstance(ids, list) else [ids]) if isinstance(i, int)]


def write_stop_tokens(folder: Path, tokenizer: Any) -> None:
    """Write the stop tokens into a saved checkpoint's config.json and generation_config.json.

    vLLM, transformers and lm-evaluation-harness read them from these files. A checkpoint without generation_config.json
    (a reward model) gets none.
    """
    ids = stop_token_ids(tokenizer, folder)
    for file, value in (("config.json", ids[0]), ("generation_config.json", ids if len(ids) > 1 else ids[0])):
        path = folder / file
        if path.is_file():
            write_atomic(path, json.dumps(_read_json(path) | {"eos_token_id": value}, indent=2) + "\n")


def adds_bos(tokenizer: Any) -> bool:
    """Return whether the tokenizer adds the BOS token at the start of ordinary text."""
    ids = tokenizer("a")["input_ids"]
    return tokenizer.bos_token_id is not None and len(ids) > 1 and ids[0] == tokenizer.bos_token_id


def chat_template_names() -> list[str]:
    """Return the names of the packaged templates."""
    folder = resources.files("srlm.models") / "chat_templates"
    return sorted(file.name.removesuffix(".jinja") for file in folder.iterdir() if file.name.endswith(".jinja"))


def read_chat_template(name: str) -> str:
    """Return the text of a packaged template or of a .jinja file, without a byte order mark.

    Raises
    ------
    ModelError
        If the template does not exist, or the file is not UTF-8.
    """
    if name in chat_template_names():
        return (resources.files("srlm.models") / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")
    path = Path(name).expanduser()
    if not path.is_file():
        raise ModelError(
            f"model.chat_template={name}: neither a packaged template ({', '.join(chat_template_names())}) nor a file."
        )
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ModelError(
            f"model.chat_template={name}: byte {error.start} of the file is not UTF-8. Save the file as UTF-8."
        ) from error


def has_chat_template(folder: Path) -> bool:
    """Return whether a checkpoint's folder has a chat template."""
    files = (folder / "chat_template.jinja", folder / "chat_template.json")
    return any(file.is_file() for file in files) or bool(
        _read_json(folder / "tokenizer_config.json").get("chat_template")
    )


@lru_cache(maxsize=8)
def control_tokens(tokenizer: Any) -> dict[int, str]:
    """Return the tokens that no text may produce, by id: special ones, marks such as <|im_start|>, what ends a turn."""
    added = {i: (str(token), token.special) for i, token in tokenizer.added_tokens_decoder.items()}
    special = {i: text for i, (text, is_special) in added.items() if is_special or _TOKEN_MARK.fullmatch(text)}
    return special | dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))


def _answer(text: str) -> Message:
    return {"role": "assistant", "content": text}


def _source(tokenizer: Any) -> str:
    """Return the name or file of `model.chat_template`, or "of the model NAME" for the model's template."""
    return getattr(tokenizer, "srlm_chat_template", "") or f"of the model {tokenizer.name_or_path}".rstrip()


def _named(name: str) -> str:
    return f" {name}" if name else " of the model"


def _fix_date(template: str, day: str) -> str:
    """Replace calls of `strftime_now` with their result for the day."""
    fixed = _DATE.sub(lambda call: _literal(date.fromisoformat(day).strftime(call["format"])), template)
    # "if strftime_now is defined" is kept. A remaining call computes its format at rendering time.
    if re.search(r"strftime_now\s*\(", fixed):
        raise ModelError(
            "The chat template writes today's date in a format that is not a plain string, so the date cannot be fixed "
            "and prompts would depend on the day. Write a fixed date into a copy of the template, and set "
            "model.chat_template to its path."
        )
    return fixed


def _with_defaults(template: str, variables: Mapping[str, Any]) -> str:
    """Prepend defaults for a template's variables; values that a caller passes have priority."""
    for name in variables:
        if not name.isidentifier() or _RESERVED.fullmatch(name):
            raise ModelError(
                f"model.chat_template_kwargs: {name!r} cannot be set. Use variables of the template, such as "
                "{enable_thinking: false}."
            )

    def unset(name: str) -> str:
        # transformers sets these two to none if a caller does not pass them
        return f"not {name}" if name in ("tools", "documents") else f"{name} is not defined"

    header = "".join(
        f"{{% if {unset(name)} %}}{{% set {name} = {_literal(value)} %}}{{% endif %}}"
        for name, value in sorted(variables.items())
    )
    header += "{{ '' }}" if header else ""  # Jinja would otherwise remove a newline at the template's start
    return template if template.startswith(header) else header + template


def template_variables(options: ModelConfig) -> dict[str, Any]:
    """Return the variables that a server's chat template gets: `model.chat_template_kwargs`, and the date.

    The date is `date_string`, in the form of Llama's templates, the only common ones that write one.
    """
    day = date.fromisoformat(options.template_date).strftime("%d %b %Y")
    return {"date_string": day} | options.chat_template_kwargs


def _literal(value: Any) -> str:
    """Return a plain value (string, number, bool, None, list, dict) as Jinja source: a Python literal."""
    return repr(value)


def _refuse_split_marks(tokenizer: Any, text: str, name: str) -> None:
    """Raise ModelError if `text` contains a mark such as <|im_end|> that is not a single token."""
    split = sorted({mark for mark in _MARK.findall(text) if not _is_token(tokenizer, mark)})
    if split:
        raise ModelError(
            f"The chat template{_named(name)} writes {', '.join(split)}, but the tokenizer has no such "
            f"{'token' if len(split) == 1 else 'tokens'}: the model would learn the marks as text and repeat them in "
            "its answers. Use model.chat_template=plain, which needs no special tokens. Or add the tokens to the "
            "tokenizer, resize the model's embeddings, and train all its weights."
        )


def _is_token(tokenizer: Any, text: str) -> bool:
    """Return whether the tokenizer encodes `text` as a single token."""
    token = tokenizer.convert_tokens_to_ids(text)
    exists = token is not None and token != tokenizer.unk_token_id
    return exists and token in tokenizer(text, add_special_tokens=False)["input_ids"]


def _end_of_turn(tokenizer: Any, closing: str, name: str) -> int:
    """Return the token that ends a turn: the first added or special token after an answer, otherwise EOS."""
    # Added tokens for whitespace (Gemma, GPT-NeoX) do not end a turn.
    ends = {i for i, token in tokenizer.added_tokens_decoder.items() if str(token).strip()} | {
        *tokenizer.all_special_ids
    }
    ids = tokenizer(closing, add_special_tokens=False)["input_ids"]
    end = next((token for token in ids if token in ends), tokenizer.eos_token_id)
    if end is None:
        raise ModelError(
            f"Neither the chat template{_named(name)} nor the tokenizer has a token that ends an answer, so generation "
            "would never stop. Set the tokenizer's eos_token, or use a template with an end-of-turn token."
        )
    return int(end)


def _end_turns_with(tokenizer: Any, end: int) -> None:
    """Make `end` the EOS token; a template that writes `eos_token` keeps writing the previous one."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(end)
    if end != tokenizer.eos_token_id and tokenizer.eos_token:
        tokenizer.init_kwargs[_PREVIOUS_EOS] = tokenizer.eos_token  # saved in tokenizer_config.json
    previous = tokenizer.init_kwargs.get(_PREVIOUS_EOS)
    if previous and re.search(r"\beos_token\b", tokenizer.chat_template):
        header = "{% set eos_token = " + _literal(previous) + " %}{{ '' }}"
        if header not in tokenizer.chat_template:
            tokenizer.chat_template = header + tokenizer.chat_template
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)


def _read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object; an empty one if the file does not exist."""
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content if isinstance(content, dict) else {}
