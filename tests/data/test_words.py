"""srlm.data.words: hand-computed words of many scripts, and ROUGE-L compared with another implementation."""

from __future__ import annotations

import itertools
import random
import re
import unicodedata

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from srlm.data import words
from srlm.data.splits import Overlap
from srlm.data.words import contains_word, find_words, normalized, tokens
from tests.helpers import rouge_l


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # scripts with spaces; vowel signs and other marks belong to the preceding letter
        pytest.param("मेरा बेटा रोता है, क्या करूँ?", "मेरा बेटा रोता है क्या करूँ", id="Hindi"),
        pytest.param("चहा कसा बनवायचा ते सांगा.", "चहा कसा बनवायचा ते सांगा", id="Marathi"),
        pytest.param("আমার ছেলে কাঁদে, কী করব?", "আমার ছেলে কাঁদে কী করব", id="Bengali"),
        pytest.param("கடல் பற்றி ஒரு கவிதை எழுது.", "கடல் பற்றி ஒரு கவிதை எழுது", id="Tamil"),
        pytest.param("టీ ఎలా చేయాలి?", "టీ ఎలా చేయాలి", id="Telugu"),
        pytest.param("ಚಹಾ ಹೇಗೆ ಮಾಡುವುದು?", "ಚಹಾ ಹೇಗೆ ಮಾಡುವುದು", id="Kannada"),
        pytest.param("ചായ എങ്ങനെ ഉണ്ടാക്കാം?", "ചായ എങ്ങനെ ഉണ്ടാക്കാം", id="Malayalam"),
        pytest.param("ચા કેવી રીતે બનાવવી?", "ચા કેવી રીતે બનાવવી", id="Gujarati"),
        pytest.param("ਚਾਹ ਕਿਵੇਂ ਬਣਾਈਏ?", "ਚਾਹ ਕਿਵੇਂ ਬਣਾਈਏ", id="Punjabi"),
        pytest.param("තේ හදන්නේ කොහොමද?", "තේ හදන්නේ කොහොමද", id="Sinhala"),
        pytest.param("اشرح كيف تُعد القهوة.", "اشرح كيف تعد القهوة", id="Arabic"),
        pytest.param("چائے بنانے کا طریقہ بتائیں۔", "چائے بنانے کا طریقہ بتائیں", id="Urdu"),
        pytest.param("הסבר כיצד מכינים תה.", "הסבר כיצד מכינים תה", id="Hebrew"),
        pytest.param("한국어 문장을 써 줘.", "한국어 문장을 써 줘", id="Korean"),
        pytest.param("Почему небо голубое?", "почему небо голубое", id="Russian"),
        pytest.param("Πώς φτιάχνουμε τσάι;", "πώσ φτιάχνουμε τσάι", id="Greek"),  # final sigma is sigma
        pytest.param("Բացատրիր, ինչպես պատրաստել թեյ։", "բացատրիր ինչպես պատրաստել թեյ", id="Armenian"),
        pytest.param("ახსენი, როგორ მზადდება ჩაი.", "ახსენი როგორ მზადდება ჩაი", id="Georgian"),
        pytest.param("ሻይ፡እንዴት፡ይዘጋጃል።", "ሻይ እንዴት ይዘጋጃል", id="Amharic"),  # its word separator is punctuation
        pytest.param("བོད་ཡིག", "བོད ཡིག", id="Tibetan"),  # split by syllable
        pytest.param("Hãy giải thích.", "hãy giải thích", id="Vietnamese"),
        # scripts without spaces: a letter with its marks is one word
        pytest.param("天空为什么是蓝的？", "天 空 为 什 么 是 蓝 的", id="Chinese"),
        pytest.param("東京タワーへ、々", "東 京 タ ワ ー へ 々", id="Japanese"),
        pytest.param("ไม่กินน้ำ", "ไ ม่ กิ น น้ำ", id="Thai"),
        pytest.param("ກິນເຂົ້າ", "ກິ ນ ເ ຂົ້ າ", id="Lao"),
        pytest.param("ꦲꦏ꧀ꦱꦫꦗꦮ", "ꦲ ꦏ꧀ꦱ ꦫ ꦗ ꦮ", id="Javanese"),
        pytest.param("ᬅᬓ᭄ᬱᬭᬩᬮᬶ", "ᬅ ᬓ᭄ᬱ ᬭ ᬩ ᬮᬶ", id="Balinese"),
        pytest.param("ꆈꌠꁱꂷ", "ꆈ ꌠ ꁱ ꂷ", id="Yi"),
        pytest.param("ភាសាខ្មែរ។", "ភា សា ខ្មែ រ", id="Khmer"),  # a subscript letter belongs to its stack
        pytest.param("မြန်မာစာ", "မြ န် မာ စာ", id="Burmese"),
        # mixed scripts, and texts without words
        pytest.param("用Python3写个循环。", "用 python3 写 个 循 环", id="Chinese and Latin"),
        pytest.param("ไทย2567กับ AI", "ไ ท ย 2567 กั บ ai", id="Thai and Latin"),
        pytest.param("Don't STOP, it's 3.5_km!", "don t stop it s 3 5 km", id="English punctuation"),
        pytest.param("l’homme don´t naïve", "l homme don t naïve", id="apostrophes"),
        pytest.param("Great 👍🏽 job ❤️!", "great job", id="emoji"),
        pytest.param("?! ?", "? ! ?", id="symbols alone"),
        pytest.param("👍🏽 ❤️", "👍🏽 ❤", id="emoji alone"),
        pytest.param(" \n\u3000\u200b", "", id="blank"),
    ],
)
def test_tokens_are_the_words_of_each_script(text: str, expected: str) -> None:
    assert tokens(text) == [unicodedata.normalize("NFC", word) for word in expected.split()]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param("اِشْرَحْ كَيْفَ تُعَدُّ القَهْوَةُ", "اشرح كيف تعد القهوة", id="Arabic vowel signs"),
        pytest.param("الســـلام", "السلام", id="Arabic tatweel"),
        pytest.param("הַסְבֵּר כֵּיצַד מְכִינִים", "הסבר כיצד מכינים", id="Hebrew points"),
        pytest.param("می\u200cخواهم", "میخواهم", id="Persian zero-width non-joiner"),
        pytest.param("ක්\u200dරියාව", "ක්රියාව", id="Sinhala zero-width joiner"),
        pytest.param("น้ำ", "น\u0e4d้า", id="Thai am in two signs"),
        pytest.param("ນ້ຳ", "ນໍ້າ", id="Lao am in two signs"),
        pytest.param("con\u00adtent \u200eleft", "content left", id="soft hyphen and direction mark"),
        pytest.param("❤\ufe0f", "❤", id="variation selector"),
        pytest.param("Ａ１ ﬁne", "a1 fine", id="compatibility forms"),
        pytest.param("ﾀﾜｰ", "タワー", id="half-width kana"),
        pytest.param("STRASSE ΛΟΓΟΣ", "straße λόγος".replace("ό", "ο"), id="case"),
    ],
)
def test_equivalent_spellings_give_the_same_tokens(one: str, other: str) -> None:
    assert tokens(one) == tokens(other) != []
    assert rouge_l(one, other) == 1.0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param("آدم", "ادم", id="Arabic madda"),
        pytest.param("सड़क", "सडक", id="Devanagari nukta"),
        pytest.param("résumé", "resume", id="accents"),
        pytest.param("१२", "12", id="digits of another script"),
        pytest.param("がき", "かき", id="Japanese voicing"),
    ],
)
def test_different_words_give_different_tokens(one: str, other: str) -> None:
    assert tokens(one) != tokens(other)


