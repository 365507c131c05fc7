import itertools
import random
import time

import pytest

from srlm.data.config import SourceConfig
from srlm.data.readers import read_ift, read_ranked
from srlm.data.splits import Overlap, split_eft
from srlm.data.words import tokens
from srlm.errors import SeedError
from srlm.types import RankedAnswer, RankedPrompt, SeedExample
from tests.helpers import rouge_l

WORDS = list("abcdefgh")


def eft(prompts):
    answers = (RankedAnswer("good", 0), RankedAnswer("bad", 1))
    return [RankedPrompt(f"e{n}", prompt, answers) for n, prompt in enumerate(prompts)]


def ift(prompts):
    return [SeedExample(f"i{n}", prompt, "good") for n, prompt in enumerate(prompts)]


def prompts_of(rows):
    return [row.prompt for row in rows]


def plain_rouge_l(left, right):
    """Return ROUGE-L by its definition, with dynamic programming."""
    table = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
    longest = table[-1][-1]
    if not longest:
        return 0.0
    precision, recall = longest / len(right), longest / len(left)
    return 2 * precision * recall / (precision + recall)


def sentence(draw, low=0, high=12):
    return " ".join(draw.choices(WORDS, k=draw.randint(low, high)))


def test_rouge_l_matches_dynamic_programming():
    draw = random.Random(0)
    values = set()
    for _ in range(2000):
        left, right = sentence(draw), sentence(draw)
        expected = plain_rouge_l(left.split(), right.split())
        assert rouge_l(left, right) == pytest.approx(expected, abs=1e-12)
        values.add(round(expected, 3))
    assert len(values) > 30, "the random texts are all alike"


def test_rouge_l_matches_hand_computed_values():
    assert rouge_l("police killed the gunman", "Police kill the gunman!") == pytest.approx(0.75)
    assert rouge_l("police killed the gunman", "the gunman kill police") == pytest.approx(0.5)
    assert rouge_l("天空为什么是蓝的？", "天空是蓝的。") == pytest.approx(2 * 5 / (8 + 5))
    assert rouge_l("", "") == rouge_l("a", " ") == 0.0


def test_overlap_finds_the_most_similar_text():
    draw = random.Random(1)
    texts = [sentence(draw) for _ in range(60)]
    overlap = Overlap(texts[:30])
    for text in texts[30:]:
        overlap.add(text)
    assert len(overlap) == 60
    for _ in range(200):
        query = sentence(draw) + draw.choice(["", " unseen", " unseen other"])
        best = max(rouge_l(query, text) for text in texts)
        similarity, index = overlap.most_similar(query)
        assert similarity == pytest.approx(best, abs=1e-12)
        assert index == (next(i for i, text in enumerate(texts) if rouge_l(query, text) == similarity) if best else -1)


def test_overlap_with_empty_texts_is_zero():
    assert Overlap().most_similar("a") == (0.0, -1)
    overlap = Overlap(["", "a b"])
    assert overlap.most_similar("") == (0.0, -1)
    assert overlap.most_similar("x y") == (0.0, -1)
    assert overlap.most_similar("A, b!") == (1.0, 1)


def test_near_duplicates_are_never_on_two_sides():
    draw = random.Random(3)
    vocabulary = [f"w{n}" for n in range(60)]
    bases = [draw.choices(vocabulary, k=draw.randint(4, 12)) for _ in range(150)]

    def variants(count, of):  # a base text with up to three changed words
        for _ in range(count):
            words = list(draw.choice(of))
            for _ in range(draw.randint(0, 3)):
                words[draw.randrange(len(words))] = draw.choice(vocabulary)
            yield " ".join(words)

    ranked = eft(variants(330, bases[:120]))
    others = ift(variants(400, bases))
    evaluation = ift(variants(20, bases[100:]))
    bound = 0.7
    split = split_eft(ranked, 0.3, others, evaluation, bound, seed=0)
    sides = [split.train, split.held_out, split.ift, evaluation]
    texts = [prompts_of(side) for side in sides]
    assert min(map(len, texts)) >= 10
    assert min(split.dropped.values()) > 0, "the data do not put every rule to use"
    for n, side in enumerate(texts):
        for other in texts[n + 1 :]:
            assert max(rouge_l(a, b) for a in side for b in other) < bound
    lost = [row for row in ranked if row not in split.train and row not in split.held_out]
    assert len(lost) == split.dropped["EFT near an evaluation prompt"]
    assert all(max(rouge_l(row.prompt, text) for text in texts[3]) >= bound for row in lost)
    kept = set(prompts_of(split.ift))
    lost = [row for row in others if row.prompt not in kept]
    assert len(lost) == split.dropped["IFT near an EFT prompt"] + split.dropped["IFT near an evaluation prompt"]
    assert all(max(rouge_l(row.prompt, t) for side in (0, 1, 3) for t in texts[side]) >= bound for row in lost)


def test_split_holds_out_the_fraction_and_keeps_order():
    prompts = [f"word{n} other{n}" for n in range(40)]
    split = split_eft(eft(prompts), 0.25, [], [], 0.7, seed=0)
    assert (len(split.train), len(split.held_out)) == (30, 10)
    for side in (split.train, split.held_out):
        assert prompts_of(side) == [prompt for prompt in prompts if prompt in prompts_of(side)]
    assert split == split_eft(eft(prompts), 0.25, [], [], 0.7, seed=0)
    assert split.held_out != split_eft(eft(prompts), 0.25, [], [], 0.7, seed=1).held_out


