"""Parsers of judge completions: the score, or the letter of the better answer.

A score must be on a line "Score: N" with an integer N from 0 to `judge.max_score`. The line may be bold, end a sentence
or name the scale ("4/5", "4 out of 5"). The last score counts. The following have no verdict and count as missing,
never as a low score:

- a score that is only mentioned ("To earn Score: 5 it would have to cite a source");
- ranges and alternatives ("3-4", "3 or 4"), other scales ("4/10", "4 (scale 1-10)"), other numbers ("4.5", "2½",
  "4e-1"), and sums ("2 + 2");
- different scores with text in between, the first of which begins a line: the judge continued after its verdict, or
  gave several verdicts;
- scores of several criteria without a total ("Clarity score: 1", then "Depth score: 0");
- a completion that reached the token limit, unless it ends with a complete verdict line;
- a thought without an end ("<think>maybe Score: 5"). Scores inside a thought are ignored.

For two answers, the required forms are a single letter on a line, "The better answer is A", and "[[A]]". In any other
form, a letter counts only if the reply contains no other letter, states a preference ("I prefer A"), and contains no
negation. "A is better than B.", "A is worse.", "A is incomplete." and "A tie" have no verdict.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import pairwise

import regex

_MARKUP = r"[\s*_`]{0,9}"  # repetitions are limited everywhere, so that long runs of whitespace are parsed quickly
_SCORE = re.compile(
    rf"(?<![^\W_])(?<!\w-)score{_MARKUP}[:：]{_MARKUP}(?P<number>[-+]?[0-9]+(?:[.,][0-9]+)?)",
    re.IGNORECASE,
)
_WORDS = {"three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10"}
_WORDS |= {"hundred": "100", "a hundred": "100"}
_UNIT = r"(?:points?|pts?|stars?|分|点|點|점)"
# The scale after the number, such as "/5" or "out of 5".
_SCALE = re.compile(
    rf"""{_MARKUP}[(（\[]?\s{{0,9}}{_UNIT}?\s{{0,9}}
    (?: [/／⁄∕]
      | (?:out\s{{1,9}})?of\b(?:\s{{1,9}}(?:an?|the)\b)?(?:\s{{1,9}}(?:possible|maximum|total))?(?:\s{{1,9}}of)?
      | (?:on\s{{1,9}})?(?:a\s{{1,9}})?scale\s{{1,9}}(?:of|from)\s{{1,9}}[0-9]+\s{{0,9}}(?:to|-|–)
      | (?:from\s{{1,9}})?\b[0-9]+\s{{0,9}}(?:to|-|–)(?=\s{{0,9}}[0-9]+\s{{0,9}}[)）\]])
      | max(?:imum)?\b\.?:? | [满滿]分[:：]? | [总共總]分?[:：]? | von\b|sur\b|de\b|su\b|sobre\b|из\b|av\b|من\b )
    {_MARKUP}(?P<of>[0-9]+(?:[.,]0+)?|{"|".join(_WORDS)})(?![0-9.,]*[0-9])\s{{0,9}}{_UNIT}?\s{{0,9}}[)）\]]?""",
    re.IGNORECASE | re.VERBOSE,
)
# Connectors between two numbers: signs, a word for "or" or "to", or any short word of a script without capitals.
_JOINS = (
    r"(?:[^\w\s.!?。！？()（）\[\]\"“”*`]{1,3}|\.{2,3}|…|(?:to|or|and|through|point|bis|oder|ou|o|y|et|и|или)\b"
    r"|(?![因由所])[\p{L}--[A-Za-zÀ-ɏͰ-ӿ]][\p{L}\p{M}]{0,7}\s{0,9})"
)
_PERHAPS = r"(?:(?:or|maybe|perhaps|possibly|even|arguably)\b\s{0,9})*"
_ANOTHER = regex.compile(rf"(?V1i){_MARKUP}[(（\[]?\s{{0,9}}{_JOINS}?\s{{0,9}}{_PERHAPS}{_MARKUP}[-+]?[0-9]")
_ANOTHER_AFTER_SCALE = regex.compile(rf"(?V1i){_MARKUP}{_JOINS}\s{{0,9}}{_PERHAPS}{_MARKUP}[-+]?[0-9]")
# Characters after the digits that change the number or make it ambiguous.
_ADJOINS = re.compile(r"[A-Za-zÀ-ɏͰ-ӿ°^]|\s{0,9}[%％‰+±~?/／⁄∕]|[-–—]+(?:\w|\s{0,9}\Z)|[.٫]\d")
# End of the score's clause: the end of the sentence, or a reason, which may contain other numbers.
_CLAUSE_ENDS = re.compile(
    r"[.!?。！？](?!\s{0,9}[0-9])|\b(?:because|since|as|due|given|based)\b|因|由于|由於", re.IGNORECASE
)
_CLAUSE = 80  # number of characters that are searched for another scale
_PERCENT = re.compile(r"[0-9]\s{0,9}[%％‰]|[十百]分[制满滿]")
_LINE_ENDS = re.compile(r"[\s*_`]{0,9}[.!。！]?[\s*_`\"'”)）\]】」]*\Z")
_REASON = re.compile(r"(?:because|since|as|for|due|given|based|overall|in\s{1,9}total)\b", re.IGNORECASE)
# Text before the verdict on its line: nothing, the end of a sentence, or words that name the score.
_BEGINS = re.compile(r"(?:\A|[.!?。！？:：;；,，)）\]}>0-9…–—|])[\s*_`#>|\"'“”(（\[【「•-]*\Z")
_LABEL = re.compile(r"\b(?:total|final|overall|combined|resulting|my)[\s*_`]*\Z", re.IGNORECASE)
_SHORT_LABEL = re.compile(r"(?:\A|[.!?。！？:：;；]\s)[\s*_`#>|•-]*(?P<words>(?:[^\W\d_]+[\s*_`]+){1,3})\Z")
_ENUMERATED = re.compile(r"\W*\w{1,3}[.)]\W*\Z")
_HYPOTHETICAL = re.compile(
    r"\b(?:max|maximum|min|minimum|possible|highest|lowest|perfect|previous|example|target|passing|to|earn|deserves?"
    r"|merits?|reach|gets?|receive|for|of|than|not|no|if|would|could|should|from|below|above|with|without|needs?"
    r"|requires?|a|as|at|until|unless|why|what)\b",
    re.IGNORECASE,
)
_DECORATION = r"[ \t\r*_`.\"'“”()（）。]*"
_LETTER = re.compile(r"(?<![A-Za-zÀ-ɏ0-9])(?P<letter>[AB])(?![A-Za-zÀ-ɏ0-9])")
_LETTER_LINE = re.compile(rf"^{_DECORATION}{_LETTER.pattern}{_DECORATION}$", re.MULTILINE)
_LETTER_BOXED = re.compile(rf"\[\[{_LETTER.pattern}\]\]")
# Text directly after a letter in a required form that withdraws it: another letter, or a negation.
_TAKES_BACK = re.compile(
    r"[\s*_`,)]{0,9}(?:\b(?:or|and|nor)\b|[/&])[\s*_`(]*(?-i:[AB])(?![A-Za-z])|\s*,\s*(?-i:[AB])\W*\Z"
    r"|[\s*_`\]]{0,9}(?:[?=+≈~]|\W{0,9}\b(?:wait|no|actually|(?:is|was)\s+(?:not|the\s+)?(?:worse|weaker|wrong|inferior))\b)",
    re.IGNORECASE,
)
# Words that state a preference for the only letter of a reply, unless the reply matches `_DENIES`.
_AFFIRMS = re.compile(
    r"\b(?:better|best|superior|stronger|preferable|preferred|prefer|picks?|chooses?|chose|choice|selects?|takes?|votes?"
    r"|wins?|winner|won|verdict|final)\b|\b(?:think|say|go\s+(?:with|for))\s+(?:it\s+is\s+)?(?-i:[AB])(?![A-Za-z])"
    r"|更好|更优|更優|较好|較好|胜|勝|答案|良い|優れ",
    re.IGNORECASE,
)
_SIGNS = r"(?:[^\w+?=#~<>/|-]|_){0,20}"
_NAMED = re.compile(
    rf"{_SIGNS}(?:the\s+)?(?:answer|response|option|assistant|output|candidate|reply|judge?ment|model|\\boxed)?{_SIGNS}"
    rf"(?-i:{_LETTER.pattern})(?:{_SIGNS}|[\s*_`,;:：]+(?:because|since|as)\b.*)\Z",
    re.IGNORECASE | re.DOTALL,
)
_DENIES = re.compile(
    r"\b(?:not|cannot|never|neither|either|nor|no|without|than|over|beats?|worse|worst|weaker|inferior|poor|poorer|wrong"
    r"|bad|loses|loser|lost|reject(?:ed|s)?|less|lower|unlike|except|hardly|barely|hard|difficult|dislike|avoid|if|both"
    r"|might|may|maybe|perhaps|possibly|tie|tied|equal|equally|same|similar|draw|but)\b|n[’']t\b|[不没沒差劣比]",
    re.IGNORECASE,
)
_ARTICLE = re.compile(
    r"A\s+(?!(?:is|was|wins|won|has|had|does|seems|looks|appears|because|since|as|by|in|on|for|with|due)\b)[a-z]"
)
_THOUGHT = re.compile(r"<(?P<closes>/?)(?:think|thinking|thought|reasoning)>", re.IGNORECASE)


@dataclass(frozen=True)
class Verdict:
    """A score of a judge's completion, valid or not. Positions are character indices in the completion."""

    score: float | None
    problem: str  # reason why there is no score; "" if there is one
    start: int  # start of the verdict
    digit: int  # position of the last digit of the integer score
    line_end: int  # end of the verdict's line
    begins_line: bool  # whether the verdict is at the beginning of its line
    own_line: bool  # whether its line contains nothing else
    criterion: str  # the criterion that is scored; "" for the total


