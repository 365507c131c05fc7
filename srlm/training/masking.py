"""Which tokens carry the loss.

An example is one sequence of token ids with a label for each: the id itself where the token is learnt, -100 where it
is not. SFT learns the answer's tokens and the end of turn that closes it, never the prompt (arXiv 2401.10020,
section 3.1.2).
"""

from __future__ import annotations

IGNORED = -100  # the label that PyTorch's cross entropy leaves out


def completion_labels(prompt_ids: list[int], completion_ids: list[int]) -> tuple[list[int], list[int]]:
    """Ids and labels of an example whose completion alone is learnt.

    Parameters
    ----------
    prompt_ids, completion_ids : list of int, lengths p and c

    Returns
    -------
    input_ids, labels : lists of int, length p + c
    """
    return prompt_ids + completion_ids, [IGNORED] * len(prompt_ids) + completion_ids
