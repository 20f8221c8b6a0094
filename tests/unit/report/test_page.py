"""The page as text, and in headless Chromium."""

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from matplotlib import image

from fairat_lightning.report import page as module
from fairat_lightning.report.compare import rows
from fairat_lightning.report.gallery import pictures
from fairat_lightning.report.groups import gather
from fairat_lightning.report.page import page

EVIL = '<script>document.title="caught"</script>"&%_$'
VOID = {"meta", "br", "img", "link", "input", "hr"}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--hide-scrollbars")
MORE_FLAGS = ("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--virtual-time-budget=3000")


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
    assert "autoattack has begun and is not finished" in text and "tends to lie below the lowest true one" in text


@pytest.mark.slow
@pytest.mark.pictures
def test_a_drawing_that_is_too_large_becomes_a_picture(words, monkeypatch):
    monkeypatch.setattr(module, "LARGEST_SVG", 1000)
    reader = Reader(rendered(words))
    assert not reader.all("svg") and all(attrs["alt"] for attrs in reader.all("img")) and len(reader.all("img")) >= 9


# -- in a browser


@pytest.fixture
def browse(tmp_path):
    """browse(text, *flags): what Chromium prints for a page."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(
            f"no Chromium on this machine: none of {', '.join(BROWSERS)} is on the PATH (Debian: apt-get install chromium)"
        )

    def browse(text, *flags):
        (tmp_path / "shown.html").write_text(text, encoding="utf-8")
        command = [found, *FLAGS, *MORE_FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *flags, f"file://{tmp_path}/shown.html"]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout

    return browse


def scripted(text, script):
    """The page with a test's own script, which its policy would forbid; what the script returns is JSON in <output>."""
    text, count = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    assert count == 1
    body = f"const output = top.document.createElement('output'); output.textContent = JSON.stringify((() => {{ {script} }})());"
    return text.replace("</body>", f"<script>{body} top.document.body.append(output);</script></body>")


def returned(dom):
    (text,) = re.findall(r"<output>(.*?)</output>", dom, re.S)
    return json.loads(html.unescape(text))


SORTING = """
  const table = document.getElementById('rows-table');
  const heads = [...table.tHead.rows[0].cells];
  const column = heads.findIndex((head) => head.textContent.includes('PGD-20') && head.textContent.includes('worst'));
  const state = () => [heads[column].getAttribute('aria-sort'),
    [...table.tBodies[0].rows].map((row) => Number(row.cells[column].dataset.value).toFixed(2))];
  const button = heads[column].querySelector('button');
  const states = [state()];
  for (let k = 0; k < 2; k++) { button.click(); states.push(state()); }
  heads[0].querySelector('button').click();
  states.push([heads.filter((head) => head.hasAttribute('aria-sort')).length,
    [...table.tBodies[0].rows].map((row) => row.cells[0].textContent.trim().slice(0, 1))]);
  button.focus();
  states.push(document.activeElement === button);
  return states;
"""


@pytest.mark.slow
def test_the_table_sorts(words, browse):
    found = returned(browse(scripted(rendered(words), SORTING), "--dump-dom"))
    assert found[0] == [None, ["0.30", "0.45", "0.10"]]
    assert found[1] == ["descending", ["0.45", "0.30", "0.10"]]
    assert found[2] == ["ascending", ["0.10", "0.30", "0.45"]]
    assert found[3] == [1, ["<", "B", "C"]] and found[4] is True


@pytest.mark.slow
def test_the_differences_sort(words, browse):
    """Under PGD-20 and CW-20 B's worst class is 15 points above that of the first row, and C's 20 below."""
    script = SORTING.replace("rows-table", "against-table").replace("textContent.includes('PGD-20') && head.", "")
    script = script.replace("includes('worst')", "includes('worst class')")
    found = returned(browse(scripted(rendered(words), script), "--dump-dom"))
    assert found[0] == [None, ["0.15", "0.15", "-0.20", "-0.20"]]
    assert found[1] == ["descending", ["0.15", "0.15", "-0.20", "-0.20"]]
    assert found[2] == ["ascending", ["-0.20", "-0.20", "0.15", "0.15"]]
    assert found[3] == [1, ["B", "B", "C", "C"]] and found[4] is True


