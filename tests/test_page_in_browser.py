"""The page of a sweep as a user sees and operates it in Chromium."""

import io
import itertools
import json
import shutil
import time

import numpy as np
import pytest
from flat_pictures import COLOURS, GRID, IMAGE, NASTY, plain
from PIL import Image

from jaxnst.app.page import write_page

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
in_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason="needs Chromium and chromedriver (Debian: apt-get install chromium chromium-driver)",
)
FLAGS = """--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run
--disable-quic --disable-background-networking --disable-component-update --disable-sync"""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def open_page(chromium, tmp_path):
    """Write a page and open it; check at the end that it loaded no other file, without errors."""
    path = tmp_path / "index.html"

    def open_it(*arguments, width=1280, height=800, scheme="light", **options):
        write_page(path, *arguments, **options)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
        for log in ("browser", "performance"):
            chromium.get_log(log)
        chromium.get(path.as_uri())
        return Viewer(chromium)

    yield open_it
    assert chromium.get_log("browser") == []
    events = [json.loads(e["message"])["message"] for e in chromium.get_log("performance")]
    asked = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
    urls = [event["request"]["url"] for event in asked]
    assert [url for url in urls if not url.startswith("data:")] == [path.as_uri()]


class Viewer:
    """The open page as a user sees and operates it."""

    def __init__(self, driver):
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.keys import Keys

        self.driver, self.keys = driver, Keys
        self.actions = lambda: ActionChains(driver, duration=50)
        self.picture = driver.find_element("id", "picture")
        self.sliders = driver.find_elements("css selector", "input[type=range]")

    def press(self, *keys):
        """Send keys to the element in focus."""
        self.actions().send_keys(*(getattr(self.keys, key) for key in keys)).perform()

    def focus(self, element):
        self.driver.execute_script("arguments[0].focus()", element)

    def shown(self):
        """Return the label, the number, and the name of the only visible image."""
        visible = [
            image.get_attribute("alt")
            for image in self.picture.find_elements("tag name", "img")
            if image.is_displayed()
        ]
        (name,) = visible
        find = self.driver.find_element
        return find("id", "label").text, find("id", "number").text, name

    def colour(self):
        picture = Image.open(io.BytesIO(self.picture.screenshot_as_png)).convert("RGB")
        return np.asarray(picture, np.float32)[picture.height // 2, picture.width // 2] / 255


@in_browser
def test_one_slider_by_keyboard(open_page):
    names = [f"style {10**i}" for i in range(6)]
    labels = [{"style_weight": 10.0**i} for i in range(6)]
    page = open_page(np.ones((80, 120, 3)), plain([(80, 120)] * 6), labels, title="Walk")
    assert page.driver.title == "Walk"
    (slider,) = page.sliders
    assert page.shown() == (names[0], "1 of 6", names[0])

    def walk():
        for key, i in (("RIGHT", 1), ("RIGHT", 2), ("LEFT", 1), ("END", 5), ("RIGHT", 5)):
            page.press(f"ARROW_{key}" if key != "END" else key)
            assert page.shown() == (names[i], f"{i + 1} of 6", names[i])
        np.testing.assert_allclose(page.colour(), COLOURS[5], atol=0.03)
        for key, i in (("ARROW_DOWN", 4), ("HOME", 0), ("ARROW_UP", 1), ("HOME", 0)):
            page.press(key)
            assert page.shown() == (names[i], f"{i + 1} of 6", names[i])

    walk()  # with nothing in focus
    page.focus(slider)
    walk()
    page.focus(page.picture)
    walk()
    assert slider.accessible_name == "style"
    assert slider.get_attribute("aria-valuetext") == "1"


@in_browser
def test_one_slider_by_mouse(open_page):
    page = open_page(np.ones((80, 120, 3)), plain([(80, 120)] * 6), [f"{i}.png" for i in range(6)])
    (slider,) = page.sliders
    right = slider.size["width"] // 2
    page.actions().move_to_element_with_offset(slider, right - 2, 0).click().perform()
    assert page.shown() == ("5.png", "6 of 6", "5.png")
    page.actions().click_and_hold().move_by_offset(-right, 0).move_by_offset(
        4 - right, 0
    ).release().perform()
    assert page.shown() == ("0.png", "1 of 6", "0.png")
    assert slider.accessible_name == "picture"


@in_browser
def test_a_slider_for_each_setting_of_a_grid(open_page):
    order = [4, 1, 3, 0, 5, 2]  # numbers stay those of the images
    page = open_page(IMAGE, plain([(80, 120)] * 6), [GRID[i] for i in order])
    assert [slider.accessible_name for slider in page.sliders] == ["style", "tv"]
    for (i, style), (j, tv) in itertools.product(
        enumerate(("10", "1000", "100000")), enumerate(("0", "1e-5"))
    ):
        for slider, steps in zip(page.sliders, (i, j), strict=True):
            page.focus(slider)
            page.press("HOME", *["ARROW_RIGHT"] * steps)
        name = f"style {style}, tv {tv}"
        assert page.shown() == (name, f"{order.index(2 * i + j) + 1} of 6", name)
        values = [value.text for value in page.driver.find_elements("tag name", "output")]
        assert values == [style, tv]
    page.focus(page.picture)
    page.press("ARROW_LEFT", "ARROW_DOWN")  # the first slider, the second
    assert page.shown()[0] == "style 1000, tv 0"


@in_browser
def test_compare_with_the_content(open_page):
    page = open_page(np.zeros((80, 120, 3)), plain([(80, 120)] * 2), ["one", "two"])

    def compares(on):
        assert page.picture.get_attribute("aria-pressed") == ("true" if on else "false")
        expected = ("content", "1 of 2", "content") if on else ("one", "1 of 2", "one")
        assert page.shown() == expected
        np.testing.assert_allclose(page.colour(), [0, 0, 0] if on else COLOURS[0], atol=0.03)

    compares(False)
    assert page.picture.accessible_name == "Compare with the content: one"
    for on in (True, False):
        page.picture.click()
        compares(on)
    for key in (page.keys.SPACE, page.keys.ENTER):  # in focus, by the click
        page.actions().key_down(key).perform()
        compares(True)
        page.actions().key_up(key).perform()
        compares(False)
    page.picture.click()
    page.focus(page.sliders[0])
    page.press("ARROW_RIGHT")  # choosing an image ends the comparison
    assert page.shown() == ("two", "2 of 2", "two")
    page.press("ARROW_LEFT")
    page.actions().key_down(page.keys.SPACE).perform()  # not on the picture
    compares(True)
    page.actions().key_up(page.keys.SPACE).perform()
    compares(False)


@in_browser
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (400, 800), (320, 400)])
@pytest.mark.parametrize("shape", [(80, 120), (120, 80), (20, 120)])
def test_picture_fills_the_window(open_page, width, height, shape):
    page = open_page(IMAGE, plain([shape] * 6), GRID, title="Six", width=width, height=height)
    room, box = page.driver.find_element("tag name", "main").rect, page.picture.rect
    assert box["width"] / box["height"] == pytest.approx(shape[1] / shape[0], rel=0.02)
    slack = room["width"] - box["width"], room["height"] - box["height"]
    assert -1 < min(slack) < 1
    assert room["width"] > 0.85 * width and room["height"] > min(200, 0.7 * height)
    sides = "e => [e.scrollWidth, e.clientWidth, e.scrollHeight]"
    wide, window, high = page.driver.execute_script(f"return ({sides})(document.documentElement)")
    assert wide == window and high <= max(height, 450)


