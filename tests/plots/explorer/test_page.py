"""The explorer in a real browser: words light up regions, keys work, nothing is loaded, markup is text."""

import base64
import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from xattn.attention.attention import Attention
from xattn.plots.attention_map import lighting, lit
from xattn.plots.explorer.exploration import (
    Exploration,
    Negative,
    ShownAttention,
    ShownCaption,
    ShownImage,
    ShownRun,
    ShownWord,
    View,
    differences,
)
from xattn.plots.explorer.page import module, page, stylesheet, write_page

MARKUP = "<img src=x onerror=alert(1)></script><script>alert(2)</script>&amp;"
BOXES = np.array([[0, 0, 60, 40], [60, 0, 120, 40], [0, 40, 60, 80], [30, 20, 90, 60]], np.float64)
WORDS = ["<start>", "red", "dog", MARKUP, "<end>"]
FIRST = np.array(
    [[0.25] * 4, [0.8, 0.1, 0.06, 0.04], [0.04, 0.06, 0.1, 0.8], [0.1, 0.6, 0.2, 0.1], [0.25, 0.25, 0.25, 0.25]]
)
SECOND = np.array([[0.25] * 4, [0.1, 0.5, 0.2, 0.2], [0.04, 0.06, 0.1, 0.8], [0.1, 0.6, 0.2, 0.1], [0.25] * 4])


def words():
    types = [(), ("colour",), ("animal",), ("animal",), ()]
    return [
        ShownWord(text, kind, [False, text == "dog"], text in ("<start>", "<end>"))
        for text, kind in zip(WORDS, types, strict=True)
    ]


def exploration():
    pixels = np.random.default_rng(0).integers(0, 255, size=(20, 30, 3), dtype=np.uint8)
    photo = Image.fromarray(pixels).resize((120, 80), Image.Resampling.BICUBIC)
    images = [ShownImage.of(photo, MARKUP), ShownImage.of(photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT), "b.jpg")]
    parts = np.array([0.1, 0.2, -0.05, 0.15, 0.1])
    runs = [
        ShownAttention({"t2i": FIRST, "i2t": FIRST[:, ::-1]}, 0.5, {"t2i": parts * 5}, {"t2i": parts}),
        ShownAttention({"t2i": SECOND}, 0.4),
    ]
    truth = {1: np.array([[2.0, 2, 58, 40]])}
    own = View(0, words(), BOXES, runs, truth)
    negatives = [
        Negative("picture", 0, View(1, words(), BOXES, [ShownAttention({"t2i": SECOND}, 0.3), None])),
        Negative("caption", 1, View(0, words()[:3], BOXES, [None, ShownAttention({"t2i": FIRST[:3]}, 0.2)])),
    ]
    captions = [
        ShownCaption(
            "a red dog", "test caption 0", View(1, words()[:2], BOXES, [ShownAttention({"t2i": FIRST[:2]}, 0.1)] * 2)
        ),
        ShownCaption(f"a red {MARKUP}", "test caption 1", own, negatives, ("red", 0.7)),
    ]
    run_names = [ShownRun(f"scan {MARKUP}", ["t2i", "i2t"]), ShownRun("other", ["t2i"], "no parts here")]
    return Exploration(f"What {MARKUP}", ["about it"], run_names, images, captions)


# The file


def test_the_file_holds_no_markup_of_captions_and_no_address():
    text = page(exploration())
    assert "<img" not in text
    assert text.count("<script") == 2
    assert text.count("</script>") == 2
    assert (
        re.findall(r"(?:src|href)=", re.sub(r"<script.*?</script>|<title>.*?</title>", "", text, flags=re.DOTALL)) == []
    )
    assert re.findall(r"https?://[^\s\"']+", text) == []
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1]
    assert policy.startswith("default-src &#x27;none&#x27;; img-src data:; script-src &#x27;sha256-")
    assert "unsafe" not in policy


def test_the_data_of_the_page_are_those_of_the_exploration():
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page(exploration()), re.DOTALL)[1]
    data = json.loads(found)
    assert data == exploration().as_json()
    assert data["captions"][1]["pair"]["words"][3]["text"] == MARKUP
    np.testing.assert_allclose(data["captions"][1]["pair"]["runs"][0]["attention"]["t2i"], FIRST)


def test_differences_against_a_loop():
    rng = np.random.default_rng(0)
    first, second = rng.dirichlet(np.ones(4), 3), rng.dirichlet(np.ones(4), 3)
    expected = [
        sum(abs(a - b) for a, b in zip(one, other, strict=True)) / 2 for one, other in zip(first, second, strict=True)
    ]
    np.testing.assert_allclose(differences(first, second), expected)
    assert ((differences(first, second) >= 0) & (differences(first, second) <= 1)).all()
    received = rng.uniform(0, 3, (3, 1))  # what a word receives from regions has any sum
    np.testing.assert_allclose(differences(received * first, 2 * second), expected)
    assert differences(np.zeros((1, 4)), second[:1]) == pytest.approx(0.5)


