"""The commands as a person types them."""

import ast
import dataclasses
import inspect
import json
import os
import re
import signal
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import xattn.__main__
from waiting import LONGEST_WAIT
from xattn.cli import main as cli
from xattn.cli.index import COMMANDS as INDEX_COMMANDS
from xattn.cli.main import main
from xattn.data.prepare.features.mixing import Mix
from xattn.data.prepare.packed.columns import Columns
from xattn.models import config as model_configs
from xattn.runs import config as configuration
from xattn.runs.presets import DESCRIPTIONS, preset
from xattn.training import loop

SMALL = ["--model.dim", "16", "--model.word-dim", "8", "--batch-size", "8", "--min-count", "1"]

pytestmark = pytest.mark.usefixtures("sigterm_restored")


@pytest.fixture
def run(capsys):
    """Run a command that succeeds and give what it prints."""

    def printed(*arguments):
        main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert captured.err == ""
        return captured.out

    return printed


@pytest.fixture
def refused(capsys):
    """Run a command that fails and give what it says on stderr, boxes and line ends taken out."""

    def said(*arguments):
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert caught.value.code == 2
        assert captured.out == ""
        assert "Traceback" not in captured.err
        return unboxed(captured.err)

    return said


@pytest.fixture
def helped(capsys, monkeypatch):
    """What `--help` prints, boxes and line ends taken out."""

    def printed(*arguments):
        with pytest.raises(SystemExit) as caught:
            main([*arguments, "--help"])
        assert caught.value.code == 0
        return unboxed(capsys.readouterr().out)

    monkeypatch.setenv("COLUMNS", "120")
    return printed


def unboxed(text):
    return " ".join(re.sub(r"\x1b\[[0-9;]*m|[│╭╮╰╯─]", " ", text).split())


@pytest.fixture
def configured_by(monkeypatch, tmp_path):
    """The configuration that the flags of `train` make."""
    found = []
    monkeypatch.setattr("xattn.training.train.train", lambda config, data, out, *_, **__: found.append(config) or out)

    def configured_by(*flags):
        main(["train", *flags, "--data", str(tmp_path), "--out", str(tmp_path / "run")])
        return found.pop()

    return configured_by


def test_the_version():
    """As a stranger asks for it, in a process of its own."""
    asked = subprocess.run(
        [sys.executable, "-m", "xattn", "--version"], capture_output=True, text=True, timeout=LONGEST_WAIT, check=False
    )
    assert (asked.returncode, asked.stdout, asked.stderr) == (0, f"xattn {xattn.__version__}\n", "")


@pytest.mark.slow
def test_a_mistake_in_a_process_of_its_own(tmp_path):
    command = [sys.executable, "-m", "xattn", "evaluate", "run", "--data", "data"]
    asked = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_WAIT, check=False, cwd=tmp_path)
    assert (asked.returncode, asked.stdout, asked.stderr) == (2, "", "xattn: run: there is no such run folder\n")


def test_the_command_is_installed():
    (command,) = (entry for entry in entry_points(group="console_scripts") if entry.name == "xattn")
    assert command.load() is main


def test_help_lists_the_commands(helped):
    text = helped()
    for name in cli.COMMANDS:
        assert f"• {name} " in text
        assert " ".join((inspect.getdoc(cli.command(name)) or "?").split()) in text


@pytest.mark.parametrize("name", INDEX_COMMANDS)
def test_help_of_a_command_of_an_index_explains_every_flag(helped, name):
    text, command = helped("index", name), INDEX_COMMANDS[name]
    explanations = documented_fields(sys.modules[command.__module__])[command.__name__]
    assert set(explanations) == {field.name for field in dataclasses.fields(command)}
    for field, explanation in explanations.items():
        assert explanation in text, field


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_of_a_command_explains_every_flag(helped, name):
    text, command = helped(name), cli.command(name)
    assert " ".join((inspect.getdoc(command) or "?").split()) in text
    explanations = documented_fields(sys.modules[command.__module__])[command.__name__]
    assert set(explanations) == {field.name for field in dataclasses.fields(command)} - {
        "config",
        "model",
        "source",
        "command",
    }
    for field, explanation in explanations.items():
        assert explanation in text, field