def test_chains_of_near_duplicates_are_not_split():
    chain = ["a b c d", "b c d e", "c d e f", "d e f g"]
    assert rouge_l(chain[0], chain[-1]) < 0.7 <= rouge_l(chain[0], chain[1])
    for seed in range(20):
        split = split_eft(eft([*chain, "x", "y", "z", "w"]), 0.5, [], [], 0.7, seed)
        in_held_out = set(prompts_of(split.held_out)) & set(chain)
        assert in_held_out in (set(), set(chain))
        assert len(split.held_out) == 4


def test_dropped_seeds_are_counted_by_reason():
    ranked = eft(["how far is the moon", "name a river", "why is the sky blue", "what is a noun"])
    others = ift(["How far is the MOON?", "name one river", "why is the sky so blue", "boil an egg"])
    evaluation = ift(["Why is the sky blue?"])
    split = split_eft(ranked, 0.3, others, evaluation, 0.6, seed=0)
    assert sorted(prompts_of(split.train + split.held_out)) == ["how far is the moon", "name a river", "what is a noun"]
    assert prompts_of(split.ift) == ["boil an egg"]
    assert split.dropped == {
        "EFT near an evaluation prompt": 1,
        "IFT near an evaluation prompt": 1,
        "IFT near an EFT prompt": 2,
    }


def test_ift_may_be_near_dropped_eft_prompts():
    split = split_eft(eft(["b c d e f", "x", "y"]), 0.5, ift(["c d e f g"]), ift(["a b c d e"]), 0.7, seed=0)
    assert split.dropped["EFT near an evaluation prompt"] == 1
    assert prompts_of(split.ift) == ["c d e f g"]


@pytest.mark.parametrize(("shared", "bound"), [(7, 0.7), (1, 0.1), (9, 0.9), (3, 0.3)])
def test_similarity_equal_to_the_threshold_is_a_duplicate(shared, bound):
    ranked = eft([" ".join(f"a{n}" for n in range(10)), "x"])
    other = " ".join(f"a{n}" if n < shared else f"b{n}" for n in range(10))
    assert split_eft(ranked, 0.5, ift([other]), [], bound, seed=0).ift == []
    assert len(split_eft(ranked, 0.5, ift([other]), [], bound + 1e-6, seed=0).ift) == 1


def test_blank_prompts_are_no_near_duplicates():
    split = split_eft(eft(["a", "b"]), 0.5, ift([" ", "c"]), ift([""]), 0.7, seed=0)
    assert prompts_of(split.ift) == [" ", "c"]


def test_both_sides_have_a_prompt_for_any_fraction():
    assert len(split_eft(eft(["a", "b", "c"]), 0.01, [], [], 0.7, seed=0).held_out) == 1
    assert len(split_eft(eft(["a", "b", "c"]), 0.99, [], [], 0.7, seed=0).train) == 1
    split = split_eft(eft(["a b c d", "a b c d e", "x y z v", "x y z v w", "x y z v u"]), 0.2, [], [], 0.7, seed=0)
    assert prompts_of(split.held_out) == ["a b c d", "a b c d e"], "the smallest group, for none fits"


def test_too_few_distinct_prompts_raise_with_the_fix():
    with pytest.raises(SeedError) as error:
        split_eft(eft(["a b c d", "a b c d e", "v w x y"]), 0.5, [], ift(["v w x y"]), 0.7, seed=0)
    text = "1 are near an evaluation prompt, and the others have 1 distinct prompts at data.near_duplicate=0.7"
    assert text in str(error.value)
    assert "Add prompts to data.eft" in str(error.value)


def test_ift_is_split_without_eft():
    split = split_eft([], 0.5, ift(["a b c d", "v w x y"]), ift(["v w x y"]), 0.7, seed=0)
    assert (split.train, split.held_out, prompts_of(split.ift)) == ([], [], ["a b c d"])


def test_published_data_are_split_in_seconds(shared_data):
    examples = read_ift(SourceConfig(path=str(shared_data / "ift_oasst1_en_train_top.jsonl.gz")))
    ranked = read_ranked(SourceConfig(path=str(shared_data / "ranked_oasst2_en_exact.jsonl.gz")))
    start = time.process_time()
    split = split_eft(ranked, 0.25, examples, [], 0.7, seed=0)
    assert time.process_time() - start < 30  # about 1 s
    assert len(split.train) + len(split.held_out) == len(ranked)
    assert len(split.held_out) == round(0.25 * len(ranked))
    # SOURCES.md: 1,181 of the ranked prompts are also IFT prompts
    assert split.dropped["IFT near an EFT prompt"] >= 1181
    assert len(split.ift) == len(examples) - split.dropped["IFT near an EFT prompt"]
    sides = [{" ".join(tokens(row.prompt)) for row in side} for side in (split.train, split.held_out, split.ift)]
    assert [a & b for a, b in itertools.combinations(sides, 2)] == [set(), set(), set()]
    draw = random.Random(0)
    overlap = Overlap(prompts_of(split.train + split.ift))
    assert max(overlap.most_similar(row.prompt)[0] for row in draw.sample(split.held_out, 100)) < 0.7
