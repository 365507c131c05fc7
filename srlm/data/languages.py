"""Detection of a text's script, such as Latin or Han, and of languages that clearly are not the wanted ones.

The classifier is py3langid (after Lui and Baldwin, ACL 2012), a naive Bayes model of byte n-grams for 142 languages.
Its probability of a short text is spread over related languages, so the decision compares it with the wanted ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

import regex

# Unicode's names of scripts, and "kana" for hiragana and katakana.
_SCRIPTS = [
    "latin", "han", "kana", "hangul", "cyrillic", "arabic", "devanagari", "greek", "hebrew", "thai", "lao", "khmer",
    "myanmar", "bengali", "gurmukhi", "gujarati", "oriya", "tamil", "telugu", "kannada", "malayalam", "sinhala",
    "tibetan", "georgian", "armenian", "ethiopic", "thaana", "mongolian",
]  # fmt: skip
# ISO 639-1 codes of the languages that use other scripts than Latin.
_SCRIPTS_OF_LANGUAGE = {
    "am": "ethiopic", "ar": "arabic", "as": "bengali", "be": "cyrillic", "bg": "cyrillic", "bn": "bengali",
    "bo": "tibetan", "bs": "latin cyrillic", "dv": "thaana", "dz": "tibetan", "el": "greek", "fa": "arabic",
    "gu": "gujarati", "he": "hebrew", "hi": "devanagari", "hy": "armenian", "ja": "kana han", "ka": "georgian",
    "kk": "cyrillic", "km": "khmer", "kn": "kannada", "ko": "hangul", "ks": "arabic devanagari",
    "ku": "latin arabic", "ky": "cyrillic", "lo": "lao", "mk": "cyrillic", "ml": "malayalam",
    "mn": "cyrillic mongolian", "mr": "devanagari", "my": "myanmar", "ne": "devanagari", "or": "oriya",
    "pa": "gurmukhi arabic", "ps": "arabic", "ru": "cyrillic", "sa": "devanagari", "sd": "arabic devanagari",
    "si": "sinhala", "sr": "cyrillic latin", "ta": "tamil", "te": "telugu", "tg": "cyrillic", "th": "thai",
    "ti": "ethiopic", "tk": "latin cyrillic", "tt": "cyrillic", "ug": "arabic", "uk": "cyrillic", "ur": "arabic",
    "uz": "latin cyrillic", "yi": "hebrew", "zh": "han",
}  # fmt: skip
# The classifier's further labels of what these codes name. A text in one of them is in the language.
_VARIETIES = {
    "ar": ("ary", "arz"), "fr": ("gcf",), "he": ("hbo",), "nb": ("no", "nn"), "nn": ("no", "nb"),
    "no": ("nb", "nn"), "sr": ("bs", "hr"), "hr": ("bs", "sr"), "bs": ("hr", "sr"), "st": ("nso",),
    "uz": ("uzs",), "zh": ("wuu", "yue"),
}  # fmt: skip
_LEAST, _RATIO = 0.3, 10.0  # another language has this probability, and this many times that of the wanted ones
_KANA = 0.1  # minimum fraction of kana among kana and Han letters of a Japanese text


def _letters_of(script: str) -> str:
    """Return a pattern that matches runs of a script's letters, as a group with the script's name."""
    names = ("hiragana", "katakana") if script == "kana" else (script,)
    characters = "".join(rf"\p{{Script_Extensions={name}}}" for name in names)
    return rf"(?P<{script}>[[{characters}]&&\p{{L}}]+)"


_LETTERS = regex.compile("(?V1)" + "|".join(map(_letters_of, _SCRIPTS)))


def in_languages(text: str, languages: Sequence[str]) -> bool:
    """Return whether a text may be in one of the languages (ISO 639-1; empty = any).

    That is so if the classifier's first choice is one of them, or if at least 70 % of the letters belong to their
    scripts and the first choice has less than 10 times their probability, or less than 0.3. Of 4,837 English prompts
    (built-in, Open Assistant, self-instruct, IFEval), 15 are refused, of which 9 are in another language.

    Languages without an entry in this module are taken to use Latin letters. If the classifier lacks one of them, only
    scripts are compared.
    """
    if not languages:
        return True
    scripts = {script for language in languages for script in _SCRIPTS_OF_LANGUAGE.get(language, "latin").split()}
    counts = _count_letters(text)
    letters = sum(character.isalpha() for character in text)
    if not letters:
        return False
    in_scripts = sum(counts[script] for script in scripts) >= 0.7 * letters
    wanted = {label for language in languages for label in (language, *_VARIETIES.get(language, ()))}
    if not set(languages) <= set(_classifier().labels):
        return in_scripts
    probability = {label: float(value) for label, value in _classifier().rank(text)}
    best = max(probability, key=lambda label: probability[label])
    allowed = sum(probability.get(label, 0.0) for label in wanted)
    return best in wanted or (in_scripts and probability[best] < max(_LEAST, _RATIO * allowed))


@cache
def _classifier() -> Any:
    """Return the classifier; loading it takes a second or two."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def script(text: str) -> str | None:
    """Return the script of most letters: "latin", "han", "kana" (Japanese), ...; None without letters of known scripts.

    Chinese and Japanese share characters. A text with kana and Han letters is Japanese if at least 10 % are kana.
    """
    counts = _count_letters(text)
    if counts["kana"] and counts["kana"] >= _KANA * (counts["kana"] + counts["han"]):
        counts["kana"] += counts.pop("han", 0)
    return max(counts, key=lambda name: counts[name]) if counts.total() else None


def _count_letters(text: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    for match in _LETTERS.finditer(text):
        counts[match.lastgroup] += len(match[0])
    return counts
