"""Grids that really run: trials in processes of their own, gone on with, failed, killed, changed."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from waiting import LONGEST_WAIT
from xattn.comparison import running
from xattn.comparison.comparison import compared
from xattn.comparison.experiment import compare, compared_folder, planned_trials, records_in, seconds_left
from xattn.comparison.grid import Grid, grid_trials
from xattn.comparison.records import at_best_epoch, read_record, write_record
from xattn.comparison.running import hold, main, run_trials
from xattn.comparison.table import as_dict
from xattn.comparison.trial import Task, is_collapsed, read_task, run_trial, write_task
from xattn.data.batches import EncodedCaptions
from xattn.data.identity import data_identity
from xattn.data.reader import read_split
from xattn.evaluation.encode import encode_captions, encode_images
from xattn.evaluation.evaluate import evaluate, evaluate_all
from xattn.evaluation.grounding import grounding_batches
from xattn.evaluation.options import EvaluationOptions
from xattn.metrics.attention_curve import precision_recall_curve, weight_histogram
from xattn.metrics.attention_report import report_of
from xattn.metrics.best_threshold import best_threshold_of
from xattn.metrics.measured_queries import all_queries, measured_queries
from xattn.models.base import evaluating
from xattn.runs.folder import load_run
from xattn.runtime.device import best_device
from xattn.runtime.errors import InputError
from xattn.runtime.lock import LOCK, FolderLock
from xattn.runtime.plain import plain
from xattn.training.train import train

SIZES = ("model.dim=16", "model.word_dim=8", "batch_size=8", "min_count=1", "learning_rate=0.005")
GRID = Grid(constraints=("none", "both"), seeds=(0, 1), sweep=(*SIZES, "epochs=2"))
ONE = dataclasses.replace(GRID, constraints=("none",), seeds=(0,))
JOB_THREADS = max(1, running._all_threads() // 2)
"""Of each of two trials at a time."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_data):
    """A finished grid of four trials that no test changes; what processes of their own give is compared with it."""
    out = tmp_path_factory.mktemp("grid") / "out"
    before = torch.get_num_threads()
    torch.set_num_threads(JOB_THREADS)  # which PyTorch rounds by
    try:
        for task in tasks_of(GRID, tiny_data, out):
            write_task(task)
            run_trial(task)
    finally:
        torch.set_num_threads(before)
    assert ran(GRID, tiny_data, out) == []
    return out


@pytest.fixture
def copy(finished, tmp_path):
    """A copy to go on with."""
    return shutil.copytree(finished, tmp_path / "copy")


def tasks_of(grid, data, out, split="test", iou=0.5):
    identity = data_identity(data, split)
    return [Task(out.absolute(), trial, data, identity, iou) for trial in grid_trials(grid)]


def run_here(grid, data, out, **options):
    """Run the trials in this process, which needs no imports."""
    return [run_trial(task) for task in tasks_of(grid, data, out, **options)]


def without_times(record):
    log = {name: values for name, values in record.log.items() if name != "seconds"}
    return dataclasses.replace(record, seconds={}, about={}, log=log)


def ran(grid, data, out, **options):
    """Run a grid and give the names of the trials that ran."""
    names = []
    compare(
        grid, data, out, on_record=lambda record, done, total: names.append((record.trial, record.state)), **options
    )
    return names


