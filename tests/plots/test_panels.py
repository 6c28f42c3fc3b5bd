"""Panels and styles of charts: told apart without colour, in lines, and every name as it is."""

import numpy as np

from xattn.plots.panels import COLOURS, LINES, MARKERS, OTHER_COLOURS, Styles, in_lines


def test_lines_are_told_apart_without_colour():
    variants = [(name, name) for name in ("none", "ccr", "ccs", "both")]
    variants += [("ccr", f"ccr, margin {margin}") for margin in (0.1, 0.3, 0.5)]
    styles = Styles(variants)
    found = [styles.of(*variant) for variant in variants]
    assert len({(str(style["linestyle"]), style["marker"]) for style in found}) == 7
    colours = {style["color"] for (name, _), style in zip(variants, found, strict=True) if name == "ccr"}
    assert colours == {COLOURS["ccr"]}


def test_colours_differ_in_brightness_too():
    """Neighbours of the four sets in print: at least 8% of the way from black to white apart."""
    brightness = sorted(luminance(colour) for colour in COLOURS.values())
    assert min(np.diff(brightness)) > 0.08
    assert len(set(COLOURS.values()) | set(OTHER_COLOURS)) == len(COLOURS) + len(OTHER_COLOURS)
    assert len(set(map(str, LINES))) == len(LINES)
    assert len(set(MARKERS)) == len(MARKERS)


def luminance(colour):
    """CIE lightness in [0, 1], from sRGB."""
    channels = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    y = linear @ np.array([0.2126, 0.7152, 0.0722])
    return (116 * np.cbrt(y) - 16) / 100 if y > 0.008856 else 9.033 * y


def test_panels_in_lines():
    assert in_lines(list(range(7))) == [[0, 1, 2], [3, 4, 5], [6]]
    assert in_lines([1]) == [[1]]
