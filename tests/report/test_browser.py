"""The page in a real browser without a network: figures answer, nothing is requested, no other script runs."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

import refiner_cka as rc
from tests.report.pages import HOSTILE, IMAGE, LINK, SCRIPT, made

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium on this machine (Debian's package is chromium)"
)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        launched = driver.chromium.launch(
            executable_path=BROWSER, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def result():
    return made(["vit_s", "deit_s"])


@pytest.fixture(scope="module")
def pages(tmp_path_factory, result):
    """The pages of a plain result, and of one whose every text wants to be markup."""
    folder = tmp_path_factory.mktemp("pages")
    rc.report.save(result, folder / "plain.html")
    paths = ("<b>0</b>", LINK, SCRIPT)
    rc.report.save(made(HOSTILE, paths, said=IMAGE), folder / "hostile.html")
    return folder


def opened(context, address):
    """Open a page, and note all that it asks for and complains of."""
    page, noted = context.new_page(), []
    page.on("request", lambda request: noted.append(f"request {request.url}"))
    page.on("console", lambda message: noted.append(f"console {message.text}"))
    page.on("pageerror", lambda error: noted.append(f"error {error}"))
    page.on("dialog", lambda dialog: (noted.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.goto(address)
    page.wait_for_selector("html.drawn", timeout=60_000)
    noted.remove(f"request {address}")
    return SimpleNamespace(page=page, noted=noted)


@pytest.fixture(scope="module")
def offline(browser):
    context = browser.new_context(offline=True, viewport={"width": 1000, "height": 900})
    yield context
    context.close()


@pytest.fixture(scope="module")
def plain(offline, pages):
    return opened(offline, (pages / "plain.html").as_uri())


@pytest.fixture(scope="module")
def hostile(offline, pages):
    return opened(offline, (pages / "hostile.html").as_uri())


def hovered(page, section, place):
    """What a figure of a section says where it is pointed at."""
    place = page.locator(f"#{section} {place}").first
    place.scroll_into_view_if_needed()
    page.mouse.move(0, 0)
    place.hover(force=True)
    return label(page, section)


def label(page, section):
    """The lines of the label that a figure shows."""
    text = page.locator(f"#{section} .hoverlayer .hovertext .nums").first
    text.wait_for()
    return text.evaluate(
        "text => [...(text.querySelector('.line') ? text.querySelectorAll('.line') : [text])]"
        ".map(line => line.textContent)"
    )


def test_a_point_of_a_curve_says_its_layer_and_value(plain, result):
    curve = result.curve("vit_s", normalize="none")
    said = hovered(plain.page, "curves", ".points path:nth-of-type(2)")
    assert said[:3] == [
        "vit_s",
        "blocks.1, depth 0.50",
        f"CKA(l, last): {curve.values[1]:.3f} ± {curve.se[1]:.3f}",
    ]
    assert said[3] == f"95 %: {curve.lower[1]:.3f} to {curve.upper[1]:.3f}"


def test_a_cell_of_a_map_says_its_layers_value_error_and_chance(plain, result):
    page = plain.page
    page.locator("#maps select").select_option(label="vit_s and deit_s")
    said = hovered(page, "maps", ".nsewdrag")
    cka, error, chance = (
        ask("vit_s", "deit_s")[1, 1] for ask in (result.cka, result.cka_se, result.chance)
    )
    assert said[:3] == ["vit_s: blocks.1", "deit_s: blocks.1", f"CKA {cka:.3f} ± {error:.2g}"]
    assert said[3].startswith("unrelated images: 0 ± 0.0")
    assert float(said[3].split("± ")[1]) == pytest.approx(chance, abs=6e-4)


def test_all_panels_are_drawn_and_a_model_can_be_hidden(plain):
    page = plain.page
    drawn = page.locator(".panel").count()
    assert page.locator(".panel .main-svg").count() >= drawn
    lines = page.locator("#curves .panel").first.locator(".scatterlayer .points")
    before = lines.count()
    page.locator("#curves .legend button").first.click()
    assert lines.count() < before
    pressed = page.locator(".legend button[aria-pressed=false]").all_inner_texts()
    assert len(pressed) > 1
    assert all("vit_s" in name for name in pressed)
    page.locator("#curves .legend button").first.click()
    assert lines.count() == before


def test_a_figure_can_be_saved(plain):
    panel = plain.page.locator("#curves .panel").first
    panel.hover()
    with plain.page.expect_download(timeout=10_000) as download:
        panel.locator(".modebar-btn").first.click()
    assert Path(download.value.path()).read_text().startswith("<svg")


def test_it_is_dark_where_the_reader_likes_it_dark_but_on_paper(plain):
    page = plain.page
    page.emulate_media(color_scheme="dark")
    assert ground(page) == "rgb(21, 23, 28)"
    assert colour_of_ticks(page) == "rgb(228, 230, 234)"
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(color_scheme="dark", media="print")
    assert ground(page) == "rgb(255, 255, 255)"
    assert colour_of_ticks(page) == "rgb(28, 30, 34)"
    page.emulate_media(color_scheme="light", media="screen")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert colour_of_ticks(page) == "rgb(28, 30, 34)"


def ground(page):
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def colour_of_ticks(page):
    tick = page.locator("#curves .xtick text").first
    return tick.evaluate("text => getComputedStyle(text).fill")


def test_hostile_names_are_shown_as_they_are(hostile):
    page = hostile.page
    said = [told(page, place, 1) for place in range(len(HOSTILE))]
    assert [each[0] for each in said] == HOSTILE
    assert {each[1] for each in said} == {f"{LINK}, depth 0.50"}
    page.locator("#maps select").select_option("1")
    said = hovered(page, "maps", ".nsewdrag")
    assert said[:2] == [f"{IMAGE}: {LINK}"] * 2
    assert page.locator("#maps .xtick text").all_text_contents() == ["<b>0</b>", LINK, SCRIPT]
    for element in ("svg a", "img", "b", "svg image[href^=http]"):
        assert page.locator(f"body {element}").count() == 0, element


def told(page, line, point):
    """What a point of the first panel says, however many lie on it."""
    page.evaluate(
        """async ([line, point]) => {
            const panel = document.querySelector("#curves .panel");
            const lines = panel.data.flatMap((each, place) => each.mode === "lines+markers" ? [place] : []);
            Plotly.Fx.hover(panel, [{curveNumber: lines[line], pointNumber: point}]);
            await new Promise(done => setTimeout(done, 100));  // labels are not renewed more often than that
        }""",
        [line, point],
    )
    return label(page, "curves")


@pytest.mark.parametrize("name", ["plain", "hostile"])
def test_nothing_is_wider_than_a_telephone(name, request):
    page = request.getfixturevalue(name).page
    page.set_viewport_size({"width": 400, "height": 800})
    # Not `wait_for_function`, which evaluates text: the page's policy forbids it.
    wide = page.evaluate(
        """async () => {
            const right = svg => svg.getBoundingClientRect().right;
            const wide = () => [...document.querySelectorAll(".panel .main-svg")].some(svg => right(svg) > 400);
            for (let tries = 0; tries < 200 && wide(); tries++) await new Promise(done => setTimeout(done, 50));
            return wide();
        }"""
    )
    assert not wide
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.set_viewport_size({"width": 1000, "height": 900})


def test_nothing_was_requested_and_nothing_complained_of(plain, hostile):
    """After all that the tests before have done."""
    assert plain.noted == []
    assert hostile.noted == []


def test_what_a_script_got_in_would_not_run(plain):
    """The page's policy, should the escaping fail one day."""
    plain.page.evaluate(
        """() => {
            window.ran = [];
            document.body.insertAdjacentHTML("beforeend", '<img src=x onerror="ran.push(1)">');
            document.body.insertAdjacentHTML("beforeend", '<p onclick="ran.push(2)" id="bait">x</p>');
            document.getElementById("bait").click();
            const script = document.createElement("script");
            script.textContent = "ran.push(3)";
            document.body.append(script);
            return fetch("https://example.org/").catch(() => 0);
        }"""
    )
    assert plain.page.evaluate("ran") == []
    for directive in ("script-src", "img-src", "default-src 'none'"):
        assert any(directive in each for each in plain.noted)