def test_every_trial_leaves_a_run_and_a_record(finished, tiny_data):
    records = records_in(finished)
    assert [record.trial for record in records] == sorted(trial.name for trial in grid_trials(GRID))
    for record in records:
        folder = finished / "runs" / record.trial
        assert load_run(folder).config.as_dict() == record.configuration
        measured = evaluate(folder, tiny_data, "test")
        assert record.retrieval["rsum"] == pytest.approx(measured.retrieval.rsum, abs=1e-5)
        assert list(record.attention["t2i"]["phrases"]) == [
            "mean",
            "max",
            "caption_mean",
            "chance",
            "largest",
            "middle",
        ]
        types = evaluate(folder, tiny_data, "test", EvaluationOptions(by_type=True)).phrases_by_type
        assert set(record.attention["t2i"]["types"]) == set(types) != set()
        for kind, reports in types.items():
            assert record.attention["t2i"]["types"][kind]["mean"]["r1"] == pytest.approx(
                reports["t2i"]["mean"].r1, abs=1e-5
            )
        assert record.attention["t2i"]["uniform"] == pytest.approx(measured.attention["t2i"].as_dict(), abs=1e-5)
        dev = evaluate(folder, tiny_data, "dev")
        assert record.dev["retrieval"]["rsum"] == pytest.approx(dev.retrieval.rsum, abs=1e-5)
        assert record.dev["attention"]["t2i"]["f1"] == pytest.approx(dev.attention["t2i"].f1, abs=1e-5)
        assert record.log["epoch"] == [1, 2]
        assert record.best["epoch"] == 1 + record.log["dev_rsum"].index(max(record.log["dev_rsum"]))
        assert len(record.log["spread"]) == 2
        assert record.collapsed is False
        assert record.log["dev_rsum"][-1] == pytest.approx(dev.retrieval.rsum, abs=0.01)
        assert ("ccr_t2i_active" in record.log) == (record.constraints == "both")
        assert (record.about["threads"], record.about["processes"]) == (JOB_THREADS, 1)
        assert (finished / "records" / f"{record.trial}.json").stat().st_size < 20_000