def parse_verdict(completion: str, max_score: int, truncated: bool = False) -> tuple[float | None, str]:
    """Return the score of a judge's completion.

    Parameters
    ----------
    completion : str
        The judge's completion, without its prompt.
    max_score : int
        Scores are integers from 0 to this.
    truncated : bool
        Whether the completion reached the token limit.

    Returns
    -------
    score : float or None
        None if there is no valid verdict.
    problem : str
        Reason why there is no score; "" if there is one.
    """
    verdict = find_verdict(completion, max_score, truncated)
    return (None, "no verdict") if verdict is None else (verdict.score, verdict.problem)


def find_verdict(completion: str, max_score: int, truncated: bool = False) -> Verdict | None:
    """Return the last verdict, valid or not; None without one. Parameters as for `parse_verdict`."""
    verdicts = _verdicts(completion, max_score)
    if not verdicts:
        return None
    last = verdicts[-1]
    after = completion[last.line_end :]
    if truncated and not (last.own_line and after and not after.strip()):
        return None
    for verdict, following in pairwise(verdicts):
        between = completion[verdict.line_end : following.start].strip(" \r\n\t*_`#")
        if verdict.begins_line and between and last.score is not None and verdict.score not in (None, last.score):
            return replace(last, score=None, problem=f"different scores: {verdict.score:.0f}, then {last.score:.0f}")
    if last.score is not None and last.criterion and any(v.criterion != last.criterion for v in verdicts):
        return replace(last, score=None, problem=f"scores of several criteria, the last one of {last.criterion!r}")
    return last