def test_photos_are_small_and_keep_nothing_of_their_file():
    photo = Image.new("RGB", (3000, 1500), "red")
    shown = ShownImage.of(photo, "a.jpg")
    assert (shown.size, shown.pixels) == ((3000, 1500), (480, 240))
    content = base64.b64decode(shown.source.partition(",")[2])
    with Image.open(io.BytesIO(content)) as again:
        assert (again.format, again.size, dict(again.getexif())) == ("JPEG", (480, 240), {})


@pytest.mark.slow
def test_fifty_captions_take_less_than_ten_megabytes(tmp_path):
    """The worst there is: photos of noise, 36 regions, two runs with both directions, every negative of a photo of its
    own."""
    rng = np.random.default_rng(0)
    boxes, names = rng.uniform(0, 480, (36, 4)), [ShownWord(f"word{place}") for place in range(14)]

    def noise():
        return ShownImage.of(Image.fromarray(rng.integers(0, 255, (480, 640, 3), dtype=np.uint8)), "photos/noise.jpg")

    def one():
        weights = {direction: rng.dirichlet(np.ones(36), 14) for direction in ("t2i", "i2t")}
        relevance = {"t2i": rng.normal(size=14), "i2t": rng.normal(size=36)}
        return ShownAttention(weights, 0.5, relevance, relevance)

    captions = []
    for number in range(50):
        negatives = [
            Negative(
                kind,
                run,
                View(3 * number + run + 1, names, boxes, [one() if run == other else None for other in (0, 1)]),
            )
            for run in (0, 1)
            for kind in ("picture", "caption")
        ]
        captions.append(ShownCaption("word " * 14, "about", View(3 * number, names, boxes, [one(), one()]), negatives))
    runs = [ShownRun(name, ["t2i", "i2t"]) for name in ("one", "other")]
    shown = Exploration("title", [], runs, [noise() for _ in range(150)], captions)
    assert write_page(shown, tmp_path / "page.html") < 10e6


def test_a_page_is_complete_or_absent(tmp_path):
    from xattn.runtime.errors import InputError

    size = write_page(exploration(), tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size == size
    with pytest.raises(InputError, match="because the folder"):
        write_page(exploration(), tmp_path / "absent/page.html")


# In a browser


@pytest.fixture
def opened(browser, tmp_path):
    """The page from disk; at its end nothing was said on the console and nothing was asked of any address."""
    asked, said, contexts = [], [], []

    def open_page(content=None, **options):
        path = tmp_path / "page.html"
        path.write_text(page(exploration()) if content is None else content, encoding="utf-8")
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}} | options)
        contexts.append(context)
        tab = context.new_page()
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        tab.goto(path.as_uri())
        tab.get_by_role("toolbar", name="Words of the caption").wait_for()
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file://", "data:image/jpeg"))] == []
    assert sum(url.startswith("file://") for url in asked) == len(contexts)


def second_caption(tab):
    tab.get_by_role("navigation", name="Captions").get_by_role("button").nth(1).click()
    return tab.get_by_role("toolbar", name="Words of the caption").get_by_role("button")


def outlines(tab, number=0):
    """Place, kind and number of the outlines on a picture, in its own pixels."""
    return tab.evaluate(
        """(number) => [...document.querySelectorAll(".picture")[number].querySelectorAll(".box")].map((box) => ({
            kind: box.className, text: box.textContent, colour: getComputedStyle(box).borderTopColor,
            place: ["left", "top", "width", "height"].map((side) => parseFloat(box.style[side]))}))""",
        number,
    )


def pixels(tab, number=0):
    values = tab.evaluate(
        """(number) => { const canvas = document.querySelectorAll(".picture canvas")[number];
            return [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data]; }""",
        number,
    )
    return np.array(values).reshape(80, 120, 4)[..., :3]


def photo_pixels():
    source = exploration().images[0].source
    with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as photo:
        return photo.convert("RGB")


