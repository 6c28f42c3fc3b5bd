"""Slow forms of the package's numbers, straight from the equations: Python loops over floats, and nothing of xattn's.

Fragments are lists of lists of floats, without padding: `lists` turns a tensor into them.
"""

import math


def lists(tensor, mask=None):
    """The valid rows of a matrix as lists of floats."""
    rows = tensor.detach().double().tolist()
    return rows if mask is None else [row for row, valid in zip(rows, mask.tolist(), strict=True) if valid]


def dot(x, y):
    return math.fsum(a * b for a, b in zip(x, y, strict=True))


def cosine(x, y):
    """0 where either is the zero vector."""
    norms = math.sqrt(dot(x, x)) * math.sqrt(dot(y, y))
    return dot(x, y) / norms if norms > 0 else 0.0


def content(row, keys):
    """`a_i = sum_j w_ij k_j` for one row of weights."""
    return [math.fsum(w * key[d] for w, key in zip(row, keys, strict=True)) for d in range(len(keys[0]))]


def relevance(query, row, keys):
    """`R(q_i, a_i)`, the content built."""
    return cosine(query, content(row, keys))


def scan_weights(queries, keys, lambda_softmax):
    """SCAN's attention of one pair: leaky ReLU 0.1, L2 over the queries, softmax over the keys."""
    rectified = [[max(s, 0.1 * s) for s in (dot(query, key) for key in keys)] for query in queries]
    norms = [math.sqrt(math.fsum(row[j] ** 2 for row in rectified)) + 1e-8 for j in range(len(keys))]
    weights = []
    for row in rectified:
        logits = [lambda_softmax * s / norm for s, norm in zip(row, norms, strict=True)]
        exponentials = [math.exp(logit - max(logits)) for logit in logits]
        weights.append([e / math.fsum(exponentials) for e in exponentials])
    return weights


def max_sim_weights(queries, keys):
    """MaxSim's attention of one pair: all on the best key, of several equally good ones on each as much."""
    rows = [[dot(query, key) for key in keys] for query in queries]
    return [[(value == max(row)) / row.count(max(row)) for value in row] for row in rows]


def with_prior(rows, prior):
    """Rows of weights, each multiplied by the prior of its keys and divided by its sum again."""
    products = [[w * p for w, p in zip(row, prior, strict=True)] for row in rows]
    return [[w / math.fsum(row) for w in row] for row in products]


def aggregate(relevances, aggregation, lambda_lse):
    if aggregation == "sum":
        return math.fsum(relevances)
    if aggregation == "mean":
        return math.fsum(relevances) / len(relevances)
    if aggregation == "max":
        return max(relevances)
    return math.log(math.fsum(math.exp(lambda_lse * r) for r in relevances)) / lambda_lse


def scan_score(regions, words, direction, aggregation, lambda_softmax, lambda_lse):
    """SCAN's score of one image with one caption."""
    queries, keys = (words, regions) if direction == "t2i" else (regions, words)
    weights = scan_weights(queries, keys, lambda_softmax)
    relevances = [relevance(query, row, keys) for query, row in zip(queries, weights, strict=True)]
    return aggregate(relevances, aggregation, lambda_lse)