def test_the_epoch_that_was_best_on_dev_is_measured_with_its_own_weights(finished, tiny_data, tmp_path):
    """The log says that it was the first, and its weights are those of another run."""
    first, other = (record.trial for record in records_in(finished)[:2])
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    folder = out / "runs" / first
    shutil.copy(out / "runs" / other / "weights.safetensors", folder / "best.safetensors")
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    entries[0]["dev"]["rsum"] = 599.0
    (folder / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    record = run_trial(read_task(out / "trials" / first))
    assert record.best["epoch"] == 1
    expected = evaluate(load_run(out / "runs" / other), tiny_data, "test")
    assert record.best["retrieval"]["rsum"] == pytest.approx(expected.retrieval.rsum, abs=1e-5)
    assert record.best["attention"]["t2i"]["uniform"]["f1"] == pytest.approx(expected.attention["t2i"].f1, abs=1e-5)
    assert record.retrieval["rsum"] != record.best["retrieval"]["rsum"]
    best = at_best_epoch(record)
    assert best.retrieval == record.best["retrieval"]
    assert best.attention == record.best["attention"]
    assert best.dev == record.best["dev"]
    assert compared([record], "best").rows[0].summaries["rsum"].mean == record.best["retrieval"]["rsum"]
    assert read_record(out / "records" / f"{first}.json") == record


@pytest.mark.parametrize(
    ("last", "expected"),
    [({"spread": 0.1}, False), ({"spread": 0.0, "collapsed": True}, True), ({}, None), (None, None)],
)
def test_the_last_epoch_says_whether_a_run_has_collapsed(tmp_path, last, expected):
    """And nothing is known of a log from before there was a spread in it."""
    entries = [{"epoch": 1, "spread": 0.0, "collapsed": True}, {"epoch": 2, **last}] if last is not None else []
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    assert is_collapsed(path) is expected


def test_the_threshold_is_the_best_on_dev(finished, tiny_data):
    name = "scan-t2i-avg_none_seed0"
    run, record = load_run(finished / "runs" / name), read_record(finished / "records" / f"{name}.json")
    chosen = record.attention["t2i"]["chosen"]
    test, dev = (attention_of(run, tiny_data, split)["t2i"] for split in ("test", "dev"))
    assert report_of(test, chosen["threshold"]).f1 == pytest.approx(chosen["f1"], abs=1e-5)
    best = report_of(dev, chosen["threshold"]).f1
    assert all(report_of(dev, place / 50).f1 <= best + 1e-9 for place in range(51))


def test_each_split_is_encoded_once(tiny_data, tmp_path, monkeypatch):
    """Retrieval, reports, threshold, curve and histogram come from one pass over the images of each split."""
    (task,) = tasks_of(ONE, tiny_data, tmp_path)
    train(task.trial.configs[0], tiny_data, task.run_folder)
    encoded = []

    def counted(model, split, *rest):
        encoded.append(split.name)
        return encode_images(model, split, *rest)

    monkeypatch.setattr("xattn.evaluation.measure.encode_images", counted)
    run_trial(task)
    assert sorted(encoded) == ["dev", "test"]


def test_a_record_holds_what_measuring_anew_gives(tiny_data, tmp_path):
    """To the last digit, in both directions, from images and captions encoded again."""
    two_directions = dataclasses.replace(ONE, presets=("bfan-equal",))
    (record,) = run_here(two_directions, tiny_data, tmp_path)
    run = load_run(tmp_path / "runs" / record.trial)
    test, dev = (attention_of(run, tiny_data, name) for name in ("test", "dev"))
    again = evaluate(run, tiny_data, "test", EvaluationOptions(by_type=True))
    assert set(record.attention) == set(record.dev["attention"]) == set(test) == {"t2i", "i2t"}
    for direction, queries in test.items():
        tuned = report_of(queries, best_threshold_of(dev[direction]))
        assert record.attention[direction] == plain(
            {
                "uniform": report_of(queries),
                "chosen": tuned,
                "curve": precision_recall_curve(queries),
                "histogram": weight_histogram(queries),
                "phrases": again.phrases[direction] | again.phrases["word_blind"],
                "types": {kind: each[direction] | each["word_blind"] for kind, each in again.phrases_by_type.items()},
            },
            6,
        )
        assert record.attention[direction]["chosen"]["threshold"] == tuned.threshold, "which is used again: not rounded"
        assert record.dev["attention"][direction] == plain(report_of(dev[direction]), 6)


def attention_of(run, data, name):
    split = read_split(data, name)
    captions, measured = EncodedCaptions(split, run.vocabulary), {}
    with evaluating(run.model), torch.no_grad():
        encoded = encode_images(run.model, split), encode_captions(run.model, captions)
        for batch in grounding_batches(run.model, split, captions, *encoded):
            queries = measured_queries(batch.weights, batch.relevant, batch.query_mask, batch.key_mask, iou=0.5)
            measured.setdefault(batch.direction, []).append(queries)
    return {direction: all_queries(parts) for direction, parts in measured.items()}


def test_the_same_seed_twice_gives_the_same_row(finished, tiny_data, tmp_path):
    (again,) = run_here(ONE, tiny_data, tmp_path)
    before = read_record(finished / "records" / f"{again.trial}.json")
    assert without_times(again) == without_times(before)


def test_a_finished_grid_is_not_run_again_even_without_its_runs(copy, finished, tiny_data):
    shutil.rmtree(copy / "runs")
    shutil.rmtree(copy / "trials")
    assert ran(GRID, tiny_data, copy) == []
    assert as_dict(compared_folder(copy)) == as_dict(compared_folder(finished))
    assert not (copy / "runs").exists()


@pytest.mark.slow
def test_a_grid_goes_on_with_what_is_missing(copy, finished, tiny_data):
    """One record is lost, one trial was trained but not measured, and the table is as if nothing had been."""
    (copy / "records" / "scan-t2i-avg_both_seed1.json").unlink()
    shutil.rmtree(copy / "runs" / "scan-t2i-avg_both_seed1")
    (copy / "records" / "scan-t2i-avg_none_seed1.json").unlink()
    trained = (copy / "runs" / "scan-t2i-avg_none_seed1" / "run.json").stat().st_mtime_ns
    expected = {("scan-t2i-avg_none_seed1", "finished"), ("scan-t2i-avg_both_seed1", "finished")}
    assert set(ran(GRID, tiny_data, copy, jobs=2)) == expected
    assert {record.about["threads"] for record in records_in(copy)} == {JOB_THREADS}
    assert (copy / "runs" / "scan-t2i-avg_none_seed1" / "run.json").stat().st_mtime_ns == trained
    assert as_dict(compared_folder(copy)) == as_dict(compared_folder(finished))


def planned(grid, data, out):
    """The state of every trial, and what is noted beside it."""
    found = []
    compare(grid, data, out, on_plan=lambda trials, seconds: found.extend(trials), dry_run=True)
    return {each.trial.name: (each.state, each.note) for each in found}


def test_of_more_seeds_the_new_trials_are_missing(finished, tiny_data):
    more = dataclasses.replace(GRID, constraints=("none",), seeds=(0, 2))
    assert planned(more, tiny_data, finished) == {
        "scan-t2i-avg_none_seed0": ("finished", ""),
        "scan-t2i-avg_none_seed2": ("new", ""),
    }


def test_a_finished_trial_counts_under_any_name(finished, tiny_data):
    """With a second value of the swept field the trial of the first has another name; its configuration counts."""
    wider = dataclasses.replace(ONE, sweep=(*SIZES, "epochs=2,3"))
    expected = {"scan-t2i-avg_none_epochs=2_seed0": ("finished", ""), "scan-t2i-avg_none_epochs=3_seed0": ("new", "")}
    assert planned(wider, tiny_data, finished) == expected


@pytest.mark.slow
def test_a_trial_whose_configuration_changed_runs_again(copy, tiny_data):
    changed = dataclasses.replace(ONE, sweep=(*SIZES, "epochs=3"))
    before = read_record(copy / "records" / "scan-t2i-avg_none_seed0.json")
    assert planned(changed, tiny_data, copy) == {"scan-t2i-avg_none_seed0": ("changed", "epochs 2, now 3")}
    assert read_record(copy / "records" / "scan-t2i-avg_none_seed0.json") == before, "a dry run changes nothing"
    assert ran(changed, tiny_data, copy) == [("scan-t2i-avg_none_seed0", "finished")]
    record = read_record(copy / "records" / "scan-t2i-avg_none_seed0.json")
    assert (record.configuration["epochs"], record.log["epoch"]) == (3, [1, 2, 3])
    assert load_run(copy / "runs" / "scan-t2i-avg_none_seed0").config.epochs == 3
    assert "epochs 3" in " ".join(row.label for row in compared_folder(copy).rows)


def test_what_a_constraint_set_does_not_read_is_no_change(copy, tiny_data):
    """As when a default of CCS changes: trials without it are finished, and their base is still theirs."""
    path = copy / "records" / "scan-t2i-avg_none_seed0.json"
    record = read_record(path)
    record.configuration["ccs"]["weight"] = 0.75
    write_record(record, path.parent)
    assert planned(ONE, tiny_data, copy) == {"scan-t2i-avg_none_seed0": ("finished", "")}


@pytest.mark.slow
def test_a_trial_that_fails_says_why_and_stops_no_other(tiny_data, tmp_path):
    grid = dataclasses.replace(ONE, sweep=(*SIZES[:3], "min_count=100,1", "epochs=1"))
    comparison = compare(grid, tiny_data, tmp_path, jobs=2)
    assert [record.trial for record in comparison.records] == ["scan-t2i-avg_none_min_count=1_seed0"]
    (failed,) = comparison.failed
    assert failed.trial == "scan-t2i-avg_none_min_count=100_seed0"
    assert failed.reason.startswith(f"{tiny_data / 'train_caps.txt'}: the vocabulary knows no word of any caption")
    assert not (tmp_path / "runs" / failed.trial).exists()
    assert planned(grid, tiny_data, tmp_path) == {
        "scan-t2i-avg_none_min_count=100_seed0": ("failed", failed.reason),
        "scan-t2i-avg_none_min_count=1_seed0": ("finished", ""),
    }


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("kill -9 $$", "the process was killed by SIGKILL, perhaps because memory ran out"),
        ("kill -15 $$", "the process was killed by SIGTERM"),
        (
            "echo; echo no such device; echo; exit 3",
            "the process ended with status 3; its last line: no such device",
        ),
        ("exit 0", "the process ended with status 0; its last line: nothing"),
    ],
)
def test_a_process_that_leaves_no_record(tiny_data, tmp_path, script, reason):
    """Whatever launches it may end or be ended."""
    (record,) = run_trials(tasks_of(ONE, tiny_data, tmp_path), launch=f"sh -c '{script}'")
    assert (record.state, record.reason) == ("failed", reason)
    assert read_record(tmp_path / "records" / f"{record.trial}.json") == record


