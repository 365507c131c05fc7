"""Generate small tasks of many types: training data with three prompt formats, and evaluation data with held-out types.

    python experiments/templates/make_data.py --to data/templates

The data are generated from the lists and templates below (written for this project, CC0), so a program can check every
answer. The three formats are those of FLAN's ablation (arXiv 2109.01652, section 4.3): the input only, the task
name and the input, and a natural instruction. The training files no_template.jsonl, task_name.jsonl and
instruction.jsonl have the same inputs in the same order. evaluation.jsonl has held-out task types with instructions and
with task names, and new inputs of trained types with instructions.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random

from srlm.io import serialization
from srlm.io.files import write_atomic
from srlm.types import Constraint, SeedExample

Make = Callable[[Random], tuple[str, str, list[str]]]  # -> input, answer, allowed answers


def _words(text: str) -> list[str]:
    return text.split()


KINDS = {
    "animal": _words("horse otter eagle salmon goat spider parrot whale donkey lizard rabbit tiger crow beaver"),
    "fruit": _words("apple plum cherry banana mango pear grape lemon peach fig melon kiwi apricot lime"),
    "tool": _words("hammer saw drill shovel rake pliers chisel wrench axe broom scissors needle ladder tongs"),
    "colour": _words("red green blue yellow purple orange brown pink white black grey violet turquoise beige"),
    "vehicle": _words("car bus tram bicycle lorry ferry train scooter tractor canoe taxi van plane boat"),
}
NAMES = _words(
    "Anna Ben Clara David Emma Farid Grace Hugo Iris Jonas Kira Leo Maya Noah Olga Pavel Rosa Sam Tara Victor"
)
THINGS = _words("key book ball letter map cup coin ring lamp pen ticket apple phone scarf")
PLACES = _words("kitchen garden office attic garage hall cellar library")
OPPOSITES = [
    pair.split(":")
    for pair in _words(
        "hot:cold big:small fast:slow open:closed early:late full:empty hard:soft high:low light:dark near:far new:old "
        "rich:poor sad:happy sharp:blunt short:long strong:weak thick:thin true:false wet:dry young:aged wide:narrow "
        "loud:quiet clean:dirty cheap:expensive deep:shallow"
    )
]
PLURALS = [
    pair.split(":")
    for pair in _words(
        "child:children mouse:mice foot:feet tooth:teeth box:boxes city:cities leaf:leaves knife:knives man:men "
        "woman:women goose:geese baby:babies wolf:wolves bus:buses potato:potatoes story:stories church:churches "
        "house:houses key:keys tree:trees shelf:shelves fox:foxes party:parties brush:brushes"
    )
]
PASTS = [
    pair.split(":")
    for pair in _words(
        "go:went see:saw eat:ate run:ran write:wrote take:took come:came give:gave find:found buy:bought think:thought "
        "sing:sang drink:drank fly:flew know:knew begin:began break:broke speak:spoke swim:swam teach:taught "
        "catch:caught walk:walked play:played open:opened"
    )
]
GOOD = [
    "The soup was delicious and the staff were kind.",
    "I would watch this film again tomorrow.",
    "What a lovely concert, every song was a joy.",
    "The room was spotless and the bed very comfortable.",
    "Best holiday we have ever had.",
    "The battery lasts for days, I am delighted.",
    "She explained everything clearly and patiently.",
    "A charming little book with a wonderful ending.",
    "The delivery came early and nothing was damaged.",
    "My children laughed from beginning to end.",
    "Great value, I have already ordered a second one.",
    "The garden is beautiful in every season.",
]
BAD = [
    "The soup was cold and the waiter was rude.",
    "I left the film after twenty minutes.",
    "What a waste of an evening, the sound was awful.",
    "The room smelled and the bed was broken.",
    "The worst holiday we have ever had.",
    "The battery died after an hour, I want my money back.",
    "He was late, bored and unfriendly.",
    "A dull book with a silly ending.",
    "The parcel arrived two weeks late and crushed.",
    "My children were bored from beginning to end.",
    "Far too expensive for such poor quality.",
    "The garden is full of rubbish and weeds.",
]
TOPICS = {
    "sport": [
        "The goalkeeper saved two penalties in the final.",
        "She ran the marathon in under three hours.",
        "The team lost the match in the last minute.",
        "He served an ace to win the set.",
        "The coach changed three players at half time.",
    ],
    "weather": [
        "Heavy rain is expected along the coast tonight.",
        "Fog will clear by noon and the sun will come out.",
        "Temperatures fall below zero in the valleys.",
        "A storm with strong wind is moving north.",
        "Snow closed the mountain pass this morning.",
    ],
    "food": [
        "Fry the onions in butter until they are golden.",
        "The bread needs an hour in the oven.",
        "Add a pinch of salt to the sauce.",
        "This cheese goes well with ripe pears.",
        "Boil the potatoes and mash them with milk.",
    ],
    "music": [
        "The orchestra tuned up before the symphony.",
        "Her new album has twelve songs.",
        "He learned to play the violin at six.",
        "The choir rehearses every Thursday.",
        "The drummer lost the beat in the second verse.",
    ],
}
LANGUAGES = {
    "English": [
        "Where is the next station?",
        "The weather is fine today.",
        "We have no bread left.",
        "My brother lives in a small village.",
        "I will call you tomorrow.",
        "The children are playing outside.",
    ],
    "German": [
        "Wo ist der nächste Bahnhof?",
        "Das Wetter ist heute schön.",
        "Wir haben kein Brot mehr.",
        "Mein Bruder wohnt in einem kleinen Dorf.",
        "Ich rufe dich morgen an.",
        "Die Kinder spielen draußen.",
    ],
    "French": [
        "Où est la prochaine gare ?",
        "Il fait beau aujourd'hui.",
        "Nous n'avons plus de pain.",
        "Mon frère habite dans un petit village.",
        "Je t'appelle demain.",
        "Les enfants jouent dehors.",
    ],
    "Spanish": [
        "¿Dónde está la próxima estación?",
        "Hoy hace buen tiempo.",
        "No nos queda pan.",
        "Mi hermano vive en un pueblo pequeño.",
        "Te llamo mañana.",
        "Los niños juegan fuera.",
    ],
}


def _sentiment(rng: Random) -> tuple[str, str, list[str]]:
    answer = rng.choice(["positive", "negative"])
    return rng.choice(GOOD if answer == "positive" else BAD), answer, ["positive", "negative"]


def _topic(rng: Random) -> tuple[str, str, list[str]]:
    answer = rng.choice(list(TOPICS))
    return rng.choice(TOPICS[answer]), answer, list(TOPICS)


def _opposite(rng: Random) -> tuple[str, str, list[str]]:
    pair = rng.sample(rng.choice(OPPOSITES), 2)
    return pair[0], pair[1], [pair[1]]


def _plural(rng: Random) -> tuple[str, str, list[str]]:
    one, many = rng.choice(PLURALS)
    return one, many, [many]


def _past(rng: Random) -> tuple[str, str, list[str]]:
    now, then = rng.choice(PASTS)
    return now, then, [then]


def _kind(rng: Random) -> tuple[str, str, list[str]]:
    answer = rng.choice(list(KINDS))
    return rng.choice(KINDS[answer]), answer, list(KINDS)


def _larger(rng: Random) -> tuple[str, str, list[str]]:
    pair = [str(number) for number in rng.sample(range(10, 100), 2)]
    return " and ".join(pair), max(pair), pair


def _last_word(rng: Random) -> tuple[str, str, list[str]]:
    sentence = rng.choice([one for kind in TOPICS.values() for one in kind])
    words = sentence.rstrip(".").split()
    return sentence, words[-1], words


def _owner(rng: Random) -> tuple[str, str, list[str]]:
    names, things = rng.sample(NAMES, 3), rng.sample(THINGS, 3)
    facts = " ".join(f"{name} has the {thing}." for name, thing in zip(names, things, strict=True))
    place = rng.randrange(3)
    return f"{facts} Who has the {things[place]}?", names[place], names


def _odd_one(rng: Random) -> tuple[str, str, list[str]]:
    kind, other = rng.sample(list(KINDS), 2)
    odd = rng.choice(KINDS[other])
    words = [*rng.sample(KINDS[kind], 3), odd]
    rng.shuffle(words)
    return ", ".join(words), odd, words


def _is_a(rng: Random) -> tuple[str, str, list[str]]:
    kind, other = rng.sample(list(KINDS), 2)
    right = rng.random() < 0.5
    word = rng.choice(KINDS[kind])
    shown = kind if right else other
    article = "an" if shown[0] in "aeiou" else "a"
    return f"{word.capitalize()} is {article} {shown}.", "yes" if right else "no", ["yes", "no"]


def _language(rng: Random) -> tuple[str, str, list[str]]:
    answer = rng.choice(list(LANGUAGES))
    return rng.choice(LANGUAGES[answer]), answer, list(LANGUAGES)


def _question(rng: Random) -> tuple[str, str, list[str]]:
    name, place, thing = rng.choice(NAMES), rng.choice(PLACES), rng.choice(THINGS)
    asked = rng.random() < 0.5
    forms = (
        (f"Did {name} leave the {thing} in the {place}", f"Is the {thing} still in the {place}")
        if asked
        else (f"{name} left the {thing} in the {place}", f"The {thing} is still in the {place}")
    )
    return rng.choice(forms), "question" if asked else "statement", ["question", "statement"]


@dataclass(frozen=True)
class Task:
    """One type of task: a function that makes inputs, and instructions in which "{}" stands for the input."""

    make: Make
    instructions: tuple[str, ...]


TRAINED = {
    "sentiment": Task(
        _sentiment,
        (
            "Is this review positive or negative?\n\n{}",
            "{}\n\nDid the writer like it? Answer with positive or negative.",
            "Decide whether the mood of the following sentence is positive or negative.\n{}",
        ),
    ),
    "topic": Task(
        _topic,
        (
            "What is this sentence about: sport, weather, food or music?\n\n{}",
            "{}\n\nName the topic of the sentence above. Choose from sport, weather, food and music.",
            "Sort the sentence into one of these: sport, weather, food, music.\nSentence: {}",
        ),
    ),
    "opposite": Task(
        _opposite,
        ("What is the opposite of {}?", "Give a word that means the contrary of {}.", "Find the antonym.\nWord: {}"),
    ),
    "plural": Task(
        _plural,
        ("What is the plural of {}?", "Write the word for more than one {}.", "Put this noun into the plural: {}"),
    ),
    "past tense": Task(
        _past,
        (
            "What is the past tense of {}?",
            "Put the verb {} into the simple past.",
            "Today I {}. Yesterday I ...? One word.",
        ),
    ),
    "kind": Task(
        _kind,
        (
            "Is this word an animal, a fruit, a tool, a colour or a vehicle?\n\n{}",
            "To which group does {} belong: animal, fruit, tool, colour or vehicle?",
            "Name the class of the word. Classes: animal, fruit, tool, colour, vehicle.\nWord: {}",
        ),
    ),
    "larger": Task(
        _larger,
        (
            "Which number is larger, {}?",
            "Give the greater one of these two numbers: {}",
            "{}\n\nWhich of the two is more?",
        ),
    ),
    "last word": Task(
        _last_word,
        (
            "What is the last word of this sentence?\n\n{}",
            "{}\n\nRepeat the final word.",
            "With which word does it end? {}",
        ),
    ),
}
HELD_OUT = {
    "odd one out": Task(
        _odd_one,
        ("Which of these words does not belong with the others: {}?", "Find the word that does not fit.\n{}"),
    ),
    "owner": Task(
        _owner,
        ("Read the facts and answer the question with a name.\n\n{}", "{} Answer with one word."),
    ),
    "true or not": Task(
        _is_a,
        ("Is this true? Answer yes or no.\n\n{}", "{}\n\nIs that right, yes or no?"),
    ),
    "language": Task(
        _language,
        (
            "Which language is this: English, German, French or Spanish?\n\n{}",
            "Name the language of the sentence (English, German, French or Spanish).\nSentence: {}",
        ),
    ),
    "form": Task(
        _question,
        (
            "The full stop or question mark is missing. Is this a question or a statement?\n\n{}",
            "{}\n\nDo these words form a question or a statement?",
        ),
    ),
}


def inputs(task: Task, rng: Random) -> Iterator[tuple[str, str, list[str]]]:
    """Yield different inputs of a task until there are no new ones."""
    seen: set[str] = set()
    for _ in range(10_000):
        found = task.make(rng)
        if found[0] not in seen:
            seen.add(found[0])
            yield found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--train", type=int, default=16, help="inputs of each trained type (16)")
    parser.add_argument("--seen", type=int, default=4, help="new inputs of each trained type to evaluate on (4)")
    parser.add_argument("--held-out", type=int, default=20, help="inputs of each held-out type (20)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    train: dict[str, list[SeedExample]] = {"no_template": [], "task_name": [], "instruction": []}
    evaluation = []
    for name, task in TRAINED.items():
        rng = Random(f"{arguments.seed}/{name}")
        rows = inputs(task, rng)
        for number, (text, answer, _) in enumerate(islice(rows, arguments.train)):
            instruction = rng.choice(task.instructions).format(text)
            forms = (text, f"[{name}] {text}", instruction)
            for way, prompt in zip(train, forms, strict=True):
                train[way].append(SeedExample(f"{name}-{number}", prompt, answer, name))
        for number, (text, answer, options) in enumerate(islice(rows, arguments.seen)):
            prompt = rng.choice(task.instructions).format(text)
            evaluation.append(_asked(f"seen {name}-{number}", prompt, answer, options, "trained types, instruction"))
    for name, task in HELD_OUT.items():
        rng = Random(f"{arguments.seed}/{name}")
        for number, (text, answer, options) in enumerate(islice(inputs(task, rng), arguments.held_out)):
            prompt = rng.choice(task.instructions).format(text)
            evaluation.append(_asked(f"{name}-{number}", prompt, answer, options, "held-out types, instruction"))
            evaluation.append(
                _asked(f"{name}-{number} named", f"[{name}] {text}", answer, options, "held-out types, name")
            )
    arguments.to.mkdir(parents=True, exist_ok=True)
    for way, examples in (*train.items(), ("evaluation", evaluation)):
        print(f"{way}: {len(examples)} prompts")
        write_atomic(
            arguments.to / f"{way}.jsonl", "".join(serialization.to_json(example) + "\n" for example in examples)
        )


def _asked(name: str, prompt: str, answer: str, options: list[str], kind: str) -> SeedExample:
    right = Constraint("final_answer:choice", {"answer": answer, "options": options})
    return SeedExample(name, prompt, answer, kind, constraints=(right,))


if __name__ == "__main__":
    main()
