"""The page to listen to: as text, and in a browser, opened from disk as a reader does."""

import base64
import hashlib
import io
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from jaxsep.report.page import page
from jaxsep.report.sections import Excerpt, Figure, Player, Section, Table

HOSTILE = """</script><script>document.title="run"</script><img src=x onerror='document.title="run"'> "&'`"""
DRAWING = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 60 20"><rect id="a" width="60" height="20" fill="red"/></svg>'
TONE = 1000  # Hz


def tone(seconds: float, sample_rate: int, gain: float = 0.5) -> np.ndarray:
    return gain * np.sin(2 * np.pi * TONE * np.arange(round(seconds * sample_rate)) / sample_rate)


def excerpt(
    run,
    mixture,
    place,
    score,
    input_snr,
    classes,
    *,
    seconds=1.0,
    sample_rate=8000,
    loud=0.5,
    soft=0.005,
):
    """The sources are tones; the estimates are the same tones with gain `soft`."""
    players = [Player("mixture", "mixture", tone(seconds, sample_rate, loud), sample_rate, None)]
    for name in classes:
        players.append(Player(name, "source", tone(seconds, sample_rate, loud), sample_rate, None))
        players.append(
            Player(name, "estimate", tone(seconds, sample_rate, soft), sample_rate, score + 1.0)
        )
    return Excerpt(run, mixture, place, score, input_snr, classes, players)


EXCERPTS = [
    excerpt("uniform", 7, "median", 3.0, -12.0, ["speech", "dog"], seconds=2.0),
    excerpt(
        "uniform", 44, "worst", -8.25, 14.5, ["speech", "rain"], seconds=1.4, sample_rate=16000
    ),
    excerpt("robust", 7, "p05", -2.0, -12.0, ["speech", "dog"], seconds=0.5),
    excerpt("robust", 12, "best", 21.0, 3.0, ["bell", "rain"], sample_rate=44100),
    excerpt("robust", 3, "worst", float("nan"), 0.5, ["bell", "dog"]),
    excerpt(HOSTILE, 5, "worst", -5.0, 30.0, [HOSTILE, "rain"]),
]
SECTIONS = [
    Section(
        "Numbers",
        ["Made by `python -m jaxsep.report`.", HOSTILE],
        [
            Table(
                "Test set",
                ["SI-SDRi (dB)", *map(str, range(30))],
                [["speech", *["-12.34"] * 30]],
                "One run.",
            )
        ],
        [Figure("Curves", "curves", DRAWING, "By epoch."), Figure("Again", "again", DRAWING)],
    ),
    Section(HOSTILE, [], [Table(HOSTILE, [HOSTILE, "b"], [["1", HOSTILE]], HOSTILE)], []),
]


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
    return page("Tails", SECTIONS, EXCERPTS)


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
            io.BytesIO(base64.b64decode(e["data-src"].removeprefix("data:audio/flac;base64,")))
        )
        for e in tree.all("audio")
    ]
    given = [player for one in EXCERPTS for player in one.players]
    assert len(decoded) == len(given) == 30
    for (samples, sample_rate), player in zip(decoded, given, strict=True):
        assert sample_rate == player.sample_rate
        np.testing.assert_allclose(samples, player.samples, rtol=0, atol=1.1 / 32767)


def test_too_loud_is_clipped_and_no_number_is_silence():
    wild = Player(
        "mixture", "mixture", np.array([2.0, -2.0, np.nan, np.inf, 0.5] * 100), 8000, None
    )
    audio = Tree(page("", [], [Excerpt("a", 0, "worst", 0.0, 0.0, [], [wild])])).all("audio")[0]
    samples, _ = soundfile.read(io.BytesIO(base64.b64decode(audio["data-src"].split(",")[1])))
    np.testing.assert_allclose(samples[:5], [1.0, -1.0, 0.0, 1.0, 0.5], atol=1e-4)


def test_a_name_that_is_no_unicode_can_be_written():
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    written = page(name, [], [excerpt(name, 1, "worst", 0.0, 0.0, [name])]).encode("utf-8")
    assert b"caf\\udce9" in written


def test_the_policy_names_this_script_and_style_and_no_address(tree, document):
    policy = tree.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    assert policy.startswith("default-src 'none';")
    for element in ("script", "style"):
        digest = hashlib.sha256(tree.all(element)[0]["text"].encode()).digest()
        assert f"{element}-src 'sha256-{base64.b64encode(digest).decode()}'" in policy
    assert not re.search(r"https?://", re.sub(r"base64,[\w+/=]+", "", document))


