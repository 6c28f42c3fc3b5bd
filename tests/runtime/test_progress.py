"""How far a work is, where nobody watches a terminal: a line a minute."""

import pytest

from xattn.runtime.progress import PlainLines, progress_bars


@pytest.fixture
def shown_at(capsys):
    """Call a `PlainLines` at the second of a clock; gives what was printed."""
    seconds = [0.0]
    lines = PlainLines(clock=lambda: seconds[0])

    def shown_at(second, *call):
        seconds[0] = second
        lines(*call)
        out, err = capsys.readouterr()
        assert out == ""
        return err

    return shown_at


def test_a_line_a_minute(shown_at):
    assert shown_at(0, "encoding images", 0, 31_783) == ""
    assert shown_at(59, "encoding images", 500, 31_783) == ""
    assert shown_at(60, "encoding images", 600, 31_783) == "encoding images: 600 of 31,783, 1%, about 52 min left\n"
    assert shown_at(61, "encoding images", 610, 31_783) == ""
    assert shown_at(119, "encoding images", 1190, 31_783) == ""
    assert shown_at(1230, "encoding images", 12_300, 31_783) == (
        "encoding images: 12,300 of 31,783, 38%, about 32 min left\n"
    )


def test_what_was_done_before_is_no_part_of_the_rate(shown_at):
    shown_at(0, "features", 900, 1000)
    assert shown_at(60, "features", 910, 1000) == "features: 910 of 1,000, 91%, about 9 min left\n"


def test_the_rate_is_that_of_the_work_at_hand(shown_at):
    shown_at(0, "checking images", 0, 10)
    shown_at(50, "checking images", 10, 10)
    shown_at(50, "features", 0, 1000)
    assert shown_at(110, "features", 10, 1000) == "features: 10 of 1,000, 1%, about 1 h 39 min left\n"


@pytest.mark.parametrize(
    ("done", "total", "line"),
    [
        (10, 10, "trials: 10 of 10, 100%"),
        (0, 10, "trials: 0 of 10, 0%"),
        (0, 0, "trials: 0 of 0"),
        (999, 1000, "trials: 999 of 1,000, 99%, less than a minute left"),
    ],
)
def test_at_the_borders(shown_at, done, total, line):
    shown_at(0, "trials", 0, total)
    assert shown_at(70, "trials", done, total) == f"{line}\n"


def test_what_follows_the_name_comes_last_and_is_harmless(shown_at):
    shown_at(0, "training, epoch 1 of 2", 0, 100)
    assert shown_at(60, "training, epoch 2 of 2, loss \x1b[31m", 50, 100) == (
        "training: 50 of 100, 50%, about 1 min left, epoch 2 of 2, loss \\x1b[31m\n"
    )


def test_lines_where_stderr_is_no_terminal():
    with progress_bars() as show:
        assert isinstance(show, PlainLines)


def test_a_reader_that_has_gone_does_not_end_the_work(monkeypatch):
    class Gone:
        def write(self, _):
            raise BrokenPipeError

        def flush(self):
            raise BrokenPipeError

    seconds = iter([0, 100])
    lines = PlainLines(clock=lambda: next(seconds))
    monkeypatch.setattr("sys.stderr", Gone())
    lines("trials", 1, 2)