def ccr_hinges(queries, keys, weights, margin, against="all"):
    """`l_i` of each query of one pair; `None` where it does not count."""
    n = len(keys)
    if n < 2:
        return [None] * len(queries)
    hinges = []
    for query, row in zip(queries, weights, strict=True):
        ignored = [(1 - w) / (n - 1) for w in row]
        if against == "least":
            least = sorted(range(n), key=lambda j: (row[j], j))[: n // 2]
            total = math.fsum(1 - row[j] for j in least)
            ignored = [(1 - row[j]) / total if j in least else 0.0 for j in range(n)]
        hinges.append(max(0.0, margin - relevance(query, row, keys) + relevance(query, ignored, keys)))
    return hinges


def ccs_hinges(queries, keys, weights, swapped, allowed, margin):
    """`l_i` of each query of one pair; `allowed[i][s]` says whether query `i` may be swapped for `swapped[s]`."""
    hinges = []
    for query, row, may in zip(queries, weights, allowed, strict=True):
        others = [other for other, yes in zip(swapped, may, strict=True) if yes]
        if not others or not keys:
            hinges.append(None)
            continue
        hardest = max(relevance(other, row, keys) for other in others)
        hinges.append(max(0.0, margin - relevance(query, row, keys) + hardest))
    return hinges


def smooth_ccs(queries, keys, weights, swapped, allowed, margin, temperature):
    """`T log(1 + sum_s exp((margin - R_i + R_s) / T))` of each query of one pair; `None` where it has no swap."""
    values = []
    for query, row, may in zip(queries, weights, allowed, strict=True):
        others = [other for other, yes in zip(swapped, may, strict=True) if yes]
        if not others or not keys:
            values.append(None)
            continue
        own = relevance(query, row, keys)
        values.append(soft_maximum([margin - own + relevance(other, row, keys) for other in others], temperature))
    return values


def reduced(pairs, reduction, importance=None):
    """Sum or mean over pairs of the weighted mean of each pair's counted queries; `pairs` holds each pair's `l_i`."""
    means = []
    for p, hinges in enumerate(pairs):
        counts = [1.0] * len(hinges) if importance is None else importance[p]
        counted = [
            (count, hinge) for count, hinge in zip(counts, hinges, strict=True) if hinge is not None and count > 0
        ]
        if counted:
            means.append(math.fsum(c * h for c, h in counted) / math.fsum(c for c, _ in counted))
    if reduction == "sum":
        return math.fsum(means)
    return math.fsum(means) / len(means) if means else 0.0


def hinge_ranking_loss(scores, image_ids, margin, kind, count_siblings):
    """The sum over pairs of the hinges against negative captions (rows) and negative images (columns)."""
    total = 0.0
    pairs = range(len(scores))
    for p in pairs:
        others = [o for o in pairs if o != p and (count_siblings or image_ids[o] != image_ids[p])]
        if not others:
            continue
        captions = [max(0.0, margin - scores[p][p] + scores[p][o]) for o in others]
        images = [max(0.0, margin - scores[p][p] + scores[o][p]) for o in others]
        if kind == "hardest":
            total += max(captions) + max(images)
        else:
            total += math.fsum(captions) / len(others) + math.fsum(images) / len(others)
    return total


def soft_ranking_loss(scores, image_ids, margin, temperature, count_siblings):
    """The sum over pairs of `T log(1 + sum exp(x / T))` over negative captions (rows) and negative images (columns)."""
    total = 0.0
    pairs = range(len(scores))
    for p in pairs:
        others = [o for o in pairs if o != p and (count_siblings or image_ids[o] != image_ids[p])]
        captions = [margin - scores[p][p] + scores[p][o] for o in others]
        images = [margin - scores[p][p] + scores[o][p] for o in others]
        total += soft_maximum(captions, temperature) + soft_maximum(images, temperature)
    return total


def temperature_gradient(scores, image_ids, temperature, count_siblings):
    """Of InfoNCE on the logarithm of `1 / T`: the sum over pairs and directions of `sum_j p_j (S_pj - S_pp)`, where `p`
    is the softmax of a pair and its negatives."""
    total = 0.0
    pairs = range(len(scores))
    for p in pairs:
        others = [o for o in pairs if o != p and (count_siblings or image_ids[o] != image_ids[p])]
        for row in ([scores[p][o] for o in others], [scores[o][p] for o in others]):
            exponentials = [math.exp((score - scores[p][p]) / temperature) for score in row]
            whole = 1 + math.fsum(exponentials)
            total += math.fsum(e / whole * (score - scores[p][p]) for e, score in zip(exponentials, row, strict=True))
    return total


def soft_maximum(values, temperature):
    """`T log(1 + sum exp(x / T))`, without overflow."""
    exponents = [0.0] + [value / temperature for value in values]
    most = max(exponents)
    return temperature * (most + math.log(math.fsum(math.exp(exponent - most) for exponent in exponents)))


def score_spread(scores, image_ids, count_siblings):
    """Of each pair, how far it scores above its negatives, the mean of both directions; 0 without negatives."""
    spread = []
    pairs = range(len(scores))
    for p in pairs:
        others = [o for o in pairs if o != p and (count_siblings or image_ids[o] != image_ids[p])]
        captions, images = [scores[p][o] for o in others], [scores[o][p] for o in others]
        own = scores[p][p]
        spread.append(own - math.fsum(captions + images) / (2 * len(others)) if others else 0.0)
    return spread