@pytest.mark.slow
def test_a_word_lights_up_its_regions_on_one_scale_for_both_runs(opened):
    tab = opened()
    buttons = second_caption(tab)
    assert np.abs(pixels(tab) - np.asarray(photo_pixels())).max() <= 3
    buttons.nth(1).click()
    for number, weights in ((0, FIRST[1]), (1, SECOND[1])):
        light = lighting(weights, BOXES, "largest", (120, 80), (120, 80))
        expected = lit(photo_pixels(), light, 0.8) * 255  # 0.8 is the largest of both runs
        assert np.abs(pixels(tab, number) - expected).max() <= 4
        drawn = outlines(tab, number)
        largest = next(each for each in drawn if "largest" in each["kind"])
        x1, y1, x2, y2 = BOXES[weights.argmax()]
        np.testing.assert_allclose(largest["place"], [x1 / 1.2, y1 / 0.8, (x2 - x1) / 1.2, (y2 - y1) / 0.8], atol=0.01)
        assert largest["text"] == f"{weights.max():.2f}"
        assert len([each for each in drawn if "truth" in each["kind"]]) == 1
        assert sum(bool(each["text"]) for each in drawn) == 3
    # One weight has one colour, whichever the run and the word.
    buttons.nth(2).click()
    (one,), (other,) = ([each for each in outlines(tab, number) if "largest" in each["kind"]] for number in (0, 1))
    assert one["colour"] == other["colour"] == "rgb(252, 255, 164)"
    assert tab.locator(".ticks").inner_text().split() == ["0", "0.40", "0.80"]
    assert not any("truth" in each["kind"] for each in outlines(tab))


@pytest.mark.slow
def test_hovering_shows_a_word_and_leaving_shows_the_chosen_one_again(opened):
    tab = opened()
    buttons = second_caption(tab)
    buttons.nth(1).click()
    buttons.nth(2).hover()
    assert "“dog” attends to 0.80 (30, 20, 90, 60)" in tab.locator(".view > .status").inner_text()
    tab.locator(".view .chosen").hover()
    assert "“red” attends to 0.80 (0, 0, 60, 40)" in tab.locator(".view > .status").inner_text()


@pytest.mark.slow
def test_words_work_with_keys(opened):
    tab = opened()
    buttons = second_caption(tab)
    pressed = lambda: [button.get_attribute("aria-pressed") for button in buttons.all()]  # noqa: E731
    assert pressed() == ["false"] * 5
    buttons.nth(0).focus()
    assert [button.get_attribute("tabindex") for button in buttons.all()] == ["0", "-1", "-1", "-1", "-1"]
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("Enter")
    assert pressed() == ["false", "true", "false", "false", "false"]
    tab.keyboard.press("End")
    tab.keyboard.press("Space")
    assert pressed() == ["false", "false", "false", "false", "true"]
    tab.keyboard.press("ArrowRight")  # around the end
    tab.keyboard.press("ArrowLeft")
    tab.keyboard.press("ArrowLeft")
    tab.keyboard.press("Enter")
    assert pressed() == ["false", "false", "false", "true", "false"]
    tab.keyboard.press("Escape")
    assert pressed() == ["false"] * 5
    assert outlines(tab) == []
    # Tab leaves the words: one of them is a stop.
    tab.keyboard.press("Tab")
    assert not tab.evaluate("document.activeElement.closest('[aria-label=\"Words of the caption\"]')")


@pytest.mark.slow
def test_filters_directions_parts_and_negatives(opened):
    tab = opened()
    captions = tab.get_by_role("navigation", name="Captions").get_by_role("button")
    assert captions.count() == 2
    tab.get_by_label("Type of phrase").select_option("animal")
    assert captions.count() == 1
    assert "1 of 2 captions" in tab.locator(".count").inner_text()
    buttons = tab.get_by_role("toolbar", name="Words of the caption").get_by_role("button")
    assert ["of-type" in button.get_attribute("class") for button in buttons.all()] == [False, False, True, True, False]
    tab.get_by_label("Type of phrase").select_option("")
    tab.get_by_label("Order of captions").select_option("difference")
    assert "the runs differ most on “red”: 0.70" in captions.nth(0).inner_text()
    assert captions.nth(0).get_attribute("aria-current") == "true"
    parts = [
        float(part.inner_text().replace("\N{MINUS SIGN}", "-")) for part in tab.locator(".view > .words .part").all()
    ]
    assert sum(parts) == pytest.approx(0.5, abs=0.003)
    said = [line.inner_text() for line in tab.locator("figcaption span").all()]
    assert said == ["score 0.500; its 5 words add +0.500", "score 0.400; no parts here"]
    cards = tab.locator(".negative")
    assert [card.locator("p").first.inner_text() for card in cards.all()] == [
        "score 0.300, the right one 0.500",
        "score 0.200, the right one 0.400",
    ]
    buttons.nth(1).click()
    assert [each["text"] for each in outlines(tab, 2) if "largest" in each["kind"]] == ["0.50"]  # the wrong photo
    assert outlines(tab, 3) == []
    cards.nth(1).get_by_role("button").nth(1).click()
    assert [each["text"] for each in outlines(tab, 3) if "largest" in each["kind"]] == ["0.80"]  # the wrong caption
    tab.get_by_label("Direction").select_option("i2t")
    tab.get_by_role("toolbar", name="Words of the caption").get_by_role("button").nth(1).click()
    assert [each["text"] for each in outlines(tab) if "largest" in each["kind"]] == ["0.80"]
    assert outlines(tab, 1) == []  # the other run does not attend so
    assert "it does not attend regions to words" in tab.locator("figcaption span").nth(1).inner_text()


