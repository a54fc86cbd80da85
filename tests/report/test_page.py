"""The texts of a report: Markdown, and the page to listen to, as text and in a browser."""

import base64
import hashlib
import io
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import soundfile
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from jaxsep.report.build import Section
from jaxsep.report.excerpts import Excerpt, Sound, Source
from jaxsep.report.figures import Figure
from jaxsep.report.render import decibels, markdown, markdown_table, page
from jaxsep.report.tables import Table

HOSTILE = (
    """</script><script>document.title="run"</script>"""
    """<img src=x onerror='document.title="run"'> "&'`"""
)
DRAWING = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 60 20">'
    '<rect id="a" width="60" height="20" fill="red"/></svg>'
)
TONE = 1000  # Hz


def tone(seconds: float, rate: int, gain: float) -> Sound:
    return Sound(gain * np.sin(2 * np.pi * TONE * np.arange(round(seconds * rate)) / rate), rate)


def excerpt(run, number, place, score, input_snr, classes, *, seconds=1.0, rate=8000):
    """The sources are tones; the estimates are the same tones, 40 dB softer."""
    loud, soft = tone(seconds, rate, 0.5), tone(seconds, rate, 0.005)
    sources = [Source(name, score + 1.0, loud, soft) for name in classes]
    return Excerpt(run, number, place, score, input_snr, classes, loud, sources)


def sounds(one):
    """In the order of the page."""
    pairs = [sound for source in one.sources for sound in (source.source, source.estimate)]
    return [one.mixture, *pairs]


EXCERPTS = [
    excerpt("uniform", 7, "median", 3.0, -12.0, ["speech", "dog"], seconds=2.0),
    excerpt("uniform", 44, "worst", -8.25, 14.5, ["speech", "rain"], seconds=1.4, rate=16000),
    excerpt("robust", 7, "p05", -2.0, -12.0, ["speech", "dog"], seconds=0.5),
    excerpt("robust", 12, "best", 21.0, 3.0, ["bell", "rain"], rate=44100),
    excerpt("robust", 3, "worst", float("nan"), 0.5, ["bell", "dog"]),
    excerpt(HOSTILE, 5, "worst", -5.0, 30.0, [HOSTILE, "rain"]),
]
WIDE = pd.DataFrame([["speech", *["-12.34"] * 30]], columns=["SI-SDRi (dB)", *map(str, range(30))])
MARKUP = pd.DataFrame([["1", HOSTILE]], columns=[HOSTILE, "b"])
FIGURES = [Figure("Curves", "By epoch.", "curves", print), Figure("Again", "", "again", print)]
SECTIONS = [
    Section(
        "Numbers",
        ["Made by `python -m jaxsep.report`.", HOSTILE],
        [Table("Test set", WIDE, "One run.")],
        FIGURES,
    ),
    Section(HOSTILE, [], [Table(HOSTILE, MARKUP, HOSTILE)]),
]
DRAWINGS = {"curves": DRAWING, "again": DRAWING}


class Tree(HTMLParser):
    """Elements and their text; fails where an element is closed that is not open."""

    def __init__(self, document: str):
        super().__init__()
        self.open, self.elements = [], []
        self.feed(document)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "text": "", **dict(attrs)}
        assert len(attrs) == len(dict(attrs)), f"{tag} has an attribute twice"
        self.elements.append(element)
        if tag not in ("meta", "img", "input"):  # these have no end
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def all(self, tag, **attributes):
        return [e for e in self.elements if e["tag"] == tag and attributes.items() <= e.items()]


@pytest.fixture(scope="module")
def document():
    return page("Tails", SECTIONS, EXCERPTS, DRAWINGS)


@pytest.fixture(scope="module")
def tree(document):
    return Tree(document)


def test_every_name_is_escaped(tree):
    assert len(tree.all("script")) == 1
    assert not tree.all("img", src="x")
    assert [e["text"] for e in tree.all("h2")] == ["Numbers", HOSTILE, "Listen"]
    cells = [e["text"] for e in tree.elements if e["tag"] in ("th", "td")]
    assert cells[-4:] == [HOSTILE, "b", "1", HOSTILE]
    article = tree.all("article", **{"data-run": HOSTILE})[0]
    assert HOSTILE in article["text"]
    assert tree.all("option", value=HOSTILE)[0]["text"] == HOSTILE


