# ruff: noqa: RUF001
"""Language confusion: 23 languages told apart, and rates by hand."""

from __future__ import annotations

import pytest

from infosteer.methods.data.markers.language import identify, language_confusion, lines_pass, words_pass
from infosteer.methods.data.markers.taxonomy import TAXONOMY

SAID = {  # two sentences in each language
    "Arabic": ("ذهبت إلى السوق واشتريت الخبز والحليب", "هذا الكتاب جديد ولم أقرأه بعد"),
    "Chinese": ("我昨天去市场买了面包和牛奶。", "这本书很新,我还没有读过。"),
    "Czech": ("Včera jsem šel na trh a koupil chléb i mléko.", "Tato kniha je nová, ale ještě jsem ji nečetl."),
    "Dutch": ("Ik ging gisteren naar de markt en kocht brood.", "Dit boek is nieuw, maar ik heb het niet gelezen."),
    "English": ("I went to the market and bought some bread.", "This book is new, but I have not read it yet."),
    "French": ("Je suis allé au marché et j'ai acheté du pain.", "Ce livre est nouveau, mais je ne l'ai pas lu."),
    "German": ("Ich ging auf den Markt und kaufte Brot.", "Das Buch ist neu, aber ich habe es nicht gelesen."),
    "Greek": ("Πήγα χθες στην αγορά και αγόρασα ψωμί.", "Το βιβλίο είναι καινούργιο, δεν το διάβασα."),
    "Hebrew": ("הלכתי אתמול לשוק וקניתי לחם וחלב", "הספר הזה חדש ועדיין לא קראתי אותו"),
    "Hindi": ("मैं कल बाज़ार गया और रोटी खरीदी।", "यह किताब नई है, मैंने नहीं पढ़ी।"),
    "Indonesian": ("Saya pergi ke pasar dan membeli roti.", "Buku ini baru dan saya tidak bisa membacanya."),
    "Italian": ("Ieri sono andato al mercato per il pane.", "Il libro è nuovo, ma non l'ho letto con lei."),
    "Japanese": ("昨日市場へ行ってパンを買いました。", "この本は新しいので、まだ読んでいません。"),
    "Korean": ("나는 어제 시장에 가서 빵을 샀다.", "이 책은 새 책이고 아직 읽지 않았다."),
    "Persian": ("دیروز به بازار رفتم و نان خریدم", "این کتاب جدید است و هنوز نخوانده‌ام"),
    "Polish": ("Wczoraj poszedłem na targ i kupiłem chleb.", "Ta książka jest nowa, ale jej nie czytałem."),
    "Portuguese": ("Ontem fui ao mercado e comprei pão.", "O livro é novo, mas ainda não o li com ela."),
    "Romanian": ("Ieri am fost la piață și am cumpărat pâine.", "Cartea este nouă, dar nu am citit-o pentru ei."),
    "Russian": ("Вчера я ходил на рынок и купил хлеб.", "Эта книга новая, но я её ещё не читал."),
    "Spanish": ("Ayer fui al mercado y compré pan para los niños.", "El libro es nuevo, pero no lo he leído con ella."),
    "Turkish": ("Dün çarşıya gittim ve bir ekmek aldım.", "Bu kitap yeni ama ben daha okumadım."),
    "Ukrainian": ("Вчора я ходив на ринок і купив хліб.", "Ця книга нова, але її ще не читали її друзі."),
    "Vietnamese": ("Hôm qua tôi đã đi chợ và mua bánh mì.", "Cuốn sách này rất mới, tôi không có nó."),
}


def test_the_taxonomys_languages_are_told_apart() -> None:
    assert set(SAID) == set(TAXONOMY["lang"])  # type: ignore[arg-type]
    wrong = {text: identify(text) for name, texts in SAID.items() for text in texts if identify(text) != name}
    assert not wrong


def test_what_tells_nothing() -> None:
    for text in ("", "42 + 1 = 43", "Paris", "x = y", "Anna Maria Bob Carl", "的的"):
        assert identify(text) is None, text


def test_lines_and_words() -> None:
    german = "\n".join(SAID["German"])
    assert lines_pass(german, "German")
    assert lines_pass(f"{german}\n\n42\nBerlin", "German")
    assert not lines_pass(f"{german}\n{SAID['English'][0]}", "German")
    assert lines_pass("anything at all", "German", identify=lambda line: None)
    assert words_pass("Я купил хлеб", "Russian")
    assert words_pass("Я купил bread", "Russian") is False
    assert words_pass("Я купил x и pH", "Russian"), "short ones may be symbols"
    assert words_pass(german, "German") is None


def test_rates() -> None:
    russian, greek = SAID["Russian"][0], SAID["Greek"][0]
    texts = [russian, f"{russian} bread", f"{russian}\n{SAID['English'][0]}", greek]
    found = language_confusion(texts, ["Russian", "Russian", "Russian", "Greek"])
    assert found["line_pass_rate"] == 0.75
    assert found["word_pass_rate"] == pytest.approx(2 / 3)
    assert found["pass_rate"] == pytest.approx(2 / (1 / 0.75 + 1.5))
    assert language_confusion([SAID["German"][0]], ["German"]) == {"line_pass_rate": 1.0}
    assert language_confusion([SAID["German"][0]], ["Greek"]) == {"line_pass_rate": 0.0}
    with pytest.raises(ValueError, match="argument 2"):
        language_confusion(["a"], [])
