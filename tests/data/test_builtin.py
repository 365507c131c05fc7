"""Properties of the built-in seed set."""

import itertools
import re
from collections import Counter

import pytest

from srlm.data.checkers import follows
from srlm.data.config import SourceConfig
from srlm.data.readers import read_ift, read_prompts, read_ranked
from srlm.data.splits import Overlap, split_eft
from tests.helpers import rouge_l

TYPES = {"single_task", "multi_step", "role_play", "fixed_format", "constrained_length", "reasoning", "creative"}
IFT, EFT, EVALUATION = read_ift(SourceConfig()), read_ranked(SourceConfig()), read_prompts(SourceConfig())
SETS = {"ift": IFT, "eft": EFT, "evaluation": EVALUATION}


def test_the_builtin_set_is_large_and_complete():
    assert len(IFT) >= 240
    assert len(EFT) >= 80
    assert len(EVALUATION) >= 80
    assert {len(row.answers) for row in EFT} == {4}
    for name, rows in SETS.items():
        assert [row.source for row in rows] == [f"{name}.jsonl:{n}" for n in range(1, len(rows) + 1)]


@pytest.mark.parametrize("name", SETS)
def test_every_type_and_language_is_present_and_labelled(name):
    rows = SETS[name]
    assert {row.type for row in rows} == TYPES
    assert {row.language for row in rows} == {"en", "zh"}
    for row in rows:
        assert (row.language == "zh") <= bool(re.search("[\u4e00-\u9fff]", row.prompt)), row.id
    assert {row.type for row in rows if row.language == "zh"} == TYPES


def test_prompts_are_no_near_duplicates():
    seen = Overlap()
    rows = [*IFT, *EFT, *EVALUATION]
    for row in rows:
        similarity, index = seen.most_similar(row.prompt)
        assert similarity < 0.7, f"{row.id} and {rows[index].id}: {row.prompt}"
        seen.add(row.prompt)
    ids = [row.id for row in rows]
    assert len(set(ids)) == len(ids)


def test_answers_are_not_repeated_between_rows():
    texts = [row.response for row in IFT] + [answer.text for row in EFT for answer in row.answers]
    assert [text for text, count in Counter(texts).items() if count > 1] == []


def test_the_split_drops_no_builtin_rows():
    split = split_eft(EFT, 0.25, IFT, EVALUATION, 0.7, seed=0)
    assert set(split.dropped.values()) == {0}


def test_ranks_and_scores_have_the_same_order():
    for row in EFT:
        scores = [answer.score for answer in row.answers]
        assert [answer.rank for answer in row.answers] == [0, 1, 2, 3], row.id
        assert scores == sorted(set(scores), reverse=True), row.id
        assert set(scores) <= set(range(6)), row.id
        assert all(answer.rationale and answer.rationale.strip() for answer in row.answers), row.id


def test_all_scores_occur_and_none_dominates():
    scores = Counter(answer.score for row in EFT for answer in row.answers)
    assert set(scores) == {0, 1, 2, 3, 4, 5}
    assert max(scores.values()) <= 0.3 * scores.total()


def test_length_does_not_predict_the_better_answer():
    pairs = [pair for row in EFT for pair in itertools.combinations(row.answers, 2)]  # the better answer is first
    longer = sum(len(better.text) > len(worse.text) for better, worse in pairs)
    assert longer <= 0.6 * len(pairs)
    assert longer >= 0.4 * len(pairs), "nor may the shorter one be the better one"


def test_rationales_are_not_repetitive():
    rationales = [answer.rationale for row in EFT for answer in row.answers]
    seen = Overlap(rationales[:1])
    worst = 0.0
    for rationale in rationales[1:]:
        worst = max(worst, seen.most_similar(rationale)[0])
        seen.add(rationale)
    assert worst < 0.9
    assert rouge_l(rationales[0], rationales[0]) == 1.0


