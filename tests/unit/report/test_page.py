"""The page as text, and in headless Chromium."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from helpers import judge
from matplotlib import image

from fairat_lightning.report import page as module
from fairat_lightning.report.compare import rows
from fairat_lightning.report.gallery import pictures
from fairat_lightning.report.groups import gather
from fairat_lightning.report.page import page
from fairat_lightning.report.published import beside

EVIL = '<script>document.title="caught"</script>"&%_$'
VOID = {"meta", "br", "img", "link", "input", "hr"}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


class Reader(HTMLParser):
    """Every tag with its attributes, the text, and whether each tag is closed in its turn."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def all(self, name):
        return [attrs for tag, attrs in self.tags if tag == name]


def rendered(words):
    report = gather(words)
    return page(report, rows(report), pictures(report))


@pytest.fixture
def words(make_run, full_run):
    """Three rows whose worst classes are .3, .45 and .1, one of them with a label that is HTML."""
    return [f"{EVIL}={full_run}", f"B={make_run('b', (0.5, 0.45, 0.7))}", f"C={make_run('c', (0.5, 0.1, 0.7))}"]


@pytest.mark.pictures
def test_it_is_well_formed_and_loads_nothing(words):
    text = rendered(words)
    reader = Reader(text)
    assert reader.open == [] and reader.all("html")[0]["lang"] == "en"
    assert reader.all("meta")[1]["name"] == "viewport" and len(reader.all("h1")) == 1
    for _, attrs in reader.tags:
        for name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            assert attrs.get(name, "#").startswith(("#", "data:image/png;base64,")), attrs[name]
    assert "http:" not in text and "https:" not in text and "@import" not in text
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))
    ids = [attrs["id"] for _, attrs in reader.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for target in [attrs["href"] for attrs in reader.all("a")] + re.findall(r"url\((#[^)]*)\)", text):
        assert target[1:] in ids
    assert all(attrs["aria-label"] for attrs in reader.all("svg")) and len(reader.all("svg")) >= 9


def test_text_from_files_is_escaped(words):
    reader = Reader(rendered(words))
    assert len(reader.all("script")) == 1 and EVIL in " ".join(reader.words)


def test_failed_checks_stand_above_everything(words):
    text = rendered(words)
    assert text.index('class="failed"') < text.index("<h1>") and "a large eps breaks all: 12 % are left" in text
    assert 'class="failed"' not in rendered(words[1:])


def test_it_says_what_was_run_and_how_to_read_it(words):
    text = " ".join(Reader(rendered(words)).words)
    for word in (
        "python -m fairat_lightning seed=0",
        "torch 2",
        "bootstrap",
        "Better than every other row",
        "100 images a class",
    ):
        assert word in text
    assert "autoattack is not finished" in text and "tends to lie below the lowest true one" in text


@pytest.mark.slow
@pytest.mark.pictures
def test_a_drawing_that_is_too_large_becomes_a_picture(words, monkeypatch):
    monkeypatch.setattr(module, "LARGEST_SVG", 1000)
    reader = Reader(rendered(words))
    assert not reader.all("svg") and all(attrs["alt"] for attrs in reader.all("img")) and len(reader.all("img")) >= 9


# -- in a browser


@pytest.fixture(scope="module")
def chromium():
    """The system's Chromium, driven by Playwright."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(
            f"no Chromium on this machine: none of {', '.join(BROWSERS)} is on the PATH (Debian: apt-get install chromium)"
        )
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
    with api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found)
        yield browser
        browser.close()


@pytest.fixture
def browse(chromium, tmp_path):
    """browse(text, width, scheme): the page, opened; whatever the browser complains of fails the test."""
    problems = []

    def browse(text, width=1280, scheme="light"):
        (tmp_path / "shown.html").write_text(text, encoding="utf-8")
        shown = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        shown.on("console", lambda message: problems.append(message.text))
        shown.on("pageerror", lambda error: problems.append(str(error)))
        shown.on("request", lambda request: problems.append(request.url) if request.url.startswith("http") else None)
        shown.goto(f"file://{tmp_path}/shown.html")
        return shown

    yield browse
    for context in chromium.contexts:
        context.close()
    assert not problems


def sorted_by(shown, table, *words):
    """What two clicks on the head with these words make of a table: `aria-sort` and the column, before and after each."""
    heads = shown.locator(f"#{table} thead th")
    column = next(k for k, text in enumerate(heads.all_inner_texts()) if all(word in text for word in words))
    found = []
    for clicks in range(3):
        if clicks:
            heads.nth(column).locator("button").click()
        cells = shown.locator(f"#{table} tbody tr td:nth-child({column + 1})")
        values = cells.evaluate_all("cells => cells.map((cell) => Number(cell.dataset.value).toFixed(2))")
        found.append((heads.nth(column).get_attribute("aria-sort"), values))
    return found


@pytest.mark.slow
def test_the_tables_sort(words, browse):
    """Under PGD-20 and CW-20 B's worst class is 15 points above that of the first row, and C's 20 below."""
    shown = browse(rendered(words))
    assert sorted_by(shown, "rows-table", "PGD-20", "worst") == [
        (None, ["0.30", "0.45", "0.10"]),
        ("descending", ["0.45", "0.30", "0.10"]),
        ("ascending", ["0.10", "0.30", "0.45"]),
    ]
    assert sorted_by(shown, "against-table", "worst class") == [
        (None, ["0.15", "0.15", "-0.20", "-0.20"]),
        ("descending", ["0.15", "0.15", "-0.20", "-0.20"]),
        ("ascending", ["-0.20", "-0.20", "0.15", "0.15"]),
    ]
    assert [values[0] for _, values in sorted_by(shown, "sweep-0-table", "0.02")] == ["0.50", "0.50", "0.30"]
    name = shown.locator("#rows-table thead th button").first
    name.focus()
    shown.keyboard.press("Enter")
    assert shown.locator("#rows-table [aria-sort]").count() == 1
    assert [text.strip()[0] for text in shown.locator("#rows-table tbody th").all_inner_texts()] == ["<", "B", "C"]


@pytest.mark.slow
def test_missing_figures_sort_last_either_way(make_run, browse):
    a, b, c = (make_run(name, (0.5, worst, 0.7)) for name, worst in (("a", 0.3), ("b", 0.2), ("c", 0.4)))
    record = json.loads((b / "metrics.json").read_text())
    (b / "metrics.json").write_text(json.dumps({"clean": record["clean"]}))
    _, down, up = sorted_by(browse(rendered([f"A={a}", f"B={b}", f"C={c}"])), "rows-table", "PGD-20", "worst")
    assert down[1] == ["0.40", "0.30", "NaN"] and up[1] == ["0.30", "0.40", "NaN"]


SIDEWAYS = """() => {
  scrollTo(10000, 0);
  const over = [...document.querySelectorAll('body *')].filter((element) =>
    !element.closest('.scroll > *') && element.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5);
  const boxes = [...document.querySelectorAll('.scroll')].map((box) => getComputedStyle(box).overflowX);
  return [scrollX, document.documentElement.scrollWidth, over.map((element) => element.tagName), [...new Set(boxes)]];
}"""


@pytest.mark.slow
@pytest.mark.pictures
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_only_tables_and_figures_scroll_sideways(words, make_run, browse, width, scheme):
    """A page with everything, folded and unfolded: long names, a long title, published figures, a sweep, checks and notes."""
    title, name = "APGD-CE + APGD-T (3 targets), 3 steps", "an_unbroken_name_" + "x" * 60
    place = Path(words[1].partition("=")[2]) / "evaluation" / name
    judge(place, {"apgd": (0.4, 0.3, 0.6)})
    facts = {"suite": "apgd", "titles": {"apgd": title}, "headline": ["apgd"], "notes": [name], "threat": {name: name}}
    (place / "run.json").write_text(json.dumps(facts | {"command": "python " + name, name: name}))
    long = [f"{word.partition('=')[0]} with {name}={word.partition('=')[2]}" for word in words[1:]]
    report = gather([words[0], *long])
    lines = beside(report, {group.label: ["dafa.trades"] for group in report.groups})
    shown = browse(page(report, rows(report), pictures(report), lines), width, scheme)
    ground = {"dark": "rgb(20, 23, 26)", "light": "rgb(253, 253, 252)"}
    for _ in range(2):
        assert shown.evaluate(SIDEWAYS) == [0, width, [], ["auto"]]
        shown.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    look = "getComputedStyle(document.body).backgroundColor"
    assert shown.evaluate(look) == ground.pop(scheme)
    assert shown.evaluate("getComputedStyle(document.querySelector('svg text')).fill === getComputedStyle(document.body).color")
    shown.locator("#theme").click()  # which our script has shown: the policy knows its hash
    assert [shown.evaluate(look)] == list(ground.values())
    assert shown.title() != "caught" and shown.locator("#rows-table abbr").first.get_attribute("title") == title


@pytest.mark.pictures
def test_a_phone_shows_the_worst_class_and_where_there_is_more(words, browse):
    """Narrow figures whole; the worst class's column, and its bars, before what the edge cuts, which has a shadow."""
    shown = browse(rendered(words), 390)
    found = shown.evaluate("[...document.querySelectorAll('figure .scroll')].map((box) => box.scrollWidth > box.clientWidth)")
    captions = shown.locator("figcaption").all_inner_texts()
    wide = [text.partition(" ")[0] for text, cut in zip(captions, found, strict=True) if cut]
    assert wide == ["Accuracy", "Validation"]
    head = shown.locator("#rows-table thead th").nth(1)
    assert head.inner_text().split() == ["PGD-20", "worst"] and head.bounding_box()["x"] + head.bounding_box()["width"] < 390
    look = (
        "[...document.querySelectorAll('.scroll')].map((box) => getComputedStyle(box).backgroundImage.split('linear').length - 1)"
    )
    assert set(shown.evaluate(look)) == {4}


@pytest.mark.pictures
def test_it_can_be_seen_and_printed(words, browse, tmp_path):
    shown = browse(rendered(words))
    shown.screenshot(path=tmp_path / "seen.png")
    pixels = image.imread(tmp_path / "seen.png")
    assert pixels.shape[:2] == (900, 1280) and pixels[..., :3].std() > 0.05
    assert shown.pdf().startswith(b"%PDF") and len(shown.pdf()) > 20_000