def documented_fields(module):
    """By class, the text under each of its fields."""
    found = {}
    for node in ast.parse(Path(module.__file__).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            fields = {}
            for statement, following in zip(node.body, node.body[1:], strict=False):
                if (
                    isinstance(statement, ast.AnnAssign)
                    and isinstance(following, ast.Expr)
                    and isinstance(following.value, ast.Constant)
                ):
                    assert isinstance(statement.target, ast.Name)
                    fields[statement.target.id] = " ".join(str(following.value.value).split())
            found[node.name] = fields
    return found


@pytest.mark.parametrize(
    ("name", "kind", "fields"),
    [
        ("scan-t2i-avg", "SCANConfig", 50),
        ("pfan-t2i", "PFANConfig", 49),
        ("bfan-prob", "BFANConfig", 48),
        ("sgraf-sgr", "SGRAFConfig", 52),
    ],
)
def test_help_of_train_explains_every_field_of_the_configuration(helped, name, kind, fields):
    text = helped("train", name)
    explained = documented_fields(configuration) | documented_fields(model_configs)
    parts = {"": "RunConfig", "model.": kind, "matching.": "MatchingConfig", "ccr.": "CCRConfig", "ccs.": "CCSConfig"}
    parts["words."] = "WordsConfig"
    flags = []
    for prefix, part in parts.items():
        for field in dataclasses.fields(getattr(configuration, part, None) or getattr(model_configs, part)):
            if dataclasses.is_dataclass(field.default_factory) or field.name == "preset":  # which stands first
                continue
            flag = f"--{prefix}{field.name.replace('_', '-')}"
            flags.append(flag)
            assert f"{flag} " in text or f"{flag}, --{prefix}no-" in text
            assert explained[part][field.name] in text, flag
    assert len(flags) == fields


def test_help_of_train_has_the_defaults_of_the_preset(helped):
    assert "9 for t2i, 4 for i2t. (default: 9.0)" in helped("train", "scan-t2i-avg")
    assert "9 for t2i, 4 for i2t. (default: 4.0)" in helped("train", "scan-i2t-avg")


def test_the_presets_are_listed(run):
    lines, departures = (part.splitlines() for part in run("presets").split("\n\n"))
    assert [line.split("  ", maxsplit=1)[0].strip() for line in lines] == list(DESCRIPTIONS)
    assert all(line.endswith(description) for line, description in zip(lines, DESCRIPTIONS.values(), strict=True))
    assert any("siblings" in line for line in departures)
    for flag in re.findall(r"(--\S+ \S+)", " ".join(departures)):
        cli.parse(
            ["train", "scan-t2i-avg", "--data", "d", "--out", "o", *flag.rstrip(",;").split()]
        )  # the flags that bring it back exist


@pytest.mark.parametrize("name", DESCRIPTIONS)
@pytest.mark.parametrize("settings", ["small", "f30k", "coco"])
def test_a_preset_decides_the_defaults(configured_by, name, settings):
    assert configured_by(name if settings == "small" else f"{name}-{settings}") == preset(name, settings)


def test_flags_decide_over_the_preset(configured_by):
    flags = [
        "--epochs",
        "3",
        "--ccr.margin",
        "0.4",
        "--ccs.swap",
        "sentence",
        "--constraints",
        "both",
        "--model.lambda-softmax",
        "5",
    ]
    base = preset("scan-i2t-lse", "f30k")
    expected = dataclasses.replace(
        base,
        epochs=3,
        constraints="both",
        ccr=dataclasses.replace(base.ccr, margin=0.4),
        ccs=dataclasses.replace(base.ccs, swap="sentence"),
        model=dataclasses.replace(base.model, lambda_softmax=5.0),
    )
    assert configured_by("scan-i2t-lse-f30k", *flags) == expected


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("trian --data d", "there is no command 'trian'; did you mean train?"),
        ("bogus", f"there is no command 'bogus'; there are {', '.join(cli.COMMANDS)}"),
        (
            "train bfan-equl --data d --out o",
            "there is no preset 'bfan-equl'; did you mean bfan-equal or bfan-equal-f30k or bfan-equal-coco?",
        ),
        ("prepare phtos --out o", "there is no source 'phtos'; did you mean photos?"),
        ("index ad i photos", "there is no command of xattn index 'ad'; did you mean add?"),
        (
            "train --data d --out o",
            "train needs a preset, such as `xattn train scan-t2i-avg`; `xattn presets` lists them",
        ),
    ],
)
def test_a_misspelt_word_is_answered_with_the_nearest(refused, arguments, sentence):
    assert refused(*arguments.split()) == f"xattn: {sentence}"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            "train scan-t2i-avg --data d --out o --ccr.margin 3",
            "ccr.margin is a difference of cosines and must lie in [0, 2], but it is 3.0",
        ),
        (
            "train scan-t2i-avg --data d --out o --model.lambda-softmax 99",
            "model.lambda_softmax must be above 0 and at most 35, but it is 99.0",
        ),
        ("train scan-t2i-avg --data d --out o --epochs 0", "epochs must be at least 1, but it is 0"),
        (
            "train scan-t2i-avg --data d --out o --epochs many",
            "Error parsing --epochs: invalid literal for int() with base 10: 'many'",
        ),
        (
            "train scan-t2i-avg --data d --out o --ccs.swap soft",
            "Error parsing --ccs.swap: there is no choice 'soft'; there are hard, random, sentence, batch, substitute",
        ),
        ("train scan-t2i-avg --data d --out o --epochz 3", "Unrecognized options: --epochz"),
        ("train scan-t2i-avg --data d --out o --epochz 3", "Perhaps you meant: --epochs INT"),
        ("train scan-t2i-avg --data d", "--out PATH"),
        (
            "",
            "Expected one of {scenes, prepare, regions, train, runs, evaluate, attend, explore, compare, import, "
            "score, search, index, serve, demo, presets}",
        ),
        ("--verbose", "Unrecognized options: --verbose"),
        ("evaluate --data d", "evaluate needs a run folder"),
        ("attend r --data d --out a.png --words some", "there is no choice 'some'"),
        ("scenes --out o --images few", "invalid literal for int() with base 10: 'few'"),
    ],
)
def test_wrong_flags(refused, tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    assert sentence in refused(*arguments.split())
    assert list(tmp_path.iterdir()) == []


def test_from_training_to_a_table_and_a_picture(run, tiny_data, tmp_path):
    """The same numbers on the screen and in the file, and all that `train` is told in the configuration."""
    folder, numbers, picture = tmp_path / "run", tmp_path / "numbers.json", tmp_path / "a.png"
    out = run(
        "train",
        "scan-t2i-avg",
        "--data",
        tiny_data,
        "--out",
        folder,
        "--constraints",
        "ccr",
        "--epochs",
        "2",
        "--seed",
        "5",
        *SMALL,
    )
    *epochs, last = out.splitlines()
    assert (
        last
        == f"{folder}: the run is complete; measure it with `xattn evaluate {folder} --data {tiny_data} --split test`"
    )
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    for line, entry, terms in zip(epochs, log, ["loss match", "loss match ccr_t2i"], strict=True):
        dev = entry["dev"]
        shown = "".join(f"  {name} {entry[name]:.3f}" for name in terms.split())
        assert line == (
            f"epoch  {entry['epoch']}/2{shown}  dev R@1 {dev['image_to_text']['r1']:.1f} i2t "
            f"{dev['text_to_image']['r1']:.1f} t2i"
            f"  rsum {dev['rsum']:.1f}  {entry['seconds']:.1f} s"
        )
    config = json.loads((folder / "config.json").read_text())
    assert (config["seed"], config["constraints"], config["model"]["dim"]) == (5, "ccr", 16)

    table = run("evaluate", folder, "--data", tiny_data, "--json", numbers)
    found = json.loads(numbers.read_text())
    for side in ("image_to_text", "text_to_image"):
        recalls = "  ".join(f"{found[side][name]:5.1f}" for name in ("r1", "r5", "r10"))
        assert recalls in table
    assert f"{found['rsum']:.1f}" in table
    for name in ("precision", "recall", "f1", "average_precision", "pointing"):
        assert f"{found['attention']['t2i'][name]:.3f}" in table
    assert "6 images, 13 captions" in " ".join(table.split())  # a long path wraps the line

    assert run("attend", folder, "--data", tiny_data, "--out", picture, "--caption", "2") == f"{picture}\n"
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_options_of_evaluate_are_passed_on(run, tiny_run, tiny_data, tmp_path):
    numbers = tmp_path / "numbers.json"
    run("evaluate", tiny_run, "--data", tiny_data, "--split", "dev", "--iou", "0.25", "--json", numbers)
    found = json.loads(numbers.read_text())
    assert found["evaluated"]["split"] == "dev"
    assert found["attention"]["t2i"]["iou"] == 0.25


def test_the_best_weights_are_evaluated_where_asked_for(run, tiny_run, tiny_data, tmp_path):
    numbers = tmp_path / "numbers.json"
    run("evaluate", tiny_run, "--data", tiny_data, "--split", "dev", "--weights", "best", "--json", numbers)
    found = json.loads(numbers.read_text())
    log = [json.loads(line) for line in (tiny_run / "log.jsonl").read_text().splitlines()]
    assert found["rsum"] == pytest.approx(max(entry["dev"]["rsum"] for entry in log))
    assert found["evaluated"]["name"].endswith("(best on dev)")


def test_an_ensemble_has_a_row_and_names_of_its_own(run, tiny_run, tiny_i2t_run, tiny_data, tmp_path):
    numbers = tmp_path / "numbers.json"
    table = run("evaluate", tiny_run, tiny_i2t_run, "--data", tiny_data, "--json", numbers)
    found = json.loads(numbers.read_text())
    assert [each["evaluated"]["run"] for each in found["runs"]] == [str(tiny_run), str(tiny_i2t_run)]
    assert found["ensemble"]["evaluated"]["ensemble_of"] == 2
    assert "ensemble of 2" in table
    assert "attention" not in found["ensemble"]


def test_options_of_scenes_regions_and_demo_are_passed_on(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr("xattn.data.prepare.scenes.scenes.write_scenes", lambda *a, **k: calls.append((a, k)))
    monkeypatch.setattr("xattn.data.prepare.photos.write_regions", lambda *a, **k: calls.append((a, k)))
    main(["scenes", "--out", "s", "--images", "30", "--seed", "2"])
    main(["regions", "--images", "i", "--captions", "c.csv", "--out", "o", "--boxes", "b.jsonl", "--n-boxes", "12"])
    mix = ["--n-detections", "20", "--n-windows", "16", "--nms", "0.5"]
    main(["regions", "--images", "i", "--captions", "c.csv", "--out", "o", "--skip-bad", *mix])
    by_default = {"detector": None, "backbone": None, "regions": "windows", "columns": Columns()}
    by_default |= {"append": (), "label_reader": None, "shard": None, "join": False, "ray": None}
    assert calls == [
        ((Path("s"),), {"n_images": 30, "seed": 2}),
        (
            ((Path("i"),), Path("c.csv"), Path("o")),
            {"boxes": Path("b.jsonl"), "n_boxes": 12, "skip_bad": False, "mix": Mix()} | by_default,
        ),
        (
            ((Path("i"),), Path("c.csv"), Path("o")),
            {"boxes": None, "n_boxes": 36, "skip_bad": True, "mix": Mix(20, 16, 0.5)} | by_default,
        ),
    ]


def test_a_message_is_printed_as_it_is(refused):
    """On one line, whatever a terminal's mark-up would make of it."""
    name = "[bold]a:car:b[/bold] " + "long " * 60 + "end"
    assert refused("evaluate", name, "--data", "d") == f"xattn: {name}: there is no such run folder"


def test_what_a_file_system_refuses_is_a_sentence(refused, tiny_run):
    long = "a" * 300
    assert refused("evaluate", tiny_run, "--data", long) in (
        f"xattn: {long}: File name too long",
        f"xattn: {long}: expected a precomp folder, but there is no folder of this name",
    )


def test_a_file_of_numbers_that_cannot_be_written(capsys, tiny_run, tiny_data, tmp_path):
    """The table has been printed then."""
    for path, reason in (
        (tmp_path / "none" / "a.json", f"cannot be written, because the folder {tmp_path / 'none'} does not exist"),
        (tmp_path, "could not be written (Is a directory)"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(["evaluate", str(tiny_run), "--data", str(tiny_data), "--json", str(path)])
        assert caught.value.code == 2
        captured = capsys.readouterr()
        assert "rsum" in captured.out
        assert captured.err == f"xattn: {path}: {reason}\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_of_training(run, refused, capsys, tiny_data, tmp_path, monkeypatch, number):
    """The run is saved, and the same command goes on; here the signal comes while the first epoch is measured."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it
    folder, measured = tmp_path / "deep" / "run", loop.measure
    command = ["train", "scan-t2i-avg", "--data", tiny_data, "--out", folder, "--epochs", "2", *SMALL]

    def interrupted(*arguments, **options):
        os.kill(os.getpid(), number)
        return measured(*arguments, **options)

    monkeypatch.setattr(loop, "measure", interrupted)
    try:
        said = refused(*command)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "as it was before"
    finally:
        signal.signal(signal.SIGINT, before)
    assert (
        said
        == f"xattn: interrupted; {folder} is saved in epoch 1 after 3 steps of it, and the same command goes on from "
        "there"
    )
    monkeypatch.setattr(loop, "measure", measured)
    assert refused("evaluate", folder, "--data", tiny_data) == (
        f"xattn: {folder}: holds an unfinished run, in epoch 1 of 2; the `xattn train` command that began it goes on "
        "with it"
    )
    main([str(word) for word in command])
    out, err = capsys.readouterr()
    assert err == f"xattn: {folder}: going on in epoch 1, of which 3 steps are done\n"
    assert out.startswith("epoch  1/2 ")
    run("train", "scan-t2i-avg", "--data", tiny_data, "--out", tmp_path / "undisturbed", "--epochs", "2", *SMALL)
    assert (folder / "weights.safetensors").read_bytes() == (
        tmp_path / "undisturbed" / "weights.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_of_a_command_that_cannot_go_on(capsys, tmp_path, monkeypatch, number):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupted(*_, **__):
        assert [path.name for path in (tmp_path / "deep").iterdir()], "something has been begun"
        os.kill(os.getpid(), number)
        pytest.fail("the signal was not heard")

    monkeypatch.setattr("xattn.cli.demonstration.train", interrupted)
    monkeypatch.setattr("xattn.cli.demonstration.write_scenes", lambda data, **_: data.mkdir())
    try:
        with pytest.raises(SystemExit) as caught:
            main(["demo", "--out", str(tmp_path / "deep" / "demo")])
    finally:
        signal.signal(signal.SIGINT, before)
    assert caught.value.code == 2
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == (
        "xattn: interrupted; no unfinished file is left behind, and what was saved before is kept\n"
    )


def test_ctrl_c_while_pytorch_is_imported():
    """Told by a module in its place, so that the signal comes neither before nor after."""
    code = (
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch':\n"
        "            signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "from xattn.cli.main import main\n"
        "main(['scenes', '--out', 'never'])\n"
    )
    asked = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=LONGEST_WAIT, check=False
    )
    assert (asked.returncode, asked.stdout, asked.stderr) == (2, "", "xattn: interrupted; nothing had been started\n")


def test_an_environment_that_cannot_be_followed_is_refused_before_any_work(refused, tmp_path, monkeypatch):
    monkeypatch.setenv("XATTN_FUSED", "7")
    sentence = refused("evaluate", tmp_path / "absent", "--data", tmp_path)
    assert "the environment variable XATTN_FUSED must be 0 or 1, but it is '7'" in sentence