@pytest.mark.slow
def test_a_launcher_stands_before_the_trial(tiny_data, tmp_path):
    task = tasks_of(ONE, tiny_data, tmp_path)[0]
    (record,) = run_trials([task], launch=f"env WORLD_SIZE=1 OMP_NUM_THREADS=1 {sys.executable} -W ignore")
    assert record.state == "finished"
    assert len((task.folder / "output.txt").read_text().splitlines()) == 2, "a line for each epoch"


def test_a_launcher_that_is_not_there(tiny_data, tmp_path):
    with pytest.raises(InputError) as caught:
        run_trials(tasks_of(ONE, tiny_data, tmp_path), launch="xattn-no-such-program --fast")
    assert str(caught.value) == "--launch: xattn-no-such-program cannot be started (No such file or directory)"


@pytest.mark.slow
def test_torchrun_launches_a_trial(tiny_data, tmp_path):
    launch = f"{sys.executable} -m torch.distributed.run --standalone --nproc_per_node 1"
    (record,) = run_trials(tasks_of(ONE, tiny_data, tmp_path), launch=launch)
    assert (record.state, record.reason) == ("finished", "")
    (here,) = run_here(ONE, tiny_data, tmp_path / "here")
    assert without_times(record) == without_times(here)


def test_only_the_first_process_writes_the_record(tiny_data, tmp_path, monkeypatch):
    best_device()  # found once a process, and from now on alone: what is set below starts no other processes
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    (record,) = run_here(ONE, tiny_data, tmp_path)
    assert record.about["processes"] == 2
    assert not (tmp_path / "records").exists()