SENTENCES = [
    *("मेरा बेटा रोता है, क्या करूँ?", "আমার ছেলে কাঁদে, কী করব?", "கடல் பற்றி ஒரு கவிதை எழுது.", "اِشْرَحْ كَيْفَ"),
    *("הַסְבֵּר כֵּיצַד", "ไม่กินน้ำ", "ກິນເຂົ້າ", "ភាសាខ្មែរ។", "မြန်မာစာ", "東京タワーへ", "한국어 문장", "Hãy giải thích."),
]


@pytest.mark.parametrize("text", SENTENCES)
def test_unicode_normal_forms_give_the_same_tokens(text: str) -> None:
    forms = {form: tokens(unicodedata.normalize(form, text)) for form in ("NFC", "NFD", "NFKC", "NFKD")}
    assert len(set(map(tuple, forms.values()))) == 1


@pytest.mark.parametrize("text", SENTENCES)
def test_tokens_keep_all_letters_and_start_with_no_mark(text: str) -> None:
    found = tokens(text)
    assert not any(unicodedata.category(word[0]).startswith("M") for word in found)
    letters = [c for c in normalized(text) if unicodedata.category(c)[0] in "LM"]
    assert [c for word in found for c in word] == letters


@given(st.text())
def test_tokenising_tokens_changes_nothing(text: str) -> None:
    assert tokens(" ".join(tokens(text))) == tokens(text)
    assert bool(tokens(text)) or not normalized(text).strip()


