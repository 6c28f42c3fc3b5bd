"""SGRAF straight from the equations: Python loops over floats, and nothing of xattn's.

`parameters` is a state dict as lists of floats; fragments are lists of lists of floats, without padding.
"""

import math

from oracles import content, dot, scan_weights

EPSILON = 1e-8
BATCH_NORM_EPSILON = 1e-5


def unit(vector):
    norm = math.sqrt(dot(vector, vector)) + EPSILON
    return [x / norm for x in vector]


def linear(parameters, name, vector):
    rows, biases = parameters[f"{name}.weight"], parameters[f"{name}.bias"]
    return [dot(row, vector) + bias for row, bias in zip(rows, biases, strict=True)]


def softmax(logits):
    exponentials = [math.exp(logit - max(logits)) for logit in logits]
    return [e / math.fsum(exponentials) for e in exponentials]


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def mean_and_variance(values):
    """The mean and the biased variance."""
    mean = math.fsum(values) / len(values)
    return mean, math.fsum((value - mean) ** 2 for value in values) / len(values)


def batch_norm(parameters, name, channel, value, statistics=None):
    """One value of one channel; `statistics` are a mean and a variance, absent = the running averages."""
    mean, variance = statistics or (
        parameters[f"{name}.running_mean"][channel],
        parameters[f"{name}.running_var"][channel],
    )
    normalised = (value - mean) / math.sqrt(variance + BATCH_NORM_EPSILON)
    return normalised * parameters[f"{name}.weight"][channel] + parameters[f"{name}.bias"][channel]


def squared_difference(one, other):
    return [(a - b) ** 2 for a, b in zip(one, other, strict=True)]


def wholes(parameters, name, sets, is_training=False):
    """The whole vector of each image or caption; with batch norms where `parameters` has them, in training over all the
    sets."""
    dim = len(sets[0][0])
    means = [[math.fsum(vector[d] for vector in vectors) / len(vectors) for d in range(dim)] for vectors in sets]
    local = [[linear(parameters, f"{name}.local", vector) for vector in vectors] for vectors in sets]
    whole = [linear(parameters, f"{name}.whole", mean) for mean in means]
    if f"{name}.local_norm.weight" in parameters:
        for r in range(len(sets[0])):
            statistics = mean_and_variance([x for vectors in local for x in vectors[r]]) if is_training else None
            for vectors in local:
                vectors[r] = [batch_norm(parameters, f"{name}.local_norm", r, x, statistics) for x in vectors[r]]
        for d in range(dim):
            statistics = mean_and_variance([vector[d] for vector in whole]) if is_training else None
            for vector in whole:
                vector[d] = batch_norm(parameters, f"{name}.whole_norm", d, vector[d], statistics)
    found = []
    for vectors, factors, other in zip(sets, local, whole, strict=True):
        products = [[math.tanh(x) * math.tanh(y) for x, y in zip(factor, other, strict=True)] for factor in factors]
        weights = softmax([linear(parameters, f"{name}.common", product)[0] for product in products])
        found.append(unit(content(weights, vectors)))
    return found


def nodes(parameters, regions, words, image, caption, lambda_softmax):
    """The similarity vectors of one pair; `image` and `caption` are the whole ones."""
    contents = [unit(content(row, regions)) for row in scan_weights(words, regions, lambda_softmax)]
    together = unit(linear(parameters, "sim_tranglo", squared_difference(image, caption)))
    return [together] + [
        unit(linear(parameters, "sim_tranloc", squared_difference(a, q))) for a, q in zip(contents, words, strict=True)
    ]


def graph_reasoning(parameters, vectors, steps):
    """The first of the nodes after so many steps of SGR."""
    for step in range(steps):
        queries, keys = ([linear(parameters, f"sgr.{step}.{name}", x) for x in vectors] for name in ("query", "key"))
        told = [content(softmax([dot(query, key) for key in keys]), vectors) for query in queries]
        vectors = [[max(0.0, x) for x in linear(parameters, f"sgr.{step}.graph", vector)] for vector in told]
    return vectors[0]


def gates(parameters, vectors):
    """What SAF's batch norm sees of the nodes of one pair."""
    return [linear(parameters, "saf.gate", vector)[0] for vector in vectors]


def filtered(parameters, vectors, statistics=None):
    """SAF's vector of one pair; `statistics` are a mean and a variance, absent = the running averages."""
    weights = [sigmoid(batch_norm(parameters, "saf.norm", 0, gate, statistics)) for gate in gates(parameters, vectors)]
    total = math.fsum(weights) + EPSILON
    return unit(content([weight / total for weight in weights], vectors))


def score(parameters, vector):
    return sigmoid(linear(parameters, "sim_eval", vector)[0])