# A correct answer to each evaluation prompt with constraints.
FOLLOWING = {
    "eval-001": "It warms the muscles. It wakes up the nerves. It makes injuries rarer.",
    "eval-007": "| planet | type | has moons |\n|---|---|---|\n| Mercury | rocky | no |\n| Mars | rocky | yes |\n"
    "| Jupiter | gas giant | yes |",
    "eval-010": "A conductor keeps everyone together, sets the tempo, and shapes how the music sounds.",
    "eval-013": "| n | square | cube |\n|---|---|---|\n" + "\n".join(f"| {n} | {n**2} | {n**3} |" for n in range(1, 6)),
    "eval-018": "The last tram never stops here, they told Mia. Tonight it did, and her brother stepped out, smiling.",
    "eval-020": "Red doors open at all hours, and engines growl like waking dogs. We sleep through sirens now. On "
    "Sundays the crew wash trucks, spray our delighted children, and share pancakes. When smoke rises somewhere, we "
    "fall quiet, and wait until everyone is home.",
    "eval-021": "go | went | gone\nbring | brought | brought\nswim | swam | swum",
    "eval-023": "name,age,city\nLena,34,Bergen\nOmar,28,Tunis\nPia,41,Graz",
    "eval-028": "A star makes its own light, while a planet only reflects that of a star it circles.",
    "eval-031": "Our shop is closed on Tuesday until noon for a stock count.",
    "eval-033": '{"title": "Soft Rain", "tempo": "slow", "mood": "calm"}',
    "eval-042": "clothes:\n  - socks\n  - hat\n  - coat\nfood:\n  - nuts\n  - bread\n  - figs\ntools:\n  - map\n"
    "  - knife\n  - torch",
    "eval-043": "Sorry I forgot your special day.",
    "eval-048": "ITEM: raincoat\nSIZE: medium\nCOLOUR: green\nPRICE: 39 pounds",
    "eval-054": "Each night she wished her brother goodnight through the wall. They told her he had never lived.",
    "eval-055": "- **Soccer**: 11\n- **Basketball**: 5\n- **Indoor volleyball**: 6",
    "eval-059": "| 方式 | 优点 | 缺点 |\n|---|---|---|\n| 地铁 | 准时 | 拥挤 |\n| 公交 | 便宜 | 慢 |\n"
    "| 骑车 | 健身 | 怕雨 |",
    "eval-060": "An adverb is a word that tells how, when or where something happens. She sings softly.",
    "eval-064": '{"name": "小周", "age": 12, "hobby": "下围棋"}',
    "eval-065": "除夕全家人一起吃年夜饭。孩子们会收到长辈给的红包。人们贴春联迎接新年。",
    "eval-070": "I will miss our Sunday walks, and even your awful singing. Come back soon!",
    "eval-073": "Open the grey wheel on your first screen. Tap the line about letters, then slide the dot right.",
    "eval-074": "NAME: Pepper\nLOOKS: grey with a white tail\nLAST SEEN: Mill Lane\nREWARD: 50 pounds",
    "eval-082": "因为地球的自转轴是倾斜的，各地一年中得到的阳光不同。",
    "eval-085": "Plants eat light. Their leaves catch sunshine. Roots drink water. Leaves breathe in air. Together "
    "they make sugar.",
    "eval-089": '[{"stage": "egg", "lives_in": "water"}, {"stage": "tadpole", "lives_in": "water"}, '
    '{"stage": "frog", "lives_in": "land"}]',
    "eval-097": "00:05, 06:40, 12:30, 19:15",
}


def test_every_constraint_can_be_followed_and_violated():
    """One answer follows the prompt's constraints, and another one violates at least one of them."""
    with_constraints = {row.id: row.constraints for row in EVALUATION if row.constraints}
    assert set(FOLLOWING) == set(with_constraints)
    for name, constraints in with_constraints.items():
        assert [follows(one, FOLLOWING[name]) for one in constraints] == [True] * len(constraints), name
        assert not all(follows(one, "Here goes: this! " * 20) for one in constraints), name
    types = Counter(row.type for row in EVALUATION if row.constraints)
    assert min(types["constrained_length"], types["fixed_format"]) >= 10


def test_required_keywords_are_in_the_prompt():
    """Every required keyword occurs in its prompt."""
    for row in EVALUATION:
        for one in row.constraints:
            if one.id == "keywords:existence":
                for word in one.kwargs["keywords"]:
                    assert word.strip('":').lower() in row.prompt.lower() or word == "|", row.id
