"""The report page in a real headless Chromium."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from srlm.cli.report import main
from srlm.reporting import write_report
from tests.reporting.made_run import RIVERS, SILENT, TIE, evaluation, make_run, measure, write_measures
from tests.reporting.test_page import HOSTILE, long_entry

pytestmark = [pytest.mark.e2e, pytest.mark.variant]
PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if PROGRAM is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api").sync_playwright().start()
    browser = playwright.chromium.launch(executable_path=PROGRAM, args=OPTIONS)
    yield browser
    browser.close()
    playwright.stop()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    roots = [make_run(folder / "made", HOSTILE), make_run(folder / "other")]
    write_report(roots, folder / "report.html")
    return folder / "report.html"


@pytest.fixture
def page(browser: Any, report: Path) -> Iterator[Any]:
    """Yield a page that fails the test on any console message, such as an error or a policy violation."""
    with opened(browser, report) as page:
        yield page


class opened:
    """A context with a fully drawn page; on exit it checks that the page has logged no error."""

    def __init__(self, browser: Any, path: Path, place: str = "", **context: Any):
        self.page = browser.new_context(**context).new_page()
        self.messages: list[str] = []
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.goto(f"{path.as_uri()}{place}")

    def __enter__(self) -> Any:
        self.page.wait_for_selector("body[data-ready=texts]")
        return self.page

    def __exit__(self, *error: object) -> None:
        if error == (None, None, None):
            assert self.messages == []
            assert self.page.evaluate("window.fooled") is None
        self.page.context.close()


def found(page: Any) -> list[str]:
    return [row.inner_text() for row in page.locator(".row div:first-child").all()]


def test_the_page_opens_with_verdict_charts_and_list(page: Any) -> None:
    assert page.locator(".headline strong").first.inner_text() == "M2: better"
    titles = [caption.inner_text().split("\n")[0] for caption in page.locator("figcaption").all()]
    assert titles[:3] == ["Head to head", "By type of instruction", "Judge accuracy"]
    few = page.locator("figure", has_text="By type of instruction").inner_text()
    assert "fewer than 5 prompts: creative, made (1), creative, other (1)." in few
    assert {
        "Scores",
        "Mean score by the run's own judge",
        "From prompts to pairs",
        "Training: SFT, loss",
        "Time by stage",
    } <= set(titles)
    assert page.locator("figure svg[role=img]").count() == len(titles) - 1  # types with few prompts have no chart
    assert page.locator("#found").inner_text() == f"{6 + len(HOSTILE)} of {6 + len(HOSTILE)} prompts"


def test_missing_intervals_are_shown_as_na_in_charts_and_table(browser: Any, tmp_path: Path) -> None:
    """Values of a single prompt have no error bar and no interval in the tooltip."""
    root = make_run(tmp_path / "made")
    model = evaluation(2, (0.7, 0.62, 0.78), (0.3, 0.1, 0.5))
    for part in ("judge", "head_to_head"):
        model[part] |= {name: measure(found["value"], n=1) for name, found in model[part].items()}
    write_measures(root, [model], start=2)
    write_report([root], tmp_path / "report.html")
    with opened(browser, tmp_path / "report.html") as page:
        for title, expected_tip in (
            ("Judge accuracy", "M2: 70 % [n/a], n = 1"),
            ("Head to head", "win 30 % [n/a], n = 1"),
        ):
            figure = page.locator("figure", has_text=title).first
            tips = [tip.text_content() for tip in figure.locator("svg title").all()]
            assert any(expected_tip in tip for tip in tips), tips
        judged = page.locator("figure", has_text="Judge accuracy").first
        lines = judged.locator("g[aria-label=rule] line").count()
        dots = judged.locator("g[aria-label=dot] > *").count()
        assert (dots > 0, lines < dots) == (True, True)
        assert "70 % [n/a]" in page.locator(".verdict").first.inner_text()
        assert "70 [n/a]" in page.locator("table.models").inner_text()


def test_each_chart_has_a_table_of_its_values(page: Any) -> None:
    funnel = page.locator("figure", has_text="From prompts to pairs")
    funnel.locator("summary").click()
    assert "pairs\t1\t" in funnel.locator("table").inner_text()


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("FJORD", ["What is a fjord?"]),
        ("because of rhine", ["Name three rivers of Asia."]),
        ("says M2", ["Describe rain."]),
        ("nowhere to be found", []),
    ],
)
def test_search_finds_words_of_prompts_answers_and_judgements(page: Any, query: str, shown: list[str]) -> None:
    page.fill("#query", query)
    page.wait_for_function("n => document.querySelector('#found').textContent.startsWith(`${n} of`)", arg=len(shown))
    assert found(page) == shown


@pytest.mark.parametrize(
    ("filters", "shown"),
    [
        ({"source": "held_out"}, ["What does rain do?"]),
        ({"source": "evaluation", "type": "creative"}, ["Describe rain."]),
        ({"flag": "parse_rate"}, ["Sing a song."]),
        ({"flag": "tie_share"}, ["What is a fjord?"]),
        ({"outcome": "prompt rejected: keyword: map"}, ["Draw a map."]),
        ({"iteration": "2", "gap": "3.5"}, ["Name three rivers of Asia."]),
    ],
)
def test_each_filter_shows_only_its_prompts(page: Any, filters: dict[str, str], shown: list[str]) -> None:
    for name, value in filters.items():
        if name == "gap":
            page.fill("#gap", value)
        else:
            page.select_option(f"#{name}", value)
    page.wait_for_function("n => document.querySelector('#found').textContent.startsWith(`${n} of`)", arg=len(shown))
    assert found(page) == shown
    page.click("#clear")
    page.wait_for_function(f"document.querySelector('#found').textContent.startsWith('{6 + len(HOSTILE)} of')")


def test_prompt_view_shows_candidates_judgements_and_choices(page: Any) -> None:
    page.click("text=Name three rivers of Asia.")
    page.wait_for_selector(f"#entry[data-id='{RIVERS}']")
    answers = [answer.inner_text() for answer in page.locator("#entry .answer").all()]
    assert [answer.split()[0] for answer in answers] == ["c0", "c2", "c1"]  # by score
    assert "✓ chosen" in answers[0]
    assert "score 5.00" in answers[0]
    assert "Because of Yangtze" in answers[0]
    assert "✗ rejected" in answers[2]


def test_missing_scores_are_not_shown_as_zero(page: Any) -> None:
    page.select_option("#flag", "parse_rate")
    page.click("text=Sing a song.")
    page.wait_for_selector(f"#entry[data-id='{SILENT}']")
    text = page.locator("#entry").inner_text()
    assert text.count("no score") == 6  # for each of two candidates: in heading, list and judgement
    assert "0.00" not in text


def test_hostile_texts_are_shown_as_plain_text(page: Any) -> None:
    page.select_option("#source", "feedback")
    for n, text in enumerate(HOSTILE):
        page.evaluate("id => { location.hash = `prompt=${id}` }", f"t2/p{n + 10:05}")
        page.wait_for_selector(f"#entry[data-id='t2/p{n + 10:05}']")
        shown = page.evaluate("document.querySelector('#entry .prompt').textContent")
        if text.isprintable():
            assert shown == text
        assert (
            page.locator("#entry img, #entry script, #entry svg, #entry iframe, #entry a[href^=javascript]").count()
            == 0
        )


def test_invisible_characters_are_shown_by_their_code(page: Any) -> None:
    page.evaluate("location.hash = 'prompt=t2/p00015'")
    page.wait_for_selector("#entry[data-id='t2/p00015']")
    codes = [mark.inner_text() for mark in page.locator("#entry .prompt .control").all()]
    assert codes == ["U+202E", "U+200B", "U+001B", "U+0000", "U+2028"]


def test_keyboard_shortcuts_work_outside_inputs(page: Any) -> None:
    page.keyboard.press("j")
    page.wait_for_selector(f"#entry[data-id='{RIVERS}']")
    page.keyboard.press("j")
    page.wait_for_selector("#entry[data-id='t2/p00001']")
    page.keyboard.press("k")
    page.wait_for_selector(f"#entry[data-id='{RIVERS}']")
    page.keyboard.press("/")
    page.keyboard.type("fjord")
    page.wait_for_function("document.querySelector('#found').textContent.startsWith('1 of')")
    page.wait_for_selector(f"#entry[data-id='{TIE}']")  # the open prompt follows the filter
    page.keyboard.press("ArrowDown")  # from the search into the list
    assert page.evaluate("document.activeElement.id") == "list"
    page.keyboard.press("/")
    page.keyboard.press("Escape")
    page.wait_for_function(f"document.querySelector('#found').textContent.startsWith('{6 + len(HOSTILE)} of')")
    page.focus("#list")
    for key, prompt in (("Home", RIVERS), ("ArrowDown", TIE), ("ArrowDown", SILENT), ("ArrowUp", TIE)):
        page.keyboard.press(key)
        page.wait_for_selector(f"#entry[data-id='{prompt}']")
    page.keyboard.press("Enter")
    page.wait_for_selector("#entry:focus")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "list"
    page.fill("#query", "nowhere to be found")
    page.wait_for_selector("#entry:has-text('No prompt matches.')")


def test_prompts_are_sorted_by_gap_score_and_length(page: Any) -> None:
    page.select_option("#run", "1")
    for order, first in {
        "gap-down": "Name three rivers of Asia.",
        "score": "What is a fjord?",
        "score-down": "Name three rivers of Asia.",
        "length": "Draw a map.",
    }.items():
        page.select_option("#order", order)
        page.wait_for_selector(f".row:has-text('{first}')[aria-posinset='1']")


def test_two_answers_are_compared_word_by_word_with_checks_of_their_instructions(page: Any) -> None:
    page.evaluate("location.hash = 'prompt=eval-1'")
    page.wait_for_selector("#entry[data-id=eval-1]")
    page.click("#entry .diff summary")
    page.wait_for_selector("#entry .diff del")  # the comparison is made when the summary has opened
    assert [page.locator(f"#entry .diff {tag}").all_inner_texts() for tag in ("del", "ins")] == [["M1."], ["M2."]]
    page.locator("#entry .diff select").first.select_option("M0")
    assert page.locator("#entry .diff del").all_inner_texts() == ["M0."]
    assert page.locator("#entry .checks").all_inner_texts() == ["✗ does not follow no comma"] * 3
    assert page.evaluate("Diff.parts('a b\\n'.repeat(3000), 'a c\\n'.repeat(3000)).length") == 2  # too long for words
    assert page.evaluate("Diff.parts('', 'new').join()") == "added,new"


def test_readers_mark_verdicts_blindly_and_the_command_reads_them_back(
    browser: Any, report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "verdicts.jsonl"
    with opened(browser, report, accept_downloads=True) as page:
        page.select_option("#verdict-run", "1")
        assert page.locator("#verdict-kind option").all_inner_texts() == [
            "M2 against M1 (1 left)",
            "M1 against M0 (1 left)",
            "candidates of M1, for M2 (1 left)",
        ]
        for kind, keys in (("M2 against M1", "sub"), ("candidates of M1, for M2", "t")):
            page.select_option("#verdict-kind", kind)
            page.click("#start")
            page.wait_for_selector("#blind[open]")
            text = page.locator("#blind").inner_text()
            assert not re.search(r"score|chosen|won|\bc\d\b|against", text)  # the answers themselves name M1 and M2
            shown = [page.locator(f"#blind-{side}").inner_text() for side in "ab"]
            for key in keys:
                page.keyboard.press(key)
                page.wait_for_timeout(30)
            assert "You have compared all of these answers." in page.locator("#blind").inner_text()
            page.keyboard.press("Escape")
            if kind == "M2 against M1":
                better = shown[1]
        assert page.locator("#marked").inner_text() == "Verdicts on other in this browser: 2 (ties: 1, skipped: 0)."
        with page.expect_download() as download:
            page.click("#export")
        download.value.save_as(file)
    assert download.value.suggested_filename.startswith("other-")
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert rows[0][rows[0]["verdict"]] == better
    main([str(report.parent / "other"), "--to", str(tmp_path / "read.html"), "--verdicts", str(file)])
    rate = 100 if better == "Rain, says M2." else 0
    assert f"Readers' win rate of M2 over M1 is {rate} % [n/a] of 1 verdict" in capsys.readouterr().out
    foreign = {"run": "x-1"} | {name: rows[0][name] for name in rows[0] if name != "run"}
    file.write_text("".join(f"{line}\n" for line in (json.dumps(rows[0]), json.dumps(foreign), "{broken")))
    with opened(browser, report) as page:
        page.select_option("#verdict-run", "1")
        page.set_input_files("#import", file)
        page.wait_for_selector("#marked:has-text('imported')")
        message = page.locator("#marked").inner_text()
        assert message.startswith("verdicts.jsonl: 1 imported, 1 of another run, 1 unreadable.")


def test_links_open_run_filters_and_prompt(browser: Any, report: Path) -> None:
    with opened(browser, report, f"#run=1&source=feedback&query=song&prompt={SILENT}") as page:
        page.wait_for_selector(f"#entry[data-id='{SILENT}']")
        assert page.input_value("#run") == "1"
        assert page.input_value("#query") == "song"
        assert found(page) == ["Sing a song."]
        assert page.locator("#entry mark").first.inner_text() == "song"
        link = page.locator("#entry h3 a").get_attribute("href")
    with opened(browser, report, link) as page:
        assert page.locator("#entry").get_attribute("data-id") == SILENT


def test_links_to_missing_prompts_show_a_message(browser: Any, report: Path) -> None:
    with opened(browser, report, "#prompt=t9/p00000") as page:
        assert page.locator("#entry").inner_text() == "There is no prompt t9/p00000 in this run."


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_system_with_readable_contrast(browser: Any, report: Path, scheme: str) -> None:
    with opened(browser, report, color_scheme=scheme) as page:
        page.click(".row")
        page.wait_for_selector("#entry .answer")
        contrasts = page.evaluate(
            """() => {
                const light = (rgb) => [...rgb.matchAll(/[0-9.]+/g)].slice(0, 3).map((c) => +c[0] / 255)
                    .map((c) => c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
                    .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
                const paper = light(getComputedStyle(document.body).backgroundColor);
                return [...document.querySelectorAll("p, td, th, li span, h2, h3, a, .answer h4 span")].map((node) => {
                    const ink = light(getComputedStyle(node).color);
                    return (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05);
                });
            }"""
        )
        assert min(contrasts) >= 4.5  # WCAG 2.2, level AA


@pytest.mark.parametrize("width", [375, 1280])
def test_pages_and_tables_of_two_runs_fit_the_screen(browser: Any, report: Path, width: int) -> None:
    with opened(browser, report, viewport={"width": width, "height": 700}) as page:
        page.click(".row")
        page.wait_for_selector("#entry .answer")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        tables = page.evaluate(
            "[...document.querySelectorAll('.run .scroll')].map((n) => n.scrollWidth - n.clientWidth)"
        )
        assert tables == [0, 0]
        wraps = page.evaluate(
            "[...document.querySelectorAll('.models th, .models td')].map((n) => getComputedStyle(n).overflowWrap)"
        )
        assert set(wraps) == {"normal"}  # no word is broken


def test_measures_show_their_definition_on_hover_and_focus(page: Any) -> None:
    assert page.locator("figure:has(svg):not(:has([data-tip]))").count() == 0
    measures = page.locator(".models tbody tr:not(.part) th span")
    assert measures.count() == page.locator(".models [data-tip]").count() > 20
    measures.first.hover()
    assert (
        page.locator("#tip").inner_text().startswith("Pairs with two scores that the judge orders as they are ranked.")
    )
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()
    page.locator(".swatches [data-tip]", has_text="length baseline accuracy").first.focus()
    assert "always prefers the longer answer" in page.locator("#tip").inner_text()


def test_inputs_and_lists_have_accessible_names(page: Any) -> None:
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("input, select, button, [role=listbox], section, article[aria-live]")]
            .filter((node) => !(node.labels?.length || node.textContent.trim() || node.getAttribute("aria-label")))
            .map((node) => node.id)"""
    )
    assert nameless == []