@pytest.mark.slow
def test_missing_figures_sort_last_either_way(make_run, browse):
    a, b, c = (make_run(name, (0.5, worst, 0.7)) for name, worst in (("a", 0.3), ("b", 0.2), ("c", 0.4)))
    record = json.loads((b / "metrics.json").read_text())
    (b / "metrics.json").write_text(json.dumps({"clean": record["clean"]}))
    found = returned(browse(scripted(rendered([f"A={a}", f"B={b}", f"C={c}"]), SORTING), "--dump-dom"))
    assert found[1][1] == ["0.40", "0.30", "NaN"] and found[2][1] == ["0.30", "0.40", "NaN"]


@pytest.mark.slow
def test_the_script_of_a_label_does_not_run_and_ours_does(words, browse):
    dom = browse(rendered(words), "--dump-dom")
    assert "<title>caught" not in dom and re.search(r'<button id="theme"[^>]*>(Dark|Light)</button>', dom)
    assert "hidden" not in re.findall(r'<button id="theme"[^>]*>', dom)[0]  # our script has shown it: the policy knows its hash


OVERFLOW = """
  const wide = document.documentElement.clientWidth;
  const over = [...document.querySelectorAll('body *')].filter((element) =>
    !element.closest('.scroll > *') && element.getBoundingClientRect().right > wide + 0.5);
  const scrolling = [...document.querySelectorAll('.scroll')].map((box) => getComputedStyle(box).overflowX);
  const names = over.map((element) => element.tagName + '.' + element.className);
  return [innerWidth, document.documentElement.scrollWidth, names, [...new Set(scrolling)]];
"""


@pytest.mark.slow
@pytest.mark.pictures
@pytest.mark.parametrize("unfolded", [False, True])
def test_on_a_phone_only_tables_and_figures_scroll(words, browse, unfolded):
    long = [f"{word.partition('=')[0]} with a long_unbroken_name_{'x' * 40}={word.partition('=')[2]}" for word in words[1:]]
    text = rendered([words[0], *long])
    if unfolded:
        text = text.replace("<details>", "<details open>")
    inner = html.escape(scripted(text, OVERFLOW))
    dom = browse(
        f'<body style="margin:0"><iframe style="border:0;width:360px;height:700px" srcdoc="{inner}"></iframe>', "--dump-dom"
    )
    assert returned(dom) == [360, 360, [], ["auto"]]


THEME = """
  const ground = () => getComputedStyle(document.body).backgroundColor;
  const before = ground();
  document.getElementById('theme').click();
  const other = ground();
  document.getElementById('theme').click();
  const ink = getComputedStyle(document.querySelector('svg text')).fill, text = getComputedStyle(document.body).color;
  return [before, other, ground(), ink === text];
"""


@pytest.mark.slow
@pytest.mark.pictures
@pytest.mark.parametrize("dark", [False, True])
def test_dark_and_light(words, browse, dark):
    """Blink's own setting says what the system prefers: 0 is dark, 1 is light."""
    setting = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    first, second, third, figures_follow = returned(browse(scripted(rendered(words), THEME), "--dump-dom", setting))
    shades = ["rgb(20, 23, 26)", "rgb(253, 253, 252)"]
    assert [first, second, third] == (shades if dark else shades[::-1]) + [first] and figures_follow


@pytest.mark.pictures
def test_it_can_be_seen_and_printed(words, browse, tmp_path):
    browse(rendered(words), f"--screenshot={tmp_path / 'seen.png'}", "--window-size=1200,1600")
    pixels = image.imread(tmp_path / "seen.png")
    assert pixels.shape[:2] == (1600, 1200) and pixels[..., :3].std() > 0.05
    browse(rendered(words), f"--print-to-pdf={tmp_path / 'page.pdf'}")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF") and (tmp_path / "page.pdf").stat().st_size > 20_000
