"""Split texts of any script into words: the one definition that overlaps, counts and filters use.

Word boundaries follow Unicode (Standard Annex 29): a combining mark belongs to the letter before it, so that words of
Devanagari, Tamil or Arabic stay whole. Changed from there:

- Scripts written without spaces count by character, a letter with its marks: Chinese, Japanese, and those that Unicode
  says need a dictionary (Line_Break=Complex_Context: Thai, Lao, Khmer, Burmese and others) or breaks between any two
  syllables (Javanese, Balinese, Yi and others).
- Every punctuation mark, "_" included, ends a word, within it too: "don't" is two words, "3.5" two numbers.

Texts are compared after Unicode's NFKC_Casefold: compatibility forms (full width, ligatures), composed and decomposed
accents, and upper and lower case are the same, and characters that are not visible (soft hyphen, zero-width joiner and
non-joiner, direction marks, variation selectors) do not count. Nor do vowel points of Arabic and Hebrew, since most
texts leave them out, nor Arabic's elongation (tatweel). Digits of different scripts stay different.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

import regex

# Points that writers of Arabic and Hebrew may leave out, and tatweel. Hamza and madda are letters' own: they stay.
_ARABIC_POINTS = r"\u0610-\u061a\u0640\u064b-\u0652\u0670\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed"
_HEBREW_POINTS = r"\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7"
_DROPPED = regex.compile(rf"[\p{{Default_Ignorable_Code_Point}}{_ARABIC_POINTS}{_HEBREW_POINTS}]")
# NFKC decomposes the vowel "am" of Thai and Lao, whose second half is a letter, and a tone mark may stand within it.
_THAI_AM, _LAO_AM = regex.compile(r"\u0e4d(\p{M}?)\u0e32"), regex.compile(r"\u0ecd(\p{M}?)\u0eb2")
_LETTER = r"[[\p{Alphabetic}\p{N}]--\p{M}]"  # or a digit; a mark that follows none is punctuation, as in "don´t"
_SYLLABLES = ("Javanese", "Balinese", "Yi", "Brahmi", "Cham", "Makasar", "Tangut", "Nushu")
_UNSPACED = (
    r"[\p{scx=Han}\p{scx=Hiragana}\p{scx=Katakana}\p{Line_Break=Complex_Context}"
    + "".join(rf"\p{{sc={name}}}" for name in _SYLLABLES)
    + "]"
)
_WORD = regex.compile(rf"(?V1)(?:[{_LETTER}--{_UNSPACED}]++[\p{{M}}--{_UNSPACED}]*+)+|(?={_LETTER})\X\p{{M}}*")
_ASCII_WORD = re.compile("[a-z0-9]+")  # what `_WORD` finds in ASCII text, several times as fast
_SYMBOL = regex.compile(r"(?=\S)\X")


def tokens(text: str) -> list[str]:
    """Return the words of a text, in lower case, without punctuation.

    A text without a letter or digit gives its symbols instead, so that it can still be compared. Only a blank text
    gives none.
    """
    text = normalized(text)
    return (_ASCII_WORD if text.isascii() else _WORD).findall(text) or _SYMBOL.findall(text)


def contains_word(text: str, word: str) -> bool:
    """Return whether a text contains a word or phrase: see `find_words`."""
    return bool(find_words(text, [word]))


def find_words(text: str, words: Iterable[str]) -> set[str]:
    """Return those of the words or phrases that a text contains, in their `normalized` form.

    A word counts in any case, but not as a part of a longer word; in scripts without spaces anywhere, but not without
    the marks of its last letter. It may begin or end with a symbol ("C++"), which needs no boundary on that side. Where
    two overlap, only the longer one counts.
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
    """Return the form in which texts are compared: see the module's description."""
    if text.isascii():
        return text.lower()
    text = text.replace("\u200b", " ")  # the zero-width space is no joiner: it separates words
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    text = unicodedata.normalize("NFC", _DROPPED.sub("", text))
    return _LAO_AM.sub("\\1\u0eb3", _THAI_AM.sub("\\1\u0e33", text))