def test_long_texts_are_loaded_from_report_data_when_available(browser: Any, tmp_path: Path) -> None:
    long = ["".join(long_entry(n)["answers"][0]["text"] for n in range(k, k + 5)) for k in range(0, 100, 5)]
    root = make_run(tmp_path / "made", long)
    path = root / "report.html"
    write_report([root], path, write_report([root], path, 0) / 1e6 - 0.05)
    with opened(browser, path, "#prompt=t2/p00010") as page:
        assert page.evaluate("document.querySelector('#entry .prompt').textContent") == long[0]
        assert page.locator("#cut").is_hidden()
        page.fill("#query", long[7][-30:])  # beyond the cut
        page.wait_for_function("document.querySelector('#found').textContent.startsWith('1 of')")
    shutil.rmtree(root / "report_data")
    missing = opened(browser, path, "#prompt=t2/p00010")
    with missing as page:
        assert "more]" in page.evaluate("document.querySelector('#entry .prompt').textContent")
        assert "not next to this page" in page.locator("#cut").inner_text()
        assert len(missing.messages) == 1  # Chromium logs the missing file once
        missing.messages.clear()


DRAWN = """figure => {
  const place = (node) => Number(/translate\\([^,]+,([^)]+)\\)/.exec(node.getAttribute("transform"))[1]);
  const all = (selector, make) => [...figure.querySelectorAll(selector)].map(make);
  return {
    ticks: all("g[aria-label='y-axis tick label'] text", (t) => [t.textContent, place(t)]),
    rules: all("[stroke-dasharray] line", (r) => Number(r.getAttribute("y1"))),
    dots: all("g[aria-label=dot] path", (d) => [d.querySelector("title").textContent, place(d)]),
  };
}"""