def test_the_first_reason_stays(tiny_data, tmp_path, capfd):
    """Of several processes the first to fail knows why; the others only that it did."""
    broken = dataclasses.replace(ONE, sweep=(*SIZES[:3], "min_count=100"))
    (task,) = tasks_of(broken, tiny_data, tmp_path)
    write_task(task)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert main([str(task.folder)]) == 1
        record = read_record(tmp_path / "records" / f"{task.trial.name}.json")
        path = tmp_path / "records" / f"{task.trial.name}.json"
        path.write_text(path.read_text().replace(record.reason, "the true reason"))
        assert main([str(task.folder)]) == 1
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "the true reason" in path.read_text()
    assert "Traceback" in capfd.readouterr().err, "for the file of what it printed"


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_of_two_processes_one_is_killed(tiny_data, tmp_path, rank):
    """The other ends with it at once, and the record says in one sentence what happened."""
    (task,) = tasks_of(dataclasses.replace(ONE, sweep=(*SIZES, "epochs=100000")), tiny_data, tmp_path)
    launch = f"{sys.executable} -m torch.distributed.run --nproc_per_node 2 --master_port {free_port()}"
    killed = []

    def kill():
        output = task.folder / "output.txt"
        while not (output.exists() and "epoch" in output.read_text()):
            time.sleep(0.1)
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):  # it has ended meanwhile, or is another user's
                is_trial = str(task.folder) in (path.parent / "cmdline").read_text()
                if is_trial and f"\0RANK={rank}\0" in path.read_text():
                    killed.append(time.monotonic())
                    os.kill(int(path.parent.name), signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    found = run_trials([task], launch=launch)
    thread.join()
    assert [record.state for record in found] == ["failed"]
    told = found[0].reason
    if told.startswith("one of 2 processes has ended"):
        assert f"so process {1 - rank} ends as well: it was killed" in told
    else:  # the launcher stopped it before it noticed
        assert f"process {rank} was the first to end: Signal 9 (SIGKILL)" in told
    assert len(killed) == 1
    assert not is_at_work(tmp_path)


def test_the_launchers_summary_is_read():
    """As `torchrun` of PyTorch 2.13 prints it."""
    summary = f"""
{"=" * 60}
xattn.comparison.running FAILED
{"-" * 60}
Failures:
  <NO_OTHER_FAILURES>
{"-" * 60}
Root Cause (first observed failure):
[0]:
  time      : 2026-01-31_12:00:00
  host      : here
  rank      : 1 (local_rank: 1)
  exitcode  : -9 (pid: 4711)
  error_file: <N/A>
  traceback : Signal 9 (SIGKILL) received by PID 4711
{"=" * 60}
"""
    assert running._told_last(summary) == "process 1 was the first to end: Signal 9 (SIGKILL) received by PID 4711"
    assert running._told_last("a\nb \n\n") == "its last line: b"
    assert running._told_last("") == "its last line: nothing"


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_a_task_is_read_as_it_was_written(tiny_data, tmp_path):
    grid = Grid(("sgraf-sgr", "sgraf-saf"), ("both",), (3,), ensembles=("sgraf-sgr+sgraf-saf",))
    for task in tasks_of(grid, tiny_data, tmp_path, iou=0.4):
        write_task(task)
        assert read_task(task.folder) == dataclasses.replace(task, data=task.data.absolute())
    for text, said in (
        ("{}", "expected name to be text, found null"),
        ("[", "expected the task of a trial, but this is not JSON"),
        ("[" * 100_000, "expected the task of a trial as JSON"),
    ):
        (task.folder / "task.json").write_text(text)
        with pytest.raises(InputError, match=rf"task\.json.*{said}"):
            read_task(task.folder)


def test_an_ensemble_averages_the_runs_of_its_members(tiny_data, tmp_path):
    grid = Grid(
        ("scan-t2i-avg", "scan-i2t-avg"),
        ("ccs",),
        (0,),
        (*SIZES, "epochs=1", "ccs.from_epoch=1"),
        ensembles=("scan-t2i-avg+scan-i2t-avg",),
    )
    *members, ensemble = run_here(grid, tiny_data, tmp_path)
    assert [record.ensemble_of for record in members] == [[], []]
    assert [record.collapsed for record in (*members, ensemble)] == [False] * 3
    assert (ensemble.ensemble_of, ensemble.attention) == (["scan-t2i-avg", "scan-i2t-avg"], None)
    measured = evaluate_all([tmp_path / "runs" / record.trial for record in members], tiny_data, "test")[-1]
    assert ensemble.retrieval["rsum"] == pytest.approx(measured.retrieval.rsum, abs=1e-5)
    comparison = compared_folder(tmp_path)
    assert [len(rows) for rows in (comparison.singles, comparison.ensembles)] == [2, 1]

    assert ran(grid, tiny_data, tmp_path) == []
    folder = tmp_path / "runs" / members[1].trial
    shutil.rmtree(folder)
    with pytest.raises(InputError) as caught:
        run_trial(tasks_of(grid, tiny_data, tmp_path)[-1])
    assert str(caught.value) == (
        f"{folder}: the ensemble needs this run, which is not there; take {members[1].trial}.json out of the records, "
        "so that it "
        "is trained again"
    )


def test_data_without_truth_or_dev_has_retrieval_only(write_data, tmp_path):
    bare = write_data(tmp_path / "bare", images=(12, 0, 6), has_truth=False)
    (record,) = run_here(ONE, bare, tmp_path / "out")
    assert (record.attention, record.dev) == (None, None)
    assert record.retrieval["rsum"] > 0
    no_dev = write_data(tmp_path / "no-dev", images=(12, 0, 6))
    (record,) = run_here(ONE, no_dev, tmp_path / "out2")
    assert "chosen" not in record.attention["t2i"]


def test_trials_can_be_measured_on_dev(tiny_data, tmp_path):
    (record,) = run_here(ONE, tiny_data, tmp_path, split="dev")
    assert record.data["split"] == "dev"
    assert record.retrieval == record.dev["retrieval"]
    measured = evaluate(tmp_path / "runs" / record.trial, tiny_data, "dev")
    assert record.retrieval["rsum"] == pytest.approx(measured.retrieval.rsum, abs=1e-5)


def test_what_time_is_left(finished, tiny_data):
    records = records_in(finished)
    wider = dataclasses.replace(
        GRID, presets=("scan-t2i-avg", "bfan-equal"), seeds=(0, 2), sweep=(*SIZES, "epochs=2,4")
    )
    trials = planned_trials(grid_trials(wider), records, data_identity(tiny_data, "test"), 0.5)
    left = {each.trial.name: seconds for each, seconds in zip(trials, seconds_left(trials, records), strict=True)}
    assert left["scan-t2i-avg_none_epochs=2_seed0"] == 0.0
    assert left["bfan-equal_none_epochs=2_seed0"] is None
    bases = [record for record in records if record.constraints == "none"]
    training, measuring = (sum(record.seconds[name] for record in bases) / 2 for name in ("training", "measuring"))
    assert left["scan-t2i-avg_none_epochs=2_seed2"] == pytest.approx(training + measuring)
    assert left["scan-t2i-avg_none_epochs=4_seed0"] == pytest.approx(2 * training + measuring)


def test_records_of_other_data_are_refused(finished, write_data, tiny_data, tmp_path):
    other = write_data(tmp_path / "other", seed=1)
    for changes, what in (
        ({"data": other}, "test split of other"),
        ({"split": "dev"}, "dev split of data"),
        ({"iou": 0.3}, "and not 0.3"),
    ):
        with pytest.raises(InputError) as caught:
            compare(**{"grid": GRID, "data": tiny_data, "out": finished} | changes)
        assert what in str(caught.value)
        assert str(caught.value).endswith("keep the records of each in a folder of its own")


def test_data_that_changed_meanwhile(write_data, tmp_path):
    data = write_data(tmp_path / "data")
    (task,) = tasks_of(ONE, data, tmp_path / "out")
    captions = data / "train_caps.txt"
    captions.write_text(captions.read_text().replace("dog", "cat"))
    with pytest.raises(InputError) as caught:
        run_trial(task)
    assert (
        str(caught.value)
        == f"{data}: the data was changed while trials were trained on it; start the comparison in another folder"
    )


def test_two_grids_in_one_folder(tiny_data, tmp_path):
    lock = FolderLock(tmp_path / LOCK, "")
    with pytest.raises(InputError) as caught:
        compare(ONE, tiny_data, tmp_path)
    assert str(caught.value) == f"{tmp_path}: another comparison is at work in this folder; wait until it has ended"
    assert not (tmp_path / "records").exists()
    lock.release()


def test_a_trial_of_a_killed_grid_is_given_time_to_end(tiny_data, tmp_path, monkeypatch):
    """And what it still writes is left alone."""
    monkeypatch.setattr(running, "PATIENCE", 0.1)
    (task,) = tasks_of(ONE, tiny_data, tmp_path)
    write_task(task)
    lock = hold(task)
    with pytest.raises(InputError) as caught:
        run_trials([task])
    said = f"{task.folder}: another process is still at work on this trial; wait until it has ended"
    assert str(caught.value) == said
    assert read_task(task.folder).trial == task.trial
    lock.release()
    (record,) = run_trials([task], launch="sh -c 'exit 4'")
    assert record.reason.startswith("the process ended with status 4")


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="the system has no groups of processes")
def test_what_a_killed_launcher_started_ends_with_it(tiny_data, tmp_path):
    begun = time.monotonic()
    (record,) = run_trials(
        tasks_of(ONE, tiny_data, tmp_path), launch=f"sh -c 'sleep 1000 & echo $! > {tmp_path}/pid; kill -9 $$'"
    )
    assert record.reason.startswith("the process was killed by SIGKILL")
    started = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/stat")
    until = time.monotonic() + LONGEST_WAIT
    while started.exists() and started.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < until
        time.sleep(0.02)
    assert time.monotonic() - begun < running.PATIENCE, "nobody waits for a timeout"


