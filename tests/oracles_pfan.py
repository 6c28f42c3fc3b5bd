"""Slow forms of PFAN's numbers: Python loops over floats, and nothing of xattn's; see `oracles`."""

import math

import oracles

GRID = 2**22  # coordinates are whole numbers of this part of the image's side
BLOCK = GRID // 16


def area(box, block):
    """The area that a box shares with a block, in units of the block's, straight from the unrounded coordinates."""
    row, column = divmod(block, 16)
    x1, y1, x2, y2 = (16 * min(max(value, 0.0), 1.0) for value in box)
    across, down = min(x2, column + 1) - max(x1, column), min(y2, row + 1) - max(y1, row)
    return across * down if across > 0 and down > 0 else 0.0


def blocks(box):
    """The 15 ids and overlaps of a box."""
    x1, y1, x2, y2 = (round(min(max(value, 0.0), 1.0) * GRID) for value in box)
    x, y = (
        math.floor((low + high) / 2 / (BLOCK / 16) + 0.5) for low, high in ((x1, x2), (y1, y2))
    )  # sixteenths of a block
    found = []
    for row in range(16):
        for column in range(16):
            across = min(x2, (column + 1) * BLOCK) - max(x1, column * BLOCK)
            down = min(y2, (row + 1) * BLOCK) - max(y1, row * BLOCK)
            if across > 0 and down > 0:
                distance = (16 * column + 8 - x) ** 2 + (16 * row + 8 - y) ** 2
                found.append((-across * down, distance, 16 * row + column))
    found = sorted(found)[:15]
    total = sum(overlap for overlap, _, _ in found)
    missing = 15 - len(found)
    return [block for _, _, block in found] + [256] * missing, [overlap / total for overlap, _, _ in found] + [
        0.0
    ] * missing


def softmax(logits):
    exponentials = [math.exp(logit) for logit in logits]
    return [e / math.fsum(exponentials) for e in exponentials]


def linear(weight, bias, x):
    return [oracles.dot(row, x) + b for row, b in zip(weight, bias, strict=True)]


def position(feature, ids, overlaps, attention_weight, attention_bias, embedding):
    """What a region attends to among the embeddings of its blocks."""
    embedded = [embedding[block] for block in ids]
    asked = linear(attention_weight, attention_bias, feature)
    attended = softmax([math.tanh(oracles.dot(asked, block)) for block in embedded])
    weights = softmax([b * o for b, o in zip(attended, overlaps, strict=True)])
    return oracles.content(weights, embedded)


def region(feature, ids, overlaps, state):
    """The unit vector of a region; `state` holds the encoder's weights as lists, by name."""
    where = position(
        feature, ids, overlaps, state["fc_att.weight"], state["fc_att.bias"], state["position_embedding.weight"]
    )
    vector = linear(state["fc.weight"], state["fc.bias"], feature + where)
    norm = math.sqrt(oracles.dot(vector, vector)) + 1e-8
    return [value / norm for value in vector]


def score(regions, words, direction, lambda_softmax):
    """PFAN's score of one image with one caption."""
    queries, keys = (words, regions) if direction == "t2i" else (regions, words)
    weights = oracles.scan_weights(queries, keys, lambda_softmax)
    relevances = [oracles.relevance(query, row, keys) for query, row in zip(queries, weights, strict=True)]
    mean = math.fsum(relevances) / len(queries)
    return mean + 0.5 * math.fsum(max(row) for row in weights) / len(queries) if direction == "t2i" else mean
