"""A misspelt value is answered with the nearest; all others are read as before."""

from dataclasses import dataclass
from typing import Literal

import pytest
import tyro
from hypothesis import given
from hypothesis import strategies as st

from xattn.cli.choices import REGISTRY
from xattn.cli.main import main
from xattn.runtime.nearest import did_you_mean

Swap = Literal["hard", "random", "sentence"]


@dataclass
class Flags:
    swap: Swap = "random"
    protocol: Literal["f30k-1k", "coco-1k"] | None = None
    kinds: tuple[Swap, ...] = ("hard",)
    number: Literal[1, 2] = 1
    path: str | None = None


@given(
    swap=st.sampled_from(["hard", "random", "sentence", None]),
    protocol=st.sampled_from(["f30k-1k", "coco-1k", "None", None]),
    kinds=st.lists(st.sampled_from(["hard", "random", "sentence"])) | st.none(),
    number=st.sampled_from(["1", "2", None]),
)
def test_choices_are_read_as_tyro_reads_them(swap, protocol, kinds, number):
    words = []
    for flag, value in {"--swap": swap, "--protocol": protocol, "--kinds": kinds, "--number": number}.items():
        words += [] if value is None else [flag, *(value if isinstance(value, list) else [value])]
    assert tyro.cli(Flags, args=words, registry=REGISTRY) == tyro.cli(Flags, args=words)


TRAIN = "train scan-t2i-avg --data d --out o"
COMPARE = "compare --data d --out o"


@pytest.mark.parametrize(
    ("words", "flag", "wrong", "advice"),
    [
        (TRAIN, "--ccs.swap", "hrad", "did you mean hard or random?"),
        (TRAIN, "--ccs.swap", "soft", "there are hard, random, sentence, batch, substitute"),
        (TRAIN, "--constraints", "bth", "did you mean both?"),
        (TRAIN, "--model.direction", "t21", "did you mean t2i?"),
        (COMPARE, "--constraints", "boht", "did you mean both?"),
        (COMPARE, "--constraints none", "boht", "did you mean both?"),
        (COMPARE, "--settings", "F3OK", "did you mean f30k?"),
        ("evaluate run --data d", "--protocol", "f30k", "did you mean f30k-1k?"),
        ("evaluate run --data d", "--weights", "bets", "did you mean best?"),
        ("attend run --data d --out o", "--words", "contnet", "did you mean content?"),
        ("prepare archive --archive a --out o", "--join", "id", "did you mean ids?"),
        ("import c.pth --vocabulary v --out o", "--model.name", "sgrf", "did you mean sgraf?"),
    ],
)
def test_a_misspelt_value_is_answered_with_the_nearest(capsys, monkeypatch, words, flag, wrong, advice):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as caught:
        main(f"{words} {flag} {wrong}".split())
    assert caught.value.code == 2
    assert f"Error parsing {flag.split()[0]}: there is no choice {wrong!r}; {advice} " in capsys.readouterr().err


def test_a_misspelt_split_is_answered_with_the_nearest(capsys, tiny_run, tiny_data):
    for name, advice in (("tset", "did you mean test?"), ("Train", "did you mean train?"), ("all", "")):
        with pytest.raises(SystemExit):
            main(["evaluate", str(tiny_run), "--data", str(tiny_data), "--split", name])
        assert capsys.readouterr().err == (
            f"xattn: {tiny_data}: holds no split {name}; its splits are: dev, test, train{advice and f'; {advice}'}\n"
        )


def test_the_nearest_is_found_whatever_the_case():
    assert did_you_mean("SCAN-T2I-AVG", ["scan-t2i-avg", "bfan-prob"]) == "did you mean scan-t2i-avg?"
    assert did_you_mean("x", ["one", "two"]) == "there are one, two"
    assert did_you_mean("x", ["one", "two"], otherwise="see --help") == "see --help"
    assert did_you_mean("", []) == "there are "
