"""Word tokenization of texts in any script, used by all overlaps, counts and filters.

Word boundaries follow Unicode (Standard Annex 29): a combining mark belongs to the letter before it, so that words of
Devanagari, Tamil or Arabic are not split. Two rules differ:

- Scripts without spaces are split by character, a letter with its marks. These are Chinese, Japanese, the scripts that
  need a dictionary according to Unicode (Line_Break=Complex_Context: Thai, Lao, Khmer, Burmese and others), and those
  that break between any two syllables (Javanese, Balinese, Yi and others).
- Every punctuation mark, "_" included, ends a word: "don't" is two words, "3.5" is two numbers.

Texts are compared after Unicode's NFKC_Casefold. Compatibility forms (full width, ligatures), composed and decomposed
accents, and upper and lower case are equal. Invisible characters are ignored (soft hyphen, zero-width joiner and
non-joiner, direction marks, variation selectors). So are vowel points of Arabic and Hebrew, which most texts omit, and
Arabic's elongation (tatweel). Digits of different scripts are different.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

import regex

# Optional vowel points of Arabic and Hebrew, and tatweel. Hamza and madda are parts of letters and are kept.
_ARABIC_POINTS = r"\u0610-\u061a\u0640\u064b-\u0652\u0670\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed"
_HEBREW_POINTS = r"\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7"
_DROPPED = regex.compile(rf"[\p{{Default_Ignorable_Code_Point}}{_ARABIC_POINTS}{_HEBREW_POINTS}]")
# NFKC decomposes the vowel "am" of Thai and Lao. Its second half is a letter; a tone mark may precede it.
_THAI_AM, _LAO_AM = regex.compile(r"\u0e4d(\p{M}?)\u0e32"), regex.compile(r"\u0ecd(\p{M}?)\u0eb2")
_LETTER = r"[[\p{Alphabetic}\p{N}]--\p{M}]"  # or a digit; a mark that follows none is punctuation, as in "don´t"
_SYLLABLES = ("Javanese", "Balinese", "Yi", "Brahmi", "Cham", "Makasar", "Tangut", "Nushu")
_UNSPACED = (
    r"[\p{scx=Han}\p{scx=Hiragana}\p{scx=Katakana}\p{Line_Break=Complex_Context}"
    + "".join(rf"\p{{sc={name}}}" for name in _SYLLABLES)
    + "]"
)
_WORD = regex.compile(rf"(?V1)(?:[{_LETTER}--{_UNSPACED}]++[\p{{M}}--{_UNSPACED}]*+)+|(?={_LETTER})\X\p{{M}}*")
_ASCII_WORD = re.compile("[a-z0-9]+")  # same matches as `_WORD` in ASCII text, several times faster
_SYMBOL = regex.compile(r"(?=\S)\X")


def tokens(text: str) -> list[str]:
    """Return the words of a text, in lower case, without punctuation.

    For a text without letters and digits, its symbols are returned, so that it can be compared. Only a blank text gives
    an empty list.
    """
    text = normalized(text)
    return (_ASCII_WORD if text.isascii() else _WORD).findall(text) or _SYMBOL.findall(text)


def contains_word(text: str, word: str) -> bool:
    """Return whether a text contains a word or phrase; see `find_words`."""
    return bool(find_words(text, [word]))


def find_words(text: str, words: Iterable[str]) -> set[str]:
    """Return those of the words or phrases that a text contains, in their `normalized` form.

    Case is ignored. A word is not found inside a longer word. In scripts without spaces it is found anywhere, but its
    last letter must have the same marks. A word may begin or end with a symbol ("C++"), which needs no boundary. If two
    words overlap, only the longer one is returned.
    """
    forms = sorted({form for word in words if (form := normalized(word).strip())}, key=len, reverse=True)
    pattern = "|".join(map(_bounded, forms))
    return set(regex.findall(f"(?V1){pattern}", normalized(text))) if forms else set()


def _bounded(form: str) -> str:
    """Return a pattern that finds a normalized word at word boundaries."""
    inside = rf"[\w--{_UNSPACED}]"
    before = rf"(?<!{inside})" if regex.match(rf"(?V1){inside}", form) else ""
    after = rf"(?!{inside})" if regex.search(rf"(?V1){inside}\Z", form) else r"(?!\p{M})"
    return before + regex.escape(form) + after


def normalized(text: str) -> str:
    """Return a text in the form in which texts are compared; see the module's docstring."""
    if text.isascii():
        return text.lower()
    text = text.replace("\u200b", " ")  # the zero-width space separates words
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    text = unicodedata.normalize("NFC", _DROPPED.sub("", text))
    return _LAO_AM.sub("\\1\u0eb3", _THAI_AM.sub("\\1\u0e33", text))