def find_score(reply: str, begun: str, truncated: bool = False, max_score: int = 5) -> int | None:
    """Return the position of the score in a reply, which need not begin with the requested `begun`.

    The signature is that of `srlm.engines.base.Sampling.find_choice`. Truncated replies are parsed like others.
    """
    before = "" if begun and begun.casefold() in reply.casefold() else f"{begun or 'Score:'} "
    verdict = find_verdict(f"{before}{reply}", max_score)
    return None if verdict is None or verdict.score is None else verdict.digit - len(before)


def strip_verdict(completion: str) -> str:
    """Return the rationale of a judge's completion: the text before its last verdict, without a thought."""
    verdicts = _verdicts(completion, 0)
    end = verdicts[-1].start if verdicts else len(completion)
    rationale = completion[_after_thought(completion) : end].strip()
    return rationale.rstrip(" *_`#\n") if verdicts else rationale


def find_letter(reply: str, begun: str, truncated: bool = False) -> int | None:
    """Return the position of the letter of the better answer, A or B, in a reply; None if it has no verdict.

    Parameters
    ----------
    begun : str
        The beginning of the required reply, such as "The better answer is".
    truncated : bool
        Whether the reply reached the token limit. Only a letter in a required form then counts.
    """
    begin = _after_thought(reply)
    phrase = r"\s+".join(map(re.escape, begun.split()))
    sentence = re.compile(rf"(?i:\b{phrase})[\s*_`:：\"'“”(\[]*{_LETTER.pattern}") if phrase else None
    for form in (sentence, _LETTER_BOXED, _LETTER_LINE):
        matches = list(form.finditer(reply, begin)) if form else []
        if matches:
            last = matches[-1]
            different = len({match["letter"] for match in matches}) > 1
            return None if different or _TAKES_BACK.match(reply, last.end("letter")) else last.start("letter")
    named = list(_LETTER.finditer(reply, begin))
    if truncated or len({match["letter"] for match in named}) != 1:
        return None
    at = named[-1].start()
    if _NAMED.match(reply, begin):
        return at
    affirmed = _AFFIRMS.search(reply, begin) and not _DENIES.search(reply, begin) and not _ARTICLE.match(reply, at)
    return at if affirmed else None


