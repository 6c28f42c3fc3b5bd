"""BFAN from its equations in loops over floats: one image with one caption, nothing of xattn's; see `oracles`."""

import math

from oracles import relevance, scan_weights


def judgements(row, focus):
    """`F_j` of every key of one row of softmax weights, key against key."""
    judged = [1.0 if focus == "equal" else math.sqrt(w) for w in row]
    keys = range(len(row))
    return [math.fsum((row[j] - row[i]) * judged[i] for i in keys if i != j) for j in keys]


def focused(row, focus):
    """The row with the attention of its positive keys alone, or as it is where none is positive beyond the rounding of
    doubles."""
    kept = [w if judgement > 1e-13 else 0.0 for w, judgement in zip(row, judgements(row, focus), strict=True)]
    return [w / math.fsum(kept) for w in kept] if any(kept) else row


def jumps(row, focus, within=1e-4):
    """Whether a key is dropped that `within` of its limit would have kept; the limit is where `F_j` is 0."""
    judged = [1.0 if focus == "equal" else math.sqrt(w) for w in row]
    unit = math.fsum(w * g for w, g in zip(row, judged, strict=True))
    dropped = [judgement for judgement, w in zip(judgements(row, focus), focused(row, focus), strict=True) if w == 0]
    return any(judgement > -within * unit for judgement in dropped)


def focal_weights(queries, keys, lambda_softmax, focus):
    return [focused(row, focus) for row in scan_weights(queries, keys, lambda_softmax)]


def is_near_a_jump(regions, words, lambda_softmax, focus):
    """Whether rounding could decide which keys some query of the pair keeps."""
    rows = scan_weights(words, regions, lambda_softmax) + scan_weights(regions, words, lambda_softmax)
    return any(jumps(row, focus) for row in rows)


def score(regions, words, lambda_softmax, focus):
    """The mean relevance of the words plus that of the regions."""
    total = 0.0
    for queries, keys in ((words, regions), (regions, words)):
        weights = focal_weights(queries, keys, lambda_softmax, focus)
        total += math.fsum(relevance(query, row, keys) for query, row in zip(queries, weights, strict=True)) / len(
            queries
        )
    return total