def drawn(page: Any, title: str) -> tuple[Any, dict[str, Any]]:
    """Return a function from a height in the chart to its axis value, and the chart's marks."""
    figure = page.locator("figure", has=page.locator("figcaption", has_text=title)).first
    found = figure.evaluate(DRAWN)
    ticks = [(float(text.replace("−", "-").removesuffix(" %").replace(",", "")), y) for text, y in found["ticks"]]
    (first, low), (last, high) = ticks[0], ticks[-1]
    return (lambda y: first + (y - low) * (last - first) / (high - low)), found


def test_chance_line_is_at_50_percent(page: Any) -> None:
    on_axis, found = drawn(page, "Judge accuracy")
    assert found["ticks"][0][0].endswith("%")
    assert [on_axis(y) for y in found["rules"]] == [pytest.approx(50, abs=0.5)] * len(found["rules"])
    assert found["rules"]


def test_points_are_drawn_at_their_labelled_values(page: Any) -> None:
    """In all charts of measures by model, a point's height equals the number in its label."""
    charts = (
        "Judge accuracy",
        "Judge health",
        "Length of evaluation answers",
        "Defects of evaluation",
    )
    points = 0
    for title in charts:
        on_axis, found = drawn(page, title)
        for label, y in found["dots"]:
            shown = re.search(r"M\d: (-?[\d.,]+)(?: %)? \[", label)
            assert shown, label
            assert on_axis(y) == pytest.approx(float(shown[1].replace(",", "")), abs=0.6), label
            points += 1
    assert points > 10
