"""The metrics that are `torchmetrics.Metric`s, each with batches to give it, and what two processes do with them."""

import torch
from torch import distributed

from oracles_attention import some_case
from xattn.metrics.attention_metrics import AttentionMetrics
from xattn.metrics.phrase_metrics import PhraseGrounding
from xattn.metrics.retrieval_metrics import RetrievalMetrics
from xattn.runtime.errors import InputError

CAPTION_IMAGE = torch.tensor([3, 0, 1, 2, 0, 4, 5, 4])


def attention_batches():
    """Of several sizes and types, with ties, padding, and where keys are and should be."""
    generator = torch.Generator().manual_seed(5)
    batches = []
    for seed, (q, k), dtype in ((1, (3, 5), torch.float32), (2, (4, 7), torch.float64), (3, (2, 4), torch.bfloat16)):
        weights, relevant, query_mask, key_mask = some_case(seed, 2, q, k, 3, measurable=True)
        corners = 50 * torch.rand(2, k, 2, generator=generator)
        boxes = 50 * torch.rand(2, q, 1, 2, generator=generator)
        batches.append(
            {
                "weights": weights.to(dtype),
                "relevant": relevant,
                "query_mask": query_mask,
                "key_mask": key_mask,
                "key_boxes": torch.cat([corners, corners + 10], -1),
                "boxes": torch.cat([boxes, boxes + 10], -1),
            }
        )
    return batches


def retrieval_batches():
    """Rows out of order, with ties."""
    scores = torch.randint(4, (6, 8), generator=torch.Generator().manual_seed(4)).float()
    return [{"scores": scores[rows], "images": torch.tensor(rows)} for rows in ([3, 0], [5, 2], [1, 4])]


def phrase_batches():
    """With types in letters of several bytes."""
    batches = []
    for seed, types in enumerate((["people", None, "people/other"], ["tiere/ä", "people", None], ["other"] * 3)):
        generator = torch.Generator().manual_seed(seed)
        flags = torch.rand(2, 3, 7, generator=generator) < 0.3
        levels = torch.rand(3, 7, generator=generator)
        batches.append(
            {"levels": levels, "overlaps": flags[0], "inside": flags[1], "types": types, "without_box": seed}
        )
    return batches


METRICS = {
    "attention": (lambda: AttentionMetrics(threshold=0.3, iou=0.5, tolerance=15.0), attention_batches),
    "retrieval": (lambda: RetrievalMetrics(CAPTION_IMAGE), retrieval_batches),
    "phrases": (lambda: PhraseGrounding(iou=0.5), phrase_batches),
}


def plain_figures(computed):
    """What `compute` gave, as numbers; each must be a scalar."""
    assert all(isinstance(value, torch.Tensor) and value.ndim == 0 for value in computed.values())
    return {name: value.item() for name, value in computed.items()}


def in_a_process(all_shares):
    """What this process finds with each of the shares, and what it is told at the end."""
    return [*map(_found, all_shares), scores_without_images()]


def _found(shares):
    """Each metric of the batches whose numbers `shares` gives to this process: what it computes, twice, before and
    after another batch has come to process 0, and what else is said of all.
    """
    rank, found = distributed.get_rank(), {}
    for name, (build, batches) in METRICS.items():
        metric, given = build(), batches()
        for number in shares[rank]:
            metric.update(**given[number])
        if not shares[rank]:
            metric._update_count = 1  # or torchmetrics warns that there was no update, which is what is tested here
        found[name] = [plain_figures(metric.compute())]
        if rank == 0:
            metric.update(**given[-1])
        metric._computed = None
        found[name].append(plain_figures(metric.compute()))
        found[name].append(metric.report())
        if name == "attention":
            found["best threshold"] = metric.best_threshold()
            found["own queries"] = metric.queries
        if name == "phrases":
            found["types"] = metric.by_type()
    return found


def scores_without_images():
    """What a process is told whose scores do not say of which images they are, and again once they do."""
    metric = RetrievalMetrics(torch.tensor([0, 1]))
    metric.update(torch.eye(2)[[distributed.get_rank()]])
    try:
        metric.compute()
    except InputError as error:
        return str(error)
    return "nothing"