def test_what_cannot_be_run(tiny_data, tmp_path):
    for changes, sentence in (
        ({"jobs": 0}, "--jobs must be at least 1, but it is 0"),
        ({"iou": 0.0}, "iou must be above 0 and at most 1, but it is 0.0"),
        ({"split": "val"}, f"{tiny_data}: holds no split val; its splits are: dev, test, train"),
        (
            {"data": tmp_path / "none"},
            f"{tmp_path / 'none'}: expected a precomp folder, but there is no folder of this name",
        ),
    ):
        with pytest.raises(InputError) as caught:
            compare(**{"grid": ONE, "data": tiny_data, "out": tmp_path / "out"} | changes)
        assert str(caught.value) == sentence
        assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_grid_that_is_killed_and_started_again_gives_the_same_tables(finished, tiny_data, tmp_path):
    """SIGKILL after the first record, while others are at work, which end with it."""
    out = tmp_path / "out"
    flags = ["--constraints", "none", "both", "--seeds", "0", "1", "--sweep", *GRID.sweep, "--jobs", "2"]
    command = [sys.executable, "-m", "xattn", "compare", "--data", str(tiny_data), "--out", str(out), *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("[1/4]"):
            assert process.poll() is None
        time.sleep(1)
        process.kill()
    until = time.monotonic() + LONGEST_WAIT
    while is_at_work(out):
        assert time.monotonic() < until, "trials outlive the grid"
        time.sleep(0.1)
    assert 1 <= len(list((out / "records").glob("*.json"))) < 4
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "4 trials" in again.stdout
    assert as_dict(compared_folder(out)) == as_dict(compared_folder(finished))
    assert json.loads((out / "table.json").read_text()) == as_dict(compared_folder(finished))
    assert not [path.name for path in (out / "runs").iterdir() if path.name.startswith(".")], (
        "nothing half-written is left"
    )


def is_at_work(out):
    """Whether the command line of any process names the folder."""
    found = False
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            found |= str(out) in path.read_text()
    return found


@pytest.mark.slow
def test_ctrl_c_stops_the_trials(tiny_data, tmp_path):
    out = tmp_path / "out"
    flags = ["--constraints", "none", "--seeds", "0", "--sweep", *SIZES, "epochs=100000"]
    command = [sys.executable, "-m", "xattn", "compare", "--data", str(tiny_data), "--out", str(out), *flags]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    output = out / "trials" / "scan-t2i-avg_none_seed0" / "output.txt"
    until = time.monotonic() + LONGEST_WAIT
    while not (output.exists() and output.read_text()):
        assert time.monotonic() < until
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=LONGEST_WAIT)
    assert process.returncode == 2
    assert said.startswith("xattn: interrupted")
    assert not is_at_work(out)
    assert not (out / "records").exists(), "an interrupted trial is neither finished nor failed"