def test_without_audio_one_line_says_so():
    tree = Tree(page("Tails", SECTIONS, []))
    assert "The runs hold no audio." in [e["text"] for e in tree.all("p")]
    assert not tree.all("script")
    assert not tree.all("select")


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """A headless Chromium of 1200 × 900 with a profile of its own."""
    browser, program = shutil.which("chromium"), shutil.which("chromedriver")
    if not browser or not program:
        pytest.skip(
            f"no {'chromedriver' if browser else 'chromium'} on PATH: the page cannot be tried in a browser"
        )
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    quiet = "no-first-run disable-background-networking disable-component-update disable-sync disable-quic"
    alone = "headless=new no-sandbox disable-gpu autoplay-policy=no-user-gesture-required window-size=1200,900"
    for flag in [
        *quiet.split(),
        *alone.split(),
        f"user-data-dir={tmp_path_factory.mktemp('profile')}",
    ]:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(program))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def url(document, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(document, encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def opened(driver, url):
    """The driver with the page just loaded; afterwards the page has said nothing on the console."""
    load(driver, url)
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
    """Sets menus to values and waits until the page has followed: its own listener comes first."""
    driver.execute_async_script(
        """
        const [choice, done] = arguments;
        addEventListener("hashchange", () => done(), { once: true });
        const menus = Object.entries(choice).map(([name, value]) => {
            const menu = document.querySelector(`select[name=${name}]`);
            menu.value = value;
            return menu;
        });
        menus[0].dispatchEvent(new Event("change", { bubbles: true }));""",
        choice,
    )


def test_it_loads_without_errors_requests_or_foreign_scripts(opened):
    assert opened.title == "Tails"
    loaded = opened.execute_script(
        "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    )
    assert [name for name in loaded if not name.startswith("data:")] == []
    sizes = opened.execute_script("return [...document.images].map((image) => image.naturalWidth)")
    assert len(sizes) == 2
    assert all(sizes)


def test_the_browser_refuses_what_is_not_of_the_page(driver, url):
    load(driver, url)
    driver.execute_script(
        "const script = document.createElement('script'); script.textContent = 'document.title = 1';"
        "document.body.append(script); document.body.append(Object.assign(new Image(), {src: 'file:///x.png'}))"
    )
    until(driver, "return document.images.length === 3")
    refused = WebDriverWait(driver, 20).until(lambda _: driver.get_log("browser"))
    assert driver.title == "Tails"
    assert all("Content Security Policy" in entry["message"] for entry in refused)


@pytest.mark.parametrize(
    ("order", "mixtures"),
    [
        ("score-up", [44, 5, 7, 7, 12, 3]),  # 3 has no score: last both ways
        ("score-down", [12, 7, 7, 5, 44, 3]),
        ("snr-up", [7, 7, 3, 12, 44, 5]),
        ("snr-down", [5, 44, 12, 3, 7, 7]),
        ("mixture-up", [3, 5, 7, 7, 12, 44]),
    ],
)
def test_order(opened, order, mixtures):
    choose(opened, sort="snr-up" if order != "snr-up" else "snr-down")
    choose(opened, sort=order)
    assert [mixture for _, mixture in shown(opened)] == mixtures


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"run": "robust"}, [("robust", 7), ("robust", 12), ("robust", 3)]),
        ({"place": "worst"}, [("uniform", 44), (HOSTILE, 5), ("robust", 3)]),
        ({"class": "dog"}, [("robust", 7), ("uniform", 7), ("robust", 3)]),
        ({"class": "dog", "run": "robust"}, [("robust", 7), ("robust", 3)]),
        ({"class": "dog", "run": "robust", "place": "worst"}, [("robust", 3)]),
        ({"class": "rain", "run": "uniform", "sort": "score-down"}, [("uniform", 44)]),
        ({"class": HOSTILE, "run": HOSTILE}, [(HOSTILE, 5)]),
        ({"class": "bell", "run": "uniform"}, []),
    ],
)
def test_filters_combine(opened, choice, expected):
    assert len(shown(opened)) == 6
    choose(opened, **choice)
    assert shown(opened) == expected
    assert opened.find_element(By.ID, "count").text == f"{len(expected)} of 6 mixtures"
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


def test_each_player_has_its_duration(opened):
    for article in opened.find_elements(By.TAG_NAME, "article"):
        opened.execute_script("arguments[0].scrollIntoView()", article)
        script = "const a = [...arguments[0].querySelectorAll('audio')]; return a.every((x) => x.duration > 0) && "
        durations = until(opened, script + "a.map((x) => x.duration)", article)
        run, mixture = article.get_attribute("data-run"), int(article.get_attribute("data-mixture"))
        (given,) = [one for one in EXCERPTS if (one.run, one.mixture) == (run, mixture)]
        expected = [len(player.samples) / player.sample_rate for player in given.players]
        np.testing.assert_allclose(durations, expected, atol=0.05)


