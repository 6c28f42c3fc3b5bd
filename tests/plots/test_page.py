"""Text on pages: lines that fit, whatever a file holds."""

from hypothesis import given
from hypothesis import strategies as st

from xattn.plots.page import MOST_LETTERS, shortened, text_width, wrapped


@given(st.text("abc xyzÄ", min_size=1, max_size=40), st.floats(0.05, 3))
def test_as_many_letters_as_fit(text, width):
    begun = shortened(text, width, 9.0)
    assert text.startswith(begun)
    assert len(begun) == 1 or text_width(begun, 9.0) <= width
    longer = text[: len(begun) + 1]
    assert begun == text or text_width(longer, 9.0) > width


def test_a_text_of_a_megabyte_is_cut():
    lines = wrapped("a" * 1_000_000, 3.0, 9.0)
    assert "".join(lines) == "a" * (MOST_LETTERS - 1) + "…"
