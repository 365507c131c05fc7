"""Build and parse the ids of records: parts joined by "/", each belonging to what stands before it.

    t2/p00003         attempt 3 at a new prompt, in the feedback for M2
    t2/p00003/c1      candidate 1 of that prompt
    t2/p00003/pair1   the second preference pair of that prompt; the first one has the prompt's id
    ROW/a1            answer 1 of the ranked prompt ROW of the data
    t2/p00003/c1/j0   judgement 0 of that candidate; of an answer ROW/a1/j0
    t2/p00003/0-2     the match of members 0 and 2 of a group: a prompt's candidates, or a candidate's judgements
    t2/p00003/0-2/ab  the comparison of that match that shows member 0 first; "ba" shows member 2 first

In a head to head of two models the match is the evaluation prompt itself: ROW/ab.
"""

from __future__ import annotations

import hashlib

ORDERS = ("ab", "ba")  # of a match: which of its two texts is shown first


def prompt_id(iteration: int, attempt: int) -> str:
    return f"t{iteration}/p{attempt:05d}"


def candidate_id(prompt: str, number: int) -> str:
    return f"{prompt}/c{number}"


def pair_id(prompt: str, number: int) -> str:
    """Return the id of a prompt's preference pair `number`; pair 0 has the prompt's own id."""
    return f"{prompt}/pair{number}" if number else prompt


def answer_id(ranked_prompt: str, place: int) -> str:
    return f"{ranked_prompt}/a{place}"


def judgement_id(candidate: str, number: int) -> str:
    return f"{candidate}/j{number}"


def match_id(group: str, i: int, j: int) -> str:
    """Return the id of the match of members `i` and `j`, i < j, of a group."""
    return f"{group}/{i}-{j}"


def comparison_id(match: str, order: str) -> str:
    return f"{match}/{order}"


def members(match: str) -> tuple[int, int]:
    """Return i and j of a `match_id`."""
    i, _, j = label(match).partition("-")
    return int(i), int(j)


def match_and_order(comparison: str) -> tuple[str, str]:
    """Return the match and the order ("ab" or "ba") of a `comparison_id`."""
    match, _, order = comparison.rpartition("/")
    return match, order


def parent(record: str) -> str:
    """Return the id of what the record belongs to: of a candidate its prompt, of a judgement its candidate."""
    return record.rpartition("/")[0]


def ancestors(record: str) -> list[str]:
    """Return the ids of all that the record belongs to, the nearest first: of a/b/c these are a/b and a."""
    parts = record.split("/")
    return ["/".join(parts[:n]) for n in range(len(parts) - 1, 0, -1)]


def label(record: str) -> str:
    """Return the last part of an id, such as "c1"."""
    return record.rpartition("/")[2]


def number_of(record: str) -> int:
    """Return the number that an id ends with; 0 where there is none."""
    return int(record[len(record.rstrip("0123456789")) :] or 0)


def derive_seed(*parts: object) -> int:
    """Return a seed in [0, 2**31) that depends only on the parts.

    Every random choice draws from (run seed, iteration, stage, record id), so that neither the order of completion nor
    a resume changes the result.
    """
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:4], "big") >> 1