@pytest.mark.slow
def test_the_table_says_the_same_without_pictures(opened):
    tab = opened()
    second_caption(tab)
    rows = [[cell.inner_text() for cell in row.locator("th, td").all()] for row in tab.locator("tbody tr").all()]
    assert rows[1] == [
        "red",
        "colour",
        "0.80",
        "(0, 0, 60, 40)",
        "0.89",
        "1.000",
        "+0.200",
        "0.50",
        "(60, 0, 120, 40)",
        "0.00",
        "\N{EN DASH}",
        "\N{EN DASH}",
    ]
    assert rows[3][0] == MARKUP
    assert len(rows) == 5


@pytest.mark.slow
def test_captions_and_names_with_markup_are_text(opened):
    tab = opened()
    second_caption(tab)
    assert tab.title() == f"What {MARKUP}"
    assert tab.locator(".chosen").inner_text() == f"a red {MARKUP}"
    assert tab.locator("figcaption strong").first.inner_text() == f"scan {MARKUP}"
    assert tab.locator("img").count() == 2  # of the list
    assert tab.locator("script").count() == 2


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_axe_finds_no_violation(opened, scheme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    tab = opened(
        color_scheme=scheme, viewport={"width": width, "height": 800}, reduced_motion="reduce", bypass_csp=True
    )
    second_caption(tab).nth(1).click()
    results = axe.Axe().run(tab)
    assert results.violations_count == 0, results.generate_report()
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


# The widget


def attention(heads=2):
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(3, heads, 2, 5, generator=generator).softmax(-1)
    return Attention(torch.zeros(3, heads, 2, 4), torch.zeros(3, heads, 5, 4), weights)


def test_the_widget_has_the_mean_over_heads_and_leaves_out_keys_without_a_box():
    pytest.importorskip("anywidget", reason="needs anywidget: pip install 'xattn[notebook]'")
    from xattn.plots.explorer.widget import explorer

    of_layer = attention()
    boxes = torch.cat([torch.full((1, 4), torch.nan), torch.from_numpy(BOXES).float()])
    shown = explorer(of_layer, Image.new("RGB", (120, 80)), ["red", "dog"], boxes.expand(3, 5, 4), pair=1)
    view = shown.data["captions"][0]["pair"]
    assert view["regions"] == BOXES.tolist()
    np.testing.assert_allclose(view["runs"][0]["attention"]["t2i"], of_layer.weights[1].mean(0)[:, 1:], atol=6e-5)
    one = explorer({"a": of_layer, "b": of_layer}, Image.new("RGB", (120, 80)), ["red", "dog"], boxes, head=1)
    np.testing.assert_allclose(
        one.data["captions"][0]["pair"]["runs"][1]["attention"]["t2i"], of_layer.weights[0, 1][:, 1:], atol=6e-5
    )
    assert shown._esm == module()
    assert shown._css == stylesheet()
    with pytest.raises(ValueError, match="attention: connects 2 words with 5 regions, but 1 words and 5 boxes"):
        explorer(of_layer, Image.new("RGB", (120, 80)), ["red"], boxes)
    with pytest.raises(ValueError, match="there is no pair 3; there are 3"):
        explorer(of_layer, Image.new("RGB", (120, 80)), ["red", "dog"], boxes, pair=3)


@pytest.mark.slow
def test_the_widget_is_drawn_by_its_module(browser, tmp_path):
    """As a notebook does it: the module is imported, and `render` gets a model and an element."""
    pytest.importorskip("anywidget", reason="needs anywidget: pip install 'xattn[notebook]'")
    from xattn.plots.explorer.widget import explorer

    shown = explorer(attention(), Image.new("RGB", (120, 80), "red"), ["red", "dog"], np.vstack([BOXES, BOXES[:1]]))
    tab = browser.new_page()
    said = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.goto("about:blank")
    tab.set_content("<main></main>")
    tab.evaluate(
        """async ([code, data]) => {
            const module = await import(URL.createObjectURL(new Blob([code], { type: "text/javascript" })));
            module.default.render({ model: { get: (name) => ({ data })[name] }, el: document.querySelector("main") });
        }""",
        [shown._esm, shown.data],
    )
    buttons = tab.get_by_role("toolbar", name="Words of the caption").get_by_role("button")
    buttons.nth(1).click()
    assert buttons.nth(1).get_attribute("aria-pressed") == "true"
    assert "“dog” attends to" in tab.locator(".status").inner_text()
    assert len(outlines(tab)) == 5
    tab.close()
    assert said == []