@given(st.text(st.characters(max_codepoint=127)))
def test_the_ascii_pattern_gives_the_same_words(text: str) -> None:
    assert words._ASCII_WORD.findall(text.lower()) == words._WORD.findall(text.lower())


@pytest.mark.parametrize(
    "text",
    [
        *("मेरा बेटा रोता है", "আমার ছেলে কাঁদে", "கடல் பற்றி ஒரு கவிதை எழுது", "టీ ఎలా చేయాలి", "ചായ എങ്ങനെ ഉണ്ടാക്കാം"),
        *(
            "තේ හදන්නේ කොහොමද",
            "چائے بنانے کا طریقہ",
            "הסבר כיצד מכינים תה",
            "한국어 문장을 써",
            "Hãy giải thích cách pha",
        ),
    ],
)
def test_tokens_match_unicode_word_boundaries(text: str) -> None:
    between = regex.split(r"(?V1w)\b", normalized(text))  # the default boundaries of Unicode's Annex 29
    assert tokens(text) == [word for word in between if word.strip()]


# ROUGE-L


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        pytest.param("मेरा बेटा रोता है, क्या करूँ?", "मेरी बेटी रोती है, क्या करूँ?", 3 / 6, id="Hindi"),
        pytest.param("கடல் பற்றி ஒரு கவிதை எழுது.", "கடலை பாறை ஒரு கவிதை எழுதி.", 2 / 5, id="Tamil"),
        pytest.param("আমার ছেলে কাঁদে, কী করব?", "আমার মেয়ে হাসে, কী খাব?", 2 / 5, id="Bengali"),
        pytest.param("చాయ ఎలా చేయాలి?", "చేప ఎలా చేసింది?", 1 / 3, id="Telugu"),
        pytest.param("اِشْرَحْ كَيْفَ تُعَدُّ القَهْوَةُ", "اشرح كيف يعد الشاي", 2 / 4, id="Arabic"),
        pytest.param("הסבר כיצד מכינים תה", "הַסְבֵּר כיצד אופים עוגה", 2 / 4, id="Hebrew"),
        pytest.param("می‌خواهم چای بنوشم", "می‌خواهم قهوه بنوشم", 2 / 3, id="Persian"),
        pytest.param("แมวกินปลา", "แมวกินข้าว", 6 / 8, id="Thai"),  # แ ม ว กิ น, and า
        pytest.param("ກິນເຂົ້າ", "ກິນປາ", 2 * 3 / (5 + 4), id="Lao"),  # ກິ ນ, and າ
        pytest.param("ភាសាខ្មែរ", "ភាសាថៃ", 2 * 2 / (4 + 3), id="Khmer"),  # ភា សា
        pytest.param("မြန်မာစာ", "မြန်မာပြည်", 2 * 3 / (4 + 5), id="Burmese"),  # မြ န် မာ
        pytest.param("天空为什么是蓝的？", "天空是蓝的。", 2 * 5 / (8 + 5), id="Chinese"),
        pytest.param("空は青い", "海は青い", 3 / 4, id="Japanese"),
        pytest.param("하늘은 왜 파란가요", "바다는 왜 파란가요", 2 / 3, id="Korean"),
        pytest.param("Police killed the gunman", "the gunman kill police", 2 / 4, id="English"),
    ],
)
def test_rouge_l_matches_hand_computed_values(one: str, other: str, expected: float) -> None:
    assert rouge_l(one, other) == pytest.approx(expected, abs=1e-9)
    assert Overlap([other]).most_similar(one)[0] == pytest.approx(expected, abs=1e-9)


