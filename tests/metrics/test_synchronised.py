"""What all metrics that are `torchmetrics.Metric`s have in common, each against itself on all batches at once."""

import copy
import math
import pickle

import matplotlib.pyplot as plt
import pytest
import torch
import torchmetrics

from metric_batches import METRICS, attention_batches, in_a_process, plain_figures
from processes_together import together
from xattn.metrics.attention_metrics import AttentionMetrics


def updated(name):
    build, batches = METRICS[name]
    metric = build()
    for batch in batches():
        metric.update(**batch)
    return metric


def figures_of(report):
    """The numbers of a report by the names that `compute` has for them."""
    flat = {}
    for name, value in report.as_dict().items():
        if name == "pointing_within":
            flat[name] = value["share"]
        elif isinstance(value, dict):
            flat |= {f"{name}_{figure}": number for figure, number in value.items()}
        elif name not in ("threshold", "iou"):
            flat[name] = value
    return flat


@pytest.mark.parametrize("name", METRICS)
def test_compute_gives_the_scalars_of_the_report(name):
    metric = updated(name)
    assert isinstance(metric, torchmetrics.Metric)
    assert plain_figures(metric.compute()) == figures_of(metric.report())


@pytest.mark.parametrize("name", METRICS)
def test_called_it_gives_the_figures_of_the_batch_and_keeps_all(name):
    build, batches = METRICS[name]
    metric = build()
    for batch in batches():
        alone = build()
        of_batch = plain_figures(metric(**batch))
        assert of_batch == plain_figures(alone(**batch))
        if name != "retrieval":  # where the figures of a block are of its own captions alone
            assert of_batch == plain_figures(alone.compute())
    assert plain_figures(metric.compute()) == plain_figures(updated(name).compute())
    metric.reset()
    for batch in batches():
        metric.update(**batch)
    assert plain_figures(metric.compute()) == plain_figures(updated(name).compute())


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize(
    "changed",
    [
        lambda metric: metric.half(),
        lambda metric: metric.set_dtype(torch.float16),
        lambda metric: metric.to(torch.bfloat16),
        lambda metric: metric.to("cpu"),
        lambda metric: torch.nn.ModuleList([metric]).half()[0],
        copy.deepcopy,
        lambda metric: metric.clone(),
        lambda metric: pickle.loads(pickle.dumps(metric)),
    ],
)
def test_types_and_copies_change_no_figure(name, changed):
    expected = plain_figures(updated(name).compute())
    metric = changed(updated(name))
    assert plain_figures(metric.compute()) == expected
    metric.reset()
    for batch in METRICS[name][1]():
        metric.update(**batch)
    assert plain_figures(metric.compute()) == expected


@pytest.mark.parametrize("name", METRICS)
def test_states_go_to_another_device(name):
    metric = updated(name).to("meta")
    for _ in range(2):
        states = [state if isinstance(state, list) else [state] for state in metric.metric_state.values()]
        assert {rows.device.type for state in states for rows in state} == {"meta"}
        metric.reset()


@pytest.mark.parametrize("name", METRICS)
def test_states_are_kept_with_a_checkpoint_if_asked_for(name):
    metric = updated(name)
    assert not metric.state_dict()
    metric.persistent(True)
    other = METRICS[name][0]()
    other.load_state_dict(metric.state_dict())
    other._update_count = 1  # or torchmetrics warns
    assert plain_figures(other.compute()) == plain_figures(metric.compute())


def test_a_collection_gives_a_flat_dict_of_scalars():
    """Of metrics that share their states, and of others, which all get one call with the names of all arguments."""
    build = {name: made for name, (made, _) in METRICS.items()}
    collection = torchmetrics.MetricCollection(
        {**{name: made() for name, made in build.items()}, "uniform": AttentionMetrics(tolerance=4.0, unit="boxes")}
    )
    batches = [batches() for _, batches in METRICS.values()]
    for parts in zip(*batches, strict=True):
        arguments = {name: value for part in parts for name, value in part.items()}
        of_batch = collection(**arguments)
        assert all(value.ndim == 0 for value in of_batch.values())
    computed = plain_figures(collection.compute())
    expected = {
        f"{name}_{figure}": value
        for name in METRICS
        for figure, value in plain_figures(updated(name).compute()).items()
    }
    assert {name: value for name, value in computed.items() if not name.startswith("uniform_")} == expected
    assert computed["uniform_f1"] != computed["attention_f1"]
    assert computed["uniform_pointing_within"] != computed["attention_pointing_within"]
    collection.reset()
    assert collection["attention"].queries == 0