def test_ids_are_unique_and_what_they_are_for_exists(tree):
    ids = [e["id"] for e in tree.elements if "id" in e]
    assert len(ids) == len(set(ids))
    named = {e["aria-labelledby"] for e in tree.all("article")} | {
        e["href"].removeprefix("#") for e in tree.all("a")
    }
    assert named <= set(ids)


def test_tables_figures_and_code(tree, document):
    rows = [len(re.findall("<t[hd]", row)) for row in re.findall("<tr>(.*?)</tr>", document)]
    assert rows == [31, 31, 2, 2]
    assert tree.all("code")[0]["text"] == "python -m jaxsep.report"
    drawings = [e for e in tree.all("img") if e["src"].startswith("data:image/svg+xml;base64,")]
    assert [e["alt"] for e in drawings] == ["Curves", "Again"]
    assert base64.b64decode(drawings[0]["src"].split(",")[1]).decode() == DRAWING


def test_an_excerpt_says_its_numbers(tree):
    worst = tree.all("article", **{"data-mixture": "44"})[0]
    for said in (
        "Mixture 44",
        "speech + rain",
        "-8.25 dB",
        "14.50 dB",
        "worst",
        "uniform",
        "SI-SDRi -7.25 dB",
        "8 kHz",
    ):
        assert said in worst["text"]
    marked = {e["text"] for e in tree.all("strong", **{"class": "worse"})}
    assert marked == {"-8.25 dB", "-7.25 dB", "-2.00 dB", "-1.00 dB", "-5.00 dB", "-4.00 dB"}
    assert "nan" not in tree.all("article", **{"data-mixture": "3"})[0]["text"]


def test_players_hold_the_samples_and_their_levels(tree):
    decoded = [
        soundfile.read(
            io.BytesIO(base64.b64decode(e["src"].removeprefix("data:audio/flac;base64,")))
        )
        for e in tree.all("audio")
    ]
    given = [sound for one in EXCERPTS for sound in sounds(one)]
    assert len(decoded) == len(given) == 30
    for (samples, rate), sound in zip(decoded, given, strict=True):
        assert rate == sound.sample_rate
        np.testing.assert_allclose(samples, sound.samples, rtol=0, atol=1.1 / 32767)


def test_too_loud_is_clipped():
    wild = Sound(np.array([2.0, -2.0, 1e30, 0.5, 0.5] * 100), 8000)
    text = page("", [], [Excerpt("a", 0, "worst", 0.0, 0.0, [], wild, [])], {})
    (audio,) = Tree(text).all("audio")
    samples, _ = soundfile.read(io.BytesIO(base64.b64decode(audio["src"].split(",")[1])))
    np.testing.assert_allclose(samples[:5], [1.0, -1.0, 1.0, 0.5, 0.5], atol=1e-4)


@pytest.mark.parametrize("rate", [4000, 8000, 44100])
def test_a_spectrogram_shows_a_tone_at_its_frequency_and_level(rate):
    for seconds, gain in ((1.0, 0.5), (20.0, 0.005), (0.001, 0.5)):
        picture = decibels(tone(seconds, rate, gain))
        rows, columns = picture.shape
        assert 1 <= columns <= 810
        if seconds >= 1:
            middle = picture[:, columns // 2]
            assert abs(rows - middle.argmax() - TONE / (rate / 2) * rows) <= 1
            assert middle.max() == pytest.approx(20 * np.log10(gain), abs=1.5)
            assert np.median(middle) < middle.max() - 50


def test_pictures_of_a_mixture_share_one_range(tree):
    pictures = [e["src"] for e in tree.all("img") if e["src"].startswith("data:image/jpeg")]
    assert len(pictures) == 30
    loud, soft = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(one.split(",")[1])))).max(axis=(0, 1))
        for one in pictures[1:3]  # the estimate is 40 dB softer
    )
    assert soft.sum() < 0.7 * loud.sum()


def test_the_policy_names_this_script_and_style_and_no_address(tree, document):
    policy = tree.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    assert policy.startswith("default-src 'none';")
    for element in ("script", "style"):
        digest = hashlib.sha256(tree.all(element)[0]["text"].encode()).digest()
        assert f"{element}-src 'sha256-{base64.b64encode(digest).decode()}'" in policy
    assert not re.search(r"https?://", re.sub(r"base64,[\w+/=]+", "", document))