def test_one_player_sounds_at_a_time(opened):
    choose(opened, run="uniform", place="median")
    buttons = [
        one for one in opened.find_elements(By.CSS_SELECTOR, ".player button") if one.is_displayed()
    ]
    script = "return [...document.querySelectorAll('article:not([hidden]) audio')].map((audio) => !audio.paused)"
    pressed = "return [...document.querySelectorAll('article:not([hidden]) .player button')].map((b) => b.ariaPressed)"
    buttons[0].click()
    until(opened, "return document.querySelector('article:not([hidden]) audio').currentTime > 0.1")
    assert opened.execute_script(script) == [True, False, False, False, False]
    buttons[3].send_keys(Keys.ENTER)
    until(
        opened,
        "return document.querySelectorAll('article:not([hidden]) audio')[3].currentTime > 0.1",
    )
    assert opened.execute_script(script) == [False, False, False, True, False]
    assert opened.execute_script(pressed) == ["false", "false", "false", "true", "false"]
    choose(opened, place="worst")
    assert opened.execute_script(
        "return [...document.querySelectorAll('audio')].every((audio) => audio.paused)"
    )


def test_the_slider_moves_the_position_by_keys(opened):
    slider = opened.find_element(By.CSS_SELECTOR, "article[data-mixture='44'] input")
    slider.send_keys(Keys.END)
    assert (
        until(
            opened,
            "return arguments[0].closest('.player').querySelector('audio').currentTime",
            slider,
        )
        > 1.3
    )
    slider.send_keys(Keys.HOME)
    until(
        opened,
        "return arguments[0].closest('.player').querySelector('audio').currentTime === 0",
        slider,
    )


@pytest.mark.parametrize("mixture", [44, 12])
def test_the_spectrogram_shows_the_tone_in_one_range_for_all(opened, mixture):
    article = opened.find_element(By.CSS_SELECTOR, f"article[data-mixture='{mixture}']")
    opened.execute_script("arguments[0].scrollIntoView()", article)
    # A canvas that nobody drew on is 150 pixels high.
    script = "return [...arguments[0].querySelectorAll('canvas')].every(({ height }) => height > 10 && height !== 150)"
    until(opened, script, article)
    script = """
        return [...arguments[0].querySelectorAll("canvas")].map((canvas) => {
            const { width, height } = canvas;
            const rows = Array(height).fill(0);
            canvas.getContext("2d").getImageData(0, 0, width, height).data.forEach((value, at) => {
                if (at % 4 < 3) rows[Math.floor(at / 4 / width)] += value / (3 * width);
            });
            return rows;
        });"""
    pictures = [np.array(rows) for rows in opened.execute_script(script, article)]
    (given,) = [one for one in EXCERPTS if one.mixture == mixture]
    for rows in pictures:
        nyquist = given.players[0].sample_rate / 2
        at = round(TONE / nyquist * len(rows))
        assert abs((len(rows) - 1 - np.argmax(rows)) - at) <= 1
        assert np.median(rows) < 0.1 * rows.max()
    source, estimate = pictures[1], pictures[2]  # the estimate is 40 dB softer
    assert estimate.max() < 0.6 * source.max()


def test_hundreds_of_mixtures_stay_within_what_a_browser_opens(driver, tmp_path):
    """Chromium refuses more than a thousand players, with an error on the console."""
    many = [
        excerpt("run", n, "worst", float(n), 0.0, ["dog", "rain"], seconds=0.1) for n in range(210)
    ]
    (tmp_path / "many.html").write_text(page("Many", [], many), encoding="utf-8")
    load(driver, (tmp_path / "many.html").as_uri())
    count = "return document.querySelectorAll('audio[src]').length"
    until(driver, count + " >= 400")
    for n in (100, 150, 209):
        last = driver.find_element(By.CSS_SELECTOR, f"article[data-mixture='{n}']")
        driver.execute_script("arguments[0].scrollIntoView()", last)
        until(
            driver,
            "return [...arguments[0].querySelectorAll('audio')].every((audio) => audio.duration > 0)",
            last,
        )
        until(driver, "return arguments[0].querySelector('canvas').height === 128", last)
    assert driver.execute_script(count) <= 500
    assert (
        driver.execute_script(
            "return [...document.querySelectorAll('canvas')].filter((c) => c.width > 300)"
        )
        == []
    )
    assert driver.get_log("browser") == []


@pytest.mark.parametrize("width", [360, 800])
def test_narrow_screens_scroll_tables_and_not_the_page(opened, width):
    size = {"width": width, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        assert opened.execute_script("return document.documentElement.scrollWidth") <= width
        table = "const box = document.querySelector('.scroll'); return box.scrollWidth > box.clientWidth"
        assert opened.execute_script(table)
        assert opened.find_element(By.NAME, "class").is_displayed()
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