def test_metrics_of_a_collection_share_what_they_keep():
    """Two thresholds of the same queries are measured from one list of weights."""
    collection = torchmetrics.MetricCollection({"low": AttentionMetrics(0.1), "high": AttentionMetrics(0.6)})
    for batch in attention_batches():
        collection.update(**batch)
    assert list(collection.compute_groups.values()) == [["high", "low"]]
    computed = plain_figures(collection.compute())
    for name, threshold in (("low", 0.1), ("high", 0.6)):
        alone = AttentionMetrics(threshold)
        for batch in attention_batches():
            alone.update(**batch)
        expected = {f"{name}_{figure}": value for figure, value in plain_figures(alone.compute()).items()}
        assert {figure: value for figure, value in computed.items() if figure.startswith(name)} == expected


@pytest.mark.parametrize(("name", "top"), [("attention", 1.0), ("retrieval", 100.0), ("phrases", 1.0)])
def test_plots_have_the_figures_of_one_scale(name, top):
    metric = updated(name)
    figure, axes = metric.plot()
    shown = {line.get_label(): float(line.get_ydata()[0]) for line in axes.get_lines()}
    computed = plain_figures(metric.compute())
    assert shown == {figure: computed[figure] for figure in shown}
    assert len(shown) == {"attention": 9, "retrieval": 6, "phrases": 5}[name]
    assert all(0 <= value <= top for value in shown.values())
    assert axes.get_ylim()[1] >= top
    own, over_time = metric.plot([metric.compute(), metric.compute()], ax=axes)
    assert own is None
    assert over_time is axes
    plt.close(figure)


@pytest.mark.parametrize("name", ["attention", "phrases"])
def test_where_there_is_nothing_to_measure_figures_are_nan(name):
    """A batch without truth must not end a training; a report of it would be a false one."""
    metric = METRICS[name][0]()
    batch = METRICS[name][1]()[0]
    if name == "attention":
        batch["relevant"] = torch.zeros_like(batch["relevant"])
    else:
        batch = {each: batch[each][:0] for each in ("levels", "overlaps", "inside")}
    found = plain_figures(metric(**batch))
    counts = {"queries", "skipped", "phrases", "without_box"}
    assert all(math.isnan(value) for figure, value in found.items() if figure not in counts)
    assert found["queries" if name == "attention" else "phrases"] == 0


SHARES = ([[0, 1], [2]], [[0, 1, 2], []], [[], [1, 2, 0]])
"""Which batches each of two processes has: also none, or such as have other types than the other's."""


@pytest.mark.slow
def test_two_processes_compute_what_one_does():
    """And their own stays theirs; where scores do not say of which images they are, both are told."""
    both = together(2, in_a_process, SHARES)
    assert all(isinstance(found, list) for found in both), both
    for place, shares in enumerate(SHARES):
        _check_shares(shares, [found[place] for found in both])
    told = "several processes have scores and did not say of which images: pass images= to each update"
    assert [found[-1] for found in both] == [told, told]


def _check_shares(shares, both):
    for name, (build, batches) in METRICS.items():
        metric, given = build(), batches()
        for number in [number for share in shares for number in share]:
            metric.update(**given[number])
        first = plain_figures(metric.compute())
        again = build()
        for number in [*shares[0], len(given) - 1, *shares[1]]:
            again.update(**given[number])
        for found in both:
            assert found[name][0] == pytest.approx(first, abs=1e-12), shares
            assert found[name][1] == pytest.approx(plain_figures(again.compute()), abs=1e-12), shares
            assert figures_of(found[name][2]) == pytest.approx(figures_of(again.report()), abs=1e-12), shares
            if name == "attention":
                assert found["best threshold"] == again.best_threshold(), shares
            if name == "phrases":
                assert found["types"] == again.by_type(), shares
    sizes = [[len(updated_with(number)) for number in share] for share in ([*shares[0], 2], shares[1])]
    assert [found["own queries"] for found in both] == [sum(size) for size in sizes], shares


def updated_with(number):
    metric = AttentionMetrics()
    metric.update(**attention_batches()[number])
    return metric.measured()
