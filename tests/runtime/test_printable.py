"""Text from files as a terminal may show it."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xattn.runtime.printable import printable, printable_lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b]0;title\x07", r"\x1b[31mred\x1b]0;title\x07"),
        ("\x9b31m, the same in one byte", r"\x9b31m, the same in one byte"),
        ("one\r\ntwo\tthree\x7f\x00", r"one\r\ntwo\tthree\x7f\x00"),
        ("a\u202egpj.exe, a line\u2028end", r"a\u202egpj.exe, a line\u2028end"),
        ("bytes \udcff that are no text", r"bytes \udcff that are no text"),
        ("a dog [bold]runs[/bold] 100% \\ ok", "a dog [bold]runs[/bold] 100% \\ ok"),
        ("Ein Hündchen läuft 🐶👨‍👩‍👧 שלום میخواهم", "Ein Hündchen läuft 🐶👨‍👩‍👧 שלום میخواهم"),
    ],
)
def test_controls_are_shown_as_escapes_and_all_else_stays(text, shown):
    assert printable(text) == shown


@given(st.text(st.characters()))
def test_nothing_is_left_that_controls_a_terminal_or_cannot_be_encoded(text):
    shown = printable(text)
    shown.encode("utf-8")
    assert not {"Cc", "Cs", "Zl", "Zp"} & set(map(unicodedata.category, shown))
    assert not any(unicodedata.bidirectional(letter) in BIDIRECTIONAL_CONTROLS for letter in shown)
    assert len(shown.splitlines()) <= 1
    assert printable(shown) == shown
    assert printable_lines(text) == "\n".join(printable(line) for line in text.split("\n"))


BIDIRECTIONAL_CONTROLS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


@given(st.lists(st.text(st.characters(exclude_categories=["Cc", "Cs", "Cf", "Zl", "Zp"]))))
def test_lines_of_letters_are_not_changed(lines):
    assert printable_lines("\n".join(lines)) == "\n".join(lines)