def test_rouge_l_matches_the_package_rouge_score() -> None:
    scorer_of = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer

    class Words:
        def tokenize(self, text: str) -> list[str]:
            return tokens(text)

    scorer = scorer_of(["rougeL"], tokenizer=Words())
    draw = random.Random(0)
    pieces = [list(group) for group in zip(*(re.findall(r"\S+|\w", text) * 4 for text in SENTENCES), strict=False)]
    texts = [" ".join(draw.choices(draw.choice(pieces) + SENTENCES, k=draw.randint(1, 6))) for _ in range(60)]
    values = set()
    for one, other in itertools.product(texts, texts):
        value = scorer.score(one, other)["rougeL"].fmeasure
        assert rouge_l(one, other) == pytest.approx(value, abs=1e-9)
        values.add(round(value, 3))
    assert len(values) > 50


# Keywords


@pytest.mark.parametrize(
    ("text", "word", "expected"),
    [
        ("Draw a MAP.", "map", True),
        ("Draw the maps.", "map", False),
        ("a bitmap", "map", False),
        ("see my_map", "map", False),
        ("a well-known map-maker", "map", True),
        ("Go  to it", "go to", False),  # a phrase is matched literally
        ("Please go to it.", "Go to", True),
        ("I like C++.", "C++", True),
        ("vitamin C", "C++", False),
        ("ABC++", "c++", False),
        ("看图片吧", "图片", True),
        ("打开file吧", "file", True),  # Chinese needs no space around a word
        ("चाय बनाओ", "चाय", True),
        ("चायवाला", "चाय", False),
        ("चाय", "चा", False),
        ("चित्रा से पूछो", "चित्र", False),  # a name that contains the word
        ("एक चित्र बनाओ", "चित्र", True),
        ("اُرْسُمْ صُورَةً", "صورة", True),
        ("ดูรูปภาพนี้", "รูปภาพ", True),
        ("กิน", "ก", False),  # the vowel sign is part of the letter
        ("사진을 봐", "사진", False),
        ("ЭТО КАРТА.", "карта", True),
        ("caf\u00e9", "cafe\u0301", True),
        ("cafe\u0301", "cafe", False),
        ("any", "", False),
        ("any", " ", False),
    ],
)
def test_contains_word_matches_whole_words(text: str, word: str, expected: bool) -> None:
    assert contains_word(text, word) is expected


def test_find_words_prefers_the_longest_match() -> None:
    assert find_words("It is Dark Blue, not red.", ["blue", "dark blue", "Red", "green"]) == {"dark blue", "red"}
    assert find_words("blue and dark blue", ["blue", "dark blue"]) == {"blue", "dark blue"}
    assert find_words("不是", ["是", "不是"]) == {"不是"}
    assert find_words("the blue sky", ["blue", "blue sky"]) == {"blue sky"}
    assert find_words("any", []) == set()
