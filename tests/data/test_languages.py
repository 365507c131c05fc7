"""srlm.data.languages: detection of scripts by letters, and of other languages than the wanted ones."""

from __future__ import annotations

import json
from importlib import resources

import pytest

from srlm.data.languages import in_languages, script

TEA = {  # "How is tea made?" by language
    "am": "ሻይ እንዴት እንደሚዘጋጅ አስረዳ።", "ar": "اشرح كيف يُعد الشاي.",
    "bg": "Обясни как се прави чай.", "bn": "চা কীভাবে বানাতে হয়?",
    "el": "Εξήγησε πώς φτιάχνουμε τσάι.", "fa": "توضیح بده چگونه چای درست کنیم.",
    "gu": "ચા કેવી રીતે બનાવવી?", "he": "הסבר כיצד מכינים תה.",
    "hi": "चाय कैसे बनाते हैं?", "hy": "Բացատրիր, ինչպես պատրաստել թեյ։",
    "ja": "お茶の入れ方は", "ka": "ახსენი, როგორ მზადდება ჩაი.",
    "km": "សូមពន្យល់ពីរបៀបធ្វើតែ។", "kn": "ಚಹಾ ಹೇಗೆ ಮಾಡುವುದು?",
    "ko": "차를 끓이는 법", "lo": "ອະທິບາຍວິທີເຮັດຊາ",
    "ml": "ചായ എങ്ങനെ ഉണ്ടാക്കാം?", "mr": "चहा कसा बनवायचा?",
    "my": "လက်ဖက်ရည် ဖျော်နည်း", "ne": "चिया कसरी बनाउने?",
    "pa": "ਚਾਹ ਕਿਵੇਂ ਬਣਾਈਏ?", "ru": "Как заварить чай?",
    "si": "තේ හදන්නේ කොහොමද?", "sr": "Објасни како се кува чај.",
    "ta": "தேநீர் எப்படி செய்வது?", "te": "టీ ఎలా చేయాలి?",
    "th": "อธิบายวิธีชงชา", "uk": "Поясни, як приготувати чай.",
    "ur": "چائے بنانے کا طریقہ", "yi": "ווי אַזוי מאַכט מען טיי",
    "zh": "怎么泡茶",
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "languages", "expected"),
    [
        ("Explain why the sky is blue.", ["en"], True),
        ("Explain why the sky is blue.", ["zh"], False),
        ("请解释为什么天空是蓝色的。", ["zh"], True),
        ("请解释为什么天空是蓝色的。", ["en"], False),
        ("请解释为什么天空是蓝色的。", ["en", "zh"], True),
        ("Почему небо голубое?", ["en", "zh"], False),
        ("Почему небо голубое?", ["ru"], True),
        ("Почему небо голубое?", [], True),
        ("なぜ空は青いのですか", ["zh"], False),
        ("なぜ空は青いのですか", ["ja"], True),
        ("하늘은 왜 파란가요", ["ko"], True),
        ("لماذا السماء زرقاء", ["ar"], True),
        ("आकाश नीला क्यों है", ["hi"], True),
        *((text, [language], True) for language, text in TEA.items()),
        *((text, ["en"], False) for text in TEA.values()),
        *(("Explain how to make tea.", [language], False) for language in TEA),
        (TEA["th"], ["lo"], False),
        (TEA["ta"], ["hi", "bn"], False),
        ("Objasni kako se kuva čaj.", ["sr"], True),
        ("Hãy giải thích cách pha trà", ["vi"], True),
        ("1 + 1 = ?", ["en"], False),
        ("1 + 1 = ?", [], True),
        ("", ["en"], False),
        # Interlingua, which the classifier lacks, so only scripts count.
        ("abcdefg" + "天地人", ["ia"], True),  # 7 of 10
        ("abcdef" + "天地人和", ["ia"], False),  # 6 of 10
        ("abcdef 1234567890 !?" + "天地", ["ia"], True),  # only letters count
    ],
)
def test_in_languages_compares_scripts_and_languages(text, languages, expected):
    assert in_languages(text, languages) is expected


BUILTIN = resources.files("srlm.data") / "builtin"
SHORT = {
    "de": "Wie backe ich ein Brot mit Sauerteig?",
    "es": "¿Cuál es la capital de Perú?",
    "fa": "چگونه نان بپزم؟",
    "ar": "كيف أخبز الخبز؟",
    "fr": "Écris un poème sur la mer.",
    "id": "Bagaimana cara membuat roti?",
    "it": "Scrivi una breve storia su un gatto.",
    "nl": "Schrijf een gedicht over de zee.",
    "pl": "Jak upiec chleb?",
    "pt": "Escreva uma história sobre um gato.",
    "ru": "Как испечь хлеб?",
    "sv": "Skriv en dikt om havet.",
    "tr": "Ekmek nasıl yapılır?",
    "uk": "Як спекти хліб удома?",
}
PLAIN = ("Why?", "sum 3 and 4", "Print hello world in Python", "List 3 colors", "def f(x): return x", "OK")


@pytest.mark.parametrize(("language", "text"), SHORT.items())
def test_short_prompts_are_in_their_language_and_no_other(language, text):
    assert in_languages(text, [language])
    assert in_languages(text, ["en", language])
    assert not in_languages(text, ["en"])
    assert not in_languages(text, ["zh", "ja"])


def test_languages_of_one_script_are_told_from_each_other():
    assert not in_languages(SHORT["ar"], ["fa"])
    assert not in_languages(SHORT["fa"], ["ar"])
    assert not in_languages("روٹی کیسے بنائیں؟", ["fa"])
    assert not in_languages(SHORT["ru"], ["uk"])
    assert not in_languages(SHORT["es"], ["fr", "it"])


@pytest.mark.parametrize("text", PLAIN)
def test_texts_of_no_clear_language_are_kept(text):
    assert in_languages(text, ["en"])


def test_builtin_prompts_are_in_their_language():
    for name in ("ift", "eft", "evaluation"):
        rows = map(json.loads, (BUILTIN / f"{name}.jsonl").read_text(encoding="utf-8").splitlines())
        assert all(in_languages(row["prompt"], [row["language"]]) for row in rows)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The sky is blue, 天空.", "latin"),
        ("天空是蓝色的 (blue)", "han"),
        ("空は青い", "kana"),
        ("東京大学の研究者", "kana"),  # one kana of eight letters
        ("天地玄黃宇宙洪荒日月盈昃辰宿列張の", "han"),  # one kana of seventeen
        ("하늘은 파랗다", "hangul"),
        ("Почему небо голубое", "cyrillic"),
        ("لماذا السماء", "arabic"),
        ("आकाश नीला", "devanagari"),
        (TEA["th"], "thai"),
        (TEA["lo"], "lao"),
        (TEA["km"], "khmer"),
        (TEA["my"], "myanmar"),
        (TEA["he"], "hebrew"),
        (TEA["el"], "greek"),
        (TEA["ta"], "tamil"),
        (TEA["am"], "ethiopic"),
        ("Hãy giải thích", "latin"),
        ("1 + 1 = 2", None),
        ("", None),
    ],
)
def test_script_is_that_of_most_letters(text, expected):
    assert script(text) == expected
