"""Detection of a text's script, such as Latin or Han; languages of one script are not distinguished."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

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
_KANA = 0.1  # minimum fraction of kana among kana and Han letters of a Japanese text


def _letters_of(script: str) -> str:
    """Return a pattern that matches runs of a script's letters, as a group with the script's name."""
    names = ("hiragana", "katakana") if script == "kana" else (script,)
    characters = "".join(rf"\p{{Script_Extensions={name}}}" for name in names)
    return rf"(?P<{script}>[[{characters}]&&\p{{L}}]+)"


_LETTERS = regex.compile("(?V1)" + "|".join(map(_letters_of, _SCRIPTS)))


def in_languages(text: str, languages: Sequence[str]) -> bool:
    """Return whether at least 70 % of the letters belong to a script of `languages` (ISO 639-1; empty = any).

    Languages without an entry in this module are taken to use Latin letters.
    """
    if not languages:
        return True
    scripts = {script for language in languages for script in _SCRIPTS_OF_LANGUAGE.get(language, "latin").split()}
    counts = _count_letters(text)
    letters = sum(character.isalpha() for character in text)
    return letters > 0 and sum(counts[script] for script in scripts) >= 0.7 * letters


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