def _verdicts(completion: str, max_score: int) -> list[Verdict]:
    """Return all verdicts of a completion outside thoughts, in order."""
    verdicts = []
    begin = _after_thought(completion)
    for match in _SCORE.finditer(completion, begin):
        line_start = max(completion.rfind("\n", 0, match.start()) + 1, match.start() - 200, begin)
        line_end = completion.find("\n", match.end())
        line_end = line_end if line_end >= 0 else len(completion)
        before, rest = completion[line_start : match.start()], completion[match.end() : line_end]
        integer = re.split("[.,]", match["number"])[0]
        score, problem, after = _read(match["number"], integer, rest, max_score)
        ends = _LINE_ENDS.match(after) is not None
        attempt = problem.startswith(("more than one", "another scale", "not a whole"))
        if not (_begins(before) and (attempt or ends or _goes_on(after))):
            continue
        if score is not None and not _SCALE.match(rest) and _names_another_scale(after, max_score):
            score, problem = None, f"another scale: Score: {match['number'][:20]}{after[:20]}"
        criterion = _criterion(before)
        begins_line = not (criterion or _LABEL.sub("", before).strip(" \t*_`#>|•-"))
        digit = match.start("number") + len(integer) - 1
        own_line = begins_line and ends
        verdicts.append(Verdict(score, problem, match.start(), digit, line_end, begins_line, own_line, criterion))
    return verdicts


def _read(number: str, integer: str, rest: str, max_score: int) -> tuple[float | None, str, str]:
    """Return the score, the problem, and the text after them on the line."""
    scale = _SCALE.match(rest)
    after = rest[scale.end() :] if scale else rest
    if scale:
        of = scale["of"].lower()
        if _WORDS.get(of, re.split("[.,]", of)[0]) != str(max_score):
            return None, f"another scale: Score: {number[:20]}{rest[: min(scale.end(), 20)]}", after
    if (_ANOTHER_AFTER_SCALE if scale else _ANOTHER).match(after):
        return None, f"more than one number: {number[:20]}{rest[:20]}", after
    if not scale and (_ADJOINS.match(rest) or rest.lstrip(" \t*_`(（")[:1].isnumeric()):
        return None, f"not a whole number: {number[:20]}{rest[:10]}", after
    if number[len(integer) :].strip(".,0") or number[len(integer) + 1 :] == "000":  # 4,000 may be four thousand
        return None, f"not a whole number: {number.replace(',', '.')[:20]}", after
    if len(integer) > 9 or not 0 <= int(integer) <= max_score:  # int() refuses numbers of thousands of digits
        return None, f"out of range: {number[:20]}", after
    unit = re.match(rf"{_MARKUP}{_UNIT}(?![a-z])", after, re.IGNORECASE)
    return float(int(integer)), "", after[unit.end() :] if unit else after


def _begins(before: str) -> bool:
    """Return whether the text before a score on its line introduces a verdict, not a mention within a sentence."""
    if _BEGINS.search(before) or _LABEL.search(before):
        return True
    words = _SHORT_LABEL.search(before)
    return words is not None and not _HYPOTHETICAL.search(words["words"])


def _goes_on(after: str) -> bool:
    """Return whether the text after a score on its line is a new clause, not the rest of the score's sentence."""
    text = after.lstrip(" \t*_`")
    return bool(_REASON.match(text)) or not (text[:1].islower() or text.startswith("?"))


def _names_another_scale(after: str, max_score: int) -> bool:
    """Return whether the clause after a score contains a percentage or a number above the scale: "4, out of 10"."""
    end = _CLAUSE_ENDS.search(after)
    clause = after[: min(_CLAUSE, end.start() if end else _CLAUSE)]
    numbers = re.findall("[0-9]+", clause)
    return _PERCENT.search(clause) is not None or any(int(number) > max_score for number in numbers)


def _criterion(before: str) -> str:
    """Return the criterion that the words before a score name; "" for the total or without a name."""
    words = " ".join(re.findall(r"[^\W_]+", before)).lower()
    if _LABEL.search(before) or words in ("", "the", "so", "thus") or len(words) > 40:
        return ""
    names = _SHORT_LABEL.search(before) or _ENUMERATED.match(before) or before.rstrip(" *_`").endswith((":", "："))
    return words if names else ""


def _after_thought(completion: str) -> int:
    """Return the start of the text after all thoughts; the end of the completion if a thought does not end."""
    tags = list(_THOUGHT.finditer(completion))
    if not tags:
        return 0
    return tags[-1].end() if tags[-1]["closes"] else len(completion)