def test_without_audio_one_line_says_so():
    tree = Tree(page("Tails", SECTIONS, [], DRAWINGS))
    assert "The runs hold no audio." in [e["text"] for e in tree.all("p")]
    assert not tree.all("script")
    assert not tree.all("select")


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """A headless Chromium of 1200 × 900 with a profile of its own."""
    browser, program = shutil.which("chromium"), shutil.which("chromedriver")
    if not browser or not program:
        missing = "chromedriver" if browser else "chromium"
        pytest.skip(f"no {missing} on PATH: the page cannot be tried in a browser")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    flags = (
        "no-first-run disable-background-networking disable-component-update disable-sync "
        "disable-quic headless=new no-sandbox disable-gpu window-size=1200,900 "
        "autoplay-policy=no-user-gesture-required"
    )
    for flag in [*flags.split(), f"user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(program))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def url(driver, document, tmp_path_factory):
    """The page, opened from disk as a reader does."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(document, encoding="utf-8")
    load(driver, path.as_uri())
    return path.as_uri()


@pytest.fixture
def opened(driver, url):
    """The driver with the page, its choice reset; afterwards it has said nothing on the console."""
    if not driver.current_url.startswith(url):
        load(driver, url)
    choose(driver, run="", place="", sort="score-up", **{"class": ""})
    yield driver
    assert driver.get_log("browser") == []


def load(driver, url):
    driver.get("about:blank")  # an address that differs after # alone would not load anew
    driver.get(url)


def until(driver, script, *arguments):
    """Waits until the script returns something true, and returns it."""
    return WebDriverWait(driver, 20, poll_frequency=0.05).until(
        lambda _: driver.execute_script(script, *arguments)
    )


def shown(driver):
    """[(run, mixture)] as a reader sees them, from top to bottom."""
    articles = driver.execute_script(
        "return [...document.querySelectorAll('article')].filter((a) => a.checkVisibility())"
        ".map((a) => [a.getBoundingClientRect().top, a.dataset.run, Number(a.dataset.mixture)])"
    )
    return [(run, mixture) for _, run, mixture in sorted(articles)]


def choose(driver, **choice):
    """Sets menus to values and waits until the page has followed."""
    driver.execute_async_script(
        """
        const [choice, done] = arguments;
        const menus = Object.entries(choice).map(([name, value]) => {
            const menu = document.querySelector(`select[name=${name}]`);
            menu.value = value;
            return menu;
        });
        const before = location.hash;
        // The page's own listener comes first.
        addEventListener("hashchange", () => done(), { once: true });
        menus[0].dispatchEvent(new Event("change", { bubbles: true }));
        if (location.hash === before) done();""",
        choice,
    )


def test_it_loads_without_errors_requests_or_foreign_scripts(opened):
    assert opened.title == "Tails"
    loaded = opened.execute_script(
        "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    )
    assert [name for name in loaded if not name.startswith("data:")] == []
    sizes = opened.execute_script("return [...document.images].map((image) => image.naturalWidth)")
    assert len(sizes) == 2 + 30
    assert all(sizes)


def test_orders(opened):
    for order, mixtures in {
        "score-down": [12, 7, 7, 5, 44, 3],  # 3 has no score: last both ways
        "score-up": [44, 5, 7, 7, 12, 3],
        "snr-up": [7, 7, 3, 12, 44, 5],
        "snr-down": [5, 44, 12, 3, 7, 7],
        "mixture-up": [3, 5, 7, 7, 12, 44],
    }.items():
        choose(opened, sort=order)
        assert [mixture for _, mixture in shown(opened)] == mixtures, order


def test_filters_combine(opened):
    unset = {"run": "", "place": "", "class": "", "sort": "score-up"}
    for choice, expected in [
        ({}, [("uniform", 44), (HOSTILE, 5), ("robust", 7)]),
        ({"run": "robust"}, [("robust", 7), ("robust", 12), ("robust", 3)]),
        ({"place": "worst"}, [("uniform", 44), (HOSTILE, 5), ("robust", 3)]),
        ({"class": "dog"}, [("robust", 7), ("uniform", 7), ("robust", 3)]),
        ({"class": "dog", "run": "robust"}, [("robust", 7), ("robust", 3)]),
        ({"class": "dog", "run": "robust", "place": "worst"}, [("robust", 3)]),
        ({"class": "rain", "run": "uniform", "sort": "score-down"}, [("uniform", 44)]),
        ({"class": HOSTILE, "run": HOSTILE}, [(HOSTILE, 5)]),
        ({"class": "bell", "run": "uniform"}, []),
    ]:
        choose(opened, **unset | choice)
        number = len(expected) if choice else 6
        assert shown(opened)[: len(expected)] == expected, choice
        assert len(shown(opened)) == number
        assert opened.find_element(By.ID, "count").text == f"{number} of 6 mixtures"
        assert opened.find_element(By.ID, "none").is_displayed() == (not expected)


def test_the_address_keeps_the_choice_until_it_is_reset(opened):
    for menu, option in (("run", "robust"), ("class", "dog"), ("sort", "best score first")):
        Select(opened.find_element(By.NAME, menu)).select_by_visible_text(option)
    until(opened, "return location.hash === '#run=robust&class=dog&sort=score-down'")
    until(opened, "return document.getElementById('count').value === '2 of 6 mixtures'")
    kept = [("robust", 7), ("robust", 3)]
    opened.find_element(By.LINK_TEXT, "Numbers").click()
    until(opened, "return location.hash === '#section-1'")
    assert shown(opened) == kept
    opened.back()
    opened.refresh()
    assert shown(opened) == kept
    opened.find_element(By.CSS_SELECTOR, "button[type=reset]").click()
    until(opened, "return location.hash === '#sort=score-up'")
    until(opened, "return document.getElementById('count').value === '6 of 6 mixtures'")
    load(opened, opened.current_url.split("#")[0] + "#run=gone&sort=snr-up")
    assert [mixture for _, mixture in shown(opened)] == [7, 7, 3, 12, 44, 5]


def test_one_player_sounds_at_a_time(opened):
    choose(opened, run="uniform", place="median")
    buttons = opened.find_elements(By.CSS_SELECTOR, ".player button")
    buttons = [button for button in buttons if button.is_displayed()]
    heard = "document.querySelectorAll('article:not([hidden]) audio')"
    playing = f"return [...{heard}].map((audio) => !audio.paused)"
    pressed = playing.replace(" audio", " .player button").replace(
        "!audio.paused", "audio.ariaPressed"
    )
    buttons[0].click()
    until(opened, f"return {heard}[0].currentTime > 0.1")
    assert opened.execute_script(playing) == [True, False, False, False, False]
    buttons[3].send_keys(Keys.ENTER)
    until(opened, f"return {heard}[3].currentTime > 0.1")
    assert opened.execute_script(playing) == [False, False, False, True, False]
    assert opened.execute_script(pressed) == ["false", "false", "false", "true", "false"]
    choose(opened, place="worst")
    paused = "return [...document.querySelectorAll('audio')].every((audio) => audio.paused)"
    assert opened.execute_script(paused)


def test_the_slider_moves_the_position_by_keys(opened):
    slider = opened.find_element(By.CSS_SELECTOR, "article[data-mixture='44'] input")
    position = "arguments[0].closest('.player').querySelector('audio').currentTime"
    slider.send_keys(Keys.END)
    assert until(opened, f"return {position}", slider) > 1.3
    slider.send_keys(Keys.HOME)
    until(opened, f"return {position} === 0", slider)


@pytest.mark.parametrize("width", [360, 800])
def test_narrow_screens_scroll_tables_and_not_the_page(opened, width):
    size = {"width": width, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        assert opened.execute_script("return document.documentElement.scrollWidth") <= width
        table = "const box = document.querySelector('.scroll'); "
        assert opened.execute_script(f"{table} return box.scrollWidth > box.clientWidth")
        assert opened.find_element(By.NAME, "class").is_displayed()
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_browser_refuses_what_is_not_of_the_page(driver, url):
    load(driver, url)
    driver.execute_script(
        "const script = document.createElement('script');"
        "script.textContent = 'document.title = 1'; document.body.append(script);"
        "document.body.append(Object.assign(new Image(), {src: 'file:///x.png'}))"
    )
    refused = WebDriverWait(driver, 20).until(lambda _: driver.get_log("browser"))
    assert driver.title == "Tails"
    assert all("Content Security Policy" in entry["message"] for entry in refused)
    driver.get("about:blank")


def test_markdown_escapes_what_is_no_text():
    cells = pd.DataFrame([["<b>", "*"]], columns=["", "x|y"])
    assert markdown_table(cells).splitlines() == [
        "|        | x\\|y |",
        "| ------ | ---: |",
        "| &lt;b> |   \\* |",
    ]
    figure = Figure("f", "below", "name", print)
    table = Table("a<b", cells, "a note")
    text = markdown("t", [Section("s", ["5 < 6", "[x](y)"], [table], [figure])])
    assert text.startswith("# t\n\n## s\n\n5 &lt; 6\n\n[x]\\(y)\n\n### a&lt;b\n\n|  ")
    assert text.endswith("|\n\na note\n\n![f](figures/name.png)\n\nbelow\n")