@in_browser
def test_focus_ring_and_both_colour_schemes(open_page):
    style = "const s = getComputedStyle(arguments[0]); return [s.{0}, s.{1}]"
    grounds = []
    for scheme in ("light", "dark"):
        page = open_page(IMAGE, [IMAGE, IMAGE], ["one", "two"], scheme=scheme)
        body = page.driver.find_element("tag name", "body")
        query = style.format("backgroundColor", "color")
        grounds.append(page.driver.execute_script(query, body))
        for element in (page.picture, page.sliders[0]):
            page.press("TAB")
            assert page.driver.switch_to.active_element == element
            query = style.format("outlineStyle", "outlineWidth")
            ring, width = page.driver.execute_script(query, element)
            assert ring == "solid" and float(width.removesuffix("px")) >= 2
        page.driver.get("about:blank")
    (light, ink_on_light), (dark, ink_on_dark) = (
        [sum(map(int, colour[4:-1].split(","))) for colour in pair] for pair in grounds
    )
    assert light > 700 > 100 > ink_on_light and ink_on_dark > 700 > 100 > dark


@in_browser
def test_texts_cannot_run_scripts(open_page):
    labels = [{"name": NASTY, "same": NASTY}, {"name": "calm", "same": NASTY}]
    page = open_page(IMAGE, [IMAGE, IMAGE], labels, title=NASTY)
    time.sleep(0.1)  # for a handler to do its worst
    assert page.driver.title == page.driver.find_element("tag name", "h1").text == NASTY
    assert page.shown() == (f"name {NASTY}", "1 of 2", f"name {NASTY}")
    page.press("ARROW_RIGHT")
    assert page.shown() == ("name calm", "2 of 2", "name calm")


@in_browser
def test_a_single_image_needs_no_slider(open_page):
    page = open_page(IMAGE, [IMAGE], [{"style_weight": 1e3}])
    assert page.sliders == [] and page.shown() == ("style 1000", "1 of 1", "style 1000")
    page.press("ARROW_RIGHT", "END")
    page.picture.click()
    assert page.shown() == ("content", "1 of 1", "content")
