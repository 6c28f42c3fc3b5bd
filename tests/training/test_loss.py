"""The loss of a batch: its value and its gradient against the full form, in which every score has a gradient."""

import itertools
import math

import pytest
import torch

import oracles
from xattn.data.substitutes import Substitutes, draw_substitutes
from xattn.data.vocabulary import END, PAD, START
from xattn.losses.constraints import ccr_loss, ccs_loss
from xattn.losses.drawn import drawn_gradient
from xattn.losses.ranking import hinge_ranking_loss, infonce_ranking_loss, soft_hinge_ranking_loss
from xattn.losses.temperature import LearntTemperature
from xattn.models.config import Aggregation, Direction, SCANConfig
from xattn.models.scan import SCAN
from xattn.training import loss as objective_module
from xattn.training.loss import WordWeights, batch_loss

FEATURES, WORDS = 6, 12
IMAGE_IDS = [4, 7, 4, 9, 2, 7, 5]
"""Pairs 0 and 2 are siblings, and pairs 1 and 5."""
COUNTS = [5, 4, 5, 3, 5, 4, 2]
LENGTHS = [6, 4, 3, 7, 5, 5, 4]


class Batch:
    """A model in double precision and one batch of pairs, two of them twice in it as siblings."""

    def __init__(self, direction: Direction = "t2i", aggregation: Aggregation = "mean", image_ids=tuple(IMAGE_IDS)):
        torch.manual_seed(5)
        config = SCANConfig(direction=direction, aggregation=aggregation, dim=8, word_dim=5)
        self.model = SCAN(config, FEATURES, WORDS).double()
        with torch.no_grad():
            self.model.words.embed.weight.mul_(30)  # so that captions differ, as they do after some training
        self.direction = direction
        self.image_ids = torch.tensor(image_ids)
        shown = {image: torch.randn(5, FEATURES, dtype=torch.float64) for image in image_ids}
        self.features = torch.stack([shown[image] for image in image_ids])
        self.counts = torch.tensor(COUNTS[: len(image_ids)])
        self.tokens = torch.full((len(image_ids), max(LENGTHS[: len(image_ids)])), PAD)
        for row, length in enumerate(LENGTHS[: len(image_ids)]):
            words = torch.randint(3, WORDS, (length - 2,)).tolist()
            self.tokens[row, :length] = torch.tensor([START, *words, END])
        self.lengths = torch.tensor(LENGTHS[: len(image_ids)])
        query_weights = torch.tensor([0, 0, 0, 0, 0.5, 1, 1, 0, 0.25, 1, 1, 0], dtype=torch.float64)
        self.word_weights = WordWeights(
            ccr=query_weights, ccs=query_weights.flip(0) * (torch.arange(WORDS) > 2), substitutes=SUBSTITUTES
        )

    def encoded(self):
        return self.model.encode_images(self.features, self.counts), self.model.encode_captions(
            self.tokens, self.lengths
        )

    def computed(self, config, epoch=3, generator=None, temperature=None):
        images, captions = self.encoded()
        pairs = self.tokens, self.image_ids
        how = config, epoch, self.word_weights, generator
        return batch_loss(self.model, images, captions, *pairs, *how, temperature=temperature)

    def gradient(self, loss):
        return torch.autograd.grad(loss, list(self.model.parameters()), allow_unused=True, materialize_grads=True)


def negatives_by_hand(batch, siblings):
    ids = batch.image_ids.tolist()
    return [[p != o and (siblings == "count" or ids[p] != ids[o]) for o in range(len(ids))] for p in range(len(ids))]


def partners_by_hand(batch, scores, negatives, swap, generator=None):
    """The pair whose fragments are swapped in, for each pair, or None."""
    n = len(negatives)
    if swap == "sentence":
        return list(range(n))
    table = scores if swap == "hard" else torch.rand(n, n, generator=generator)
    found = []
    for p in range(n):
        candidates = [o for o in range(n) if negatives[p][o]]
        if swap == "hard" and batch.direction == "i2t":
            found.append(max(candidates, key=lambda o: float(table[o, p]), default=None))
        else:
            found.append(max(candidates, key=lambda o: float(table[p, o]), default=None))
    return found


def allowed_by_hand(batch, partners, swap):
    """Which fragment of the partner each query may be swapped for."""
    n, n_words, n_regions = len(partners), batch.tokens.shape[1], 5
    size = n_words if batch.direction == "t2i" else n_regions
    allowed = torch.zeros(n, size, size, dtype=torch.bool)
    for p, partner in enumerate(partners):
        if partner is None:
            continue
        for query in range(size):
            for other in range(size):
                if batch.direction == "t2i":
                    word = int(batch.tokens[partner, other])
                    allowed[p, query, other] = (
                        other < LENGTHS[partner]
                        and batch.word_weights.ccs[word] > 0
                        and word != int(batch.tokens[p, query])
                    )
                else:
                    allowed[p, query, other] = other < COUNTS[partner] and not (swap == "sentence" and query == other)
    return allowed


def batch_swaps_by_hand(batch, count, generator):
    """The fragments that are drawn, pair and place of each, and which query of a pair may be swapped for which."""
    words, n, lengths = batch.direction == "t2i", len(batch.tokens), LENGTHS if batch.direction == "t2i" else COUNTS
    candidates = [
        (pair, place)
        for pair in range(n)
        for place in range(lengths[pair])
        if not words or batch.word_weights.ccs[batch.tokens[pair, place]] > 0
    ]
    drawn = [candidates[at] for at in torch.randperm(len(candidates), generator=generator)[:count].tolist()]
    allowed = torch.zeros(n, batch.tokens.shape[1] if words else 5, len(drawn), dtype=torch.bool)
    for p, query, s in itertools.product(range(n), range(allowed.shape[1]), range(len(drawn))):
        pair, place = drawn[s]
        same_word = words and batch.tokens[p, query] == batch.tokens[pair, place]
        allowed[p, query, s] = batch.image_ids[p] != batch.image_ids[pair] and not same_word
    return drawn, allowed


SUBSTITUTES = Substitutes(
    of_word=torch.tensor([[0, 0, 0]] * 4 + [[4 + (word + step) % 8 for step in (1, 3, 6)] for word in range(8)]),
    in_image=torch.tensor(
        [
            [5, 6, 0],
            [4, 0, 0],
            [7, 8, 9],
            [11, 0, 0],
            [4, 5, 6],
            [8, 0, 0],
            [9, 10, 0],
            [7, 10, 11],
            [5, 0, 0],
            [6, 7, 0],
        ]
    ),
)


def substitutes_by_hand(batch, count, generator):
    """The word at the drawn place of each caption, in captions encoded with the drawn words there."""
    replaceable = batch.word_weights.ccs[batch.tokens] > 0
    places, words, valid = draw_substitutes(SUBSTITUTES, batch.tokens, batch.image_ids, replaceable, count, generator)
    allowed, swapped = torch.zeros(*batch.tokens.shape, count, dtype=torch.bool), []
    for p, place in enumerate(places.tolist()):
        allowed[p, place] = valid[p]
        replaced = batch.tokens[p].expand(count, -1).clone()
        replaced[:, place] = words[p]
        swapped.append(batch.model.encode_captions(replaced, batch.lengths[p].expand(count)).vectors[:, place])
    return torch.stack(swapped), allowed


def full_form(batch, config, epoch=3, generator=None):
    """Every term by itself, with a gradient through all pairs' scores."""
    images, captions = batch.encoded()
    scores = batch.model.score(images, captions)
    negatives = negatives_by_hand(batch, config.matching.siblings)
    matching, mask = config.matching, torch.tensor(negatives)
    kind = "all" if epoch <= matching.all_negatives_epochs else matching.negatives
    ranking = {
        "hinge": lambda: hinge_ranking_loss(scores, mask, matching.margin, kind),
        "infonce": lambda: infonce_ranking_loss(scores, mask, matching.temperature),
        "soft_hinge": lambda: soft_hinge_ranking_loss(scores, mask, matching.margin, matching.temperature),
    }
    terms = {"match": ranking[matching.loss]()}
    attention = batch.model.attend(images, captions, batch.direction)
    words = batch.direction == "t2i"
    if config.constraints in ("ccr", "both"):
        query_weights = batch.word_weights.ccr[batch.tokens] if words else None
        options = {"margin_kind": config.ccr.margin_kind, "against": config.ccr.against}
        terms["ccr"] = ccr_loss(attention, config.ccr.margin, query_weights, gradient=config.ccr.gradient, **options)
    if config.constraints in ("ccs", "both"):
        vectors = (captions if words else images).vectors
        if config.ccs.swap == "batch":
            drawn, allowed = batch_swaps_by_hand(batch, config.ccs.batch_swaps, generator)
            swapped = torch.stack([vectors[at] for at in drawn]).expand(len(vectors), -1, -1)
        elif config.ccs.swap == "substitute":
            swapped, allowed = substitutes_by_hand(batch, config.ccs.substitutes, generator)
        else:
            partners = partners_by_hand(batch, scores.detach(), negatives, config.ccs.swap, generator)
            allowed = allowed_by_hand(batch, partners, config.ccs.swap)
            swapped = vectors[torch.tensor([0 if partner is None else partner for partner in partners])]
        query_weights = batch.word_weights.ccs[batch.tokens] if words else None
        how = {"gradient": config.ccs.gradient, "temperature": config.ccs.temperature}
        terms["ccs"] = ccs_loss(attention, swapped, allowed, config.ccs.margin, query_weights, **how)
    weights = {"match": 1.0, "ccr": config.ccr.weight, "ccs": config.ccs.weight}
    return sum((weights[name] * term for name, term in terms.items()), torch.zeros((), dtype=torch.float64)), terms


def seeded(swap):
    return torch.Generator().manual_seed(11) if swap in ("random", "batch", "substitute") else None


@pytest.fixture(params=[0.0, 1.0], ids=["all at once", "one by one"])
def share(request, monkeypatch):
    """Forces one of the two ways in which scores get their gradient."""
    monkeypatch.setattr(objective_module, "SPARSE_SHARE", request.param)
    return request.param


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
@pytest.mark.parametrize("negatives", ["hardest", "all"])
@pytest.mark.parametrize("siblings", ["exclude", "count"])
@pytest.mark.parametrize(
    ("constraints", "swap"),
    [
        ("none", "hard"),
        ("ccr", "hard"),
        ("ccs", "sentence"),
        ("both", "hard"),
        ("both", "random"),
        ("both", "sentence"),
        ("ccs", "batch"),
    ],
)
def test_value_and_gradient_are_those_of_the_full_form(
    configured, share, direction, negatives, siblings, constraints, swap
):
    config = configured(
        constraints=constraints,
        matching={"negatives": negatives, "siblings": siblings, "all_negatives_epochs": 0},
        ccr={"weight": 0.7, "margin": 0.3, "from_epoch": 1},
        ccs={"weight": 1.3, "margin": 0.4, "from_epoch": 1, "swap": swap, "batch_swaps": 9},
    )
    check_against_the_full_form(Batch(direction, "lse" if direction == "i2t" else "mean"), config)


@pytest.mark.parametrize("loss", ["infonce", "soft_hinge"])
@pytest.mark.parametrize("siblings", ["exclude", "count"])
@pytest.mark.parametrize("constraints", ["none", "both"])
def test_soft_losses_have_the_gradient_of_the_full_form(configured, share, loss, siblings, constraints):
    """In the epochs against all negatives too, which are the hinge's."""
    config = configured(
        constraints=constraints,
        matching={"loss": loss, "temperature": 0.1, "margin": 0.3, "siblings": siblings, "all_negatives_epochs": 1},
        ccr={"from_epoch": 1},
        ccs={"from_epoch": 1, "swap": "hard"},
    )
    check_against_the_full_form(Batch(), config)
    one, two = (Batch().computed(config, epoch=epoch).loss.item() for epoch in (1, 2))
    assert one == two


@pytest.mark.parametrize(("loss", "margin"), [("infonce", 0.0), ("soft_hinge", 0.2)])
def test_drawn_negatives_leave_the_value_as_it_is_and_draw_the_gradient(configured, monkeypatch, loss, margin):
    """The gradient of the parameters is that of the drawn coefficients, which few pairs have."""
    monkeypatch.setattr(objective_module, "SPARSE_SHARE", 1.0)
    batch, scored = Batch(), []
    score_pairs = batch.model.score_pairs

    def noted(images, captions):
        scored.append(len(images))
        return score_pairs(images, captions)

    monkeypatch.setattr(batch.model, "score_pairs", noted)
    exact, drawn = (
        batch.computed(configured(matching={"loss": loss, "drawn_negatives": count}), generator=seeded("random"))
        for count in (0, 1)
    )
    assert drawn.loss.item() == pytest.approx(exact.loss.item(), rel=1e-12)
    assert scored[1] <= 2 * len(IMAGE_IDS) < scored[0]
    images, captions = batch.encoded()
    scores, mask = batch.model.score(images, captions), torch.tensor(negatives_by_hand(batch, "exclude"))
    coefficients = drawn_gradient(scores.detach(), mask, margin, 0.05, 1, seeded("random"))
    expected = batch.gradient((coefficients * scores).sum())
    for mine, theirs in zip(batch.gradient(drawn.loss), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("siblings", ["exclude", "count"])
def test_a_learnt_temperature_has_the_gradient_of_all_scores(configured, share, siblings):
    """Also where the scores have theirs from few pairs; and they have the one that they have of a fixed temperature."""
    matching = {"loss": "infonce", "temperature": 0.1, "siblings": siblings}
    config, drawn = (configured(matching=matching | {"drawn_negatives": count}) for count in (0, 1))
    batch = Batch()
    scores = batch.model.score(*batch.encoded()).tolist()
    expected = oracles.temperature_gradient(scores, IMAGE_IDS, 0.1, siblings == "count")
    for each in (config, drawn):
        temperature = LearntTemperature(0.1).double()
        found = batch.computed(each, generator=seeded("random"), temperature=temperature)
        fixed = batch.computed(each, generator=seeded("random"))
        assert found.loss.item() == pytest.approx(fixed.loss.item(), rel=1e-7)
        *of_weights, of_temperature = torch.autograd.grad(
            found.loss,
            [*batch.model.parameters(), *temperature.parameters()],
            materialize_grads=True,
            allow_unused=True,
        )
        assert of_temperature.item() == pytest.approx(expected, rel=1e-6)
        for mine, theirs in zip(of_weights, batch.gradient(fixed.loss), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)


def test_nothing_is_drawn_from_a_small_batch(configured):
    """Of 7 pairs a pass over all costs less, and is exact."""
    matching = {"loss": "infonce", "drawn_negatives": 1}
    check_against_the_full_form(Batch(), configured(matching=matching))


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
@pytest.mark.parametrize(
    ("gradient", "temperature"), [("weights", 0.0), ("content", 0.2), ("query", 0.0), ("all", 0.2)]
)
def test_the_options_of_the_constraints_arrive(configured, direction, gradient, temperature):
    config = configured(
        constraints="both",
        ccr={"weight": 0.7, "margin": 0.3, "from_epoch": 1, "gradient": gradient},
        ccs={
            "weight": 1.3,
            "margin": 0.4,
            "from_epoch": 1,
            "swap": "hard",
            "gradient": gradient,
            "temperature": temperature,
        },
    )
    check_against_the_full_form(Batch(direction), config)


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_the_options_of_ccr_arrive(configured, direction):
    ccr = {"weight": 0.7, "margin": 0.9, "from_epoch": 1, "margin_kind": "relative", "against": "least"}
    check_against_the_full_form(Batch(direction), configured(constraints="ccr", ccr=ccr))


@pytest.mark.parametrize(("count", "temperature", "gradient"), [(1, 0.0, "all"), (3, 0.2, "all"), (2, 0.1, "content")])
def test_substitutes_are_read_in_their_caption(configured, count, temperature, gradient):
    ccs = {"from_epoch": 1, "weight": 1.3, "swap": "substitute", "substitutes": count}
    config = configured(constraints="ccs", ccs=ccs | {"temperature": temperature, "gradient": gradient})
    check_against_the_full_form(Batch(), config)


def check_against_the_full_form(batch, config):
    swap, direction = config.ccs.swap, batch.direction
    found = batch.computed(config, generator=seeded(swap))
    expected, terms = full_form(batch, config, generator=seeded(swap))
    assert all(term.item() > 0 for term in terms.values()), "a term that is 0 would test nothing"
    assert found.loss.item() == pytest.approx(expected.item(), rel=1e-12)
    for name, term in terms.items():
        shown = name if name == "match" else f"{name}_{direction}"
        assert found.terms[shown] == pytest.approx(term.item(), rel=1e-12)
    gradients, expected_gradients = batch.gradient(found.loss), batch.gradient(expected)
    assert any(float(gradient.abs().max()) > 1e-3 for gradient in expected_gradients)
    for mine, theirs in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("negatives", ["hardest", "all"])
def test_siblings_make_a_difference(configured, negatives):
    """Or the test above would show nothing of them."""

    def match(siblings):
        matching = {"siblings": siblings, "negatives": negatives, "all_negatives_epochs": 0}
        return Batch(image_ids=(3, 3, 3)).computed(configured(matching=matching)).loss.item()

    assert match("exclude") == 0
    assert match("count") > 0.1


def test_only_pairs_that_the_loss_looks_at_are_scored_again(configured, monkeypatch):
    batch = Batch()
    scored, whole = [], []
    score, score_pairs = batch.model.score, batch.model.score_pairs

    def noted_pairs(images, captions):
        scored.append(len(images))
        return score_pairs(images, captions)

    def noted_score(images, captions):
        whole.append(torch.is_grad_enabled())
        return score(images, captions)

    monkeypatch.setattr(batch.model, "score_pairs", noted_pairs)
    monkeypatch.setattr(batch.model, "score", noted_score)
    config = configured(matching={"all_negatives_epochs": 0})
    monkeypatch.setattr(objective_module, "SPARSE_SHARE", 1.0)
    batch.computed(config)
    assert len(scored) == 1
    assert 0 < scored[0] <= 2 * len(IMAGE_IDS), (
        "the hardest caption of each image and the hardest image of each caption"
    )
    assert whole == [False]
    monkeypatch.setattr(objective_module, "SPARSE_SHARE", 0.0)
    batch.computed(config)
    assert len(scored) == 1
    assert whole == [False, False, True]


@pytest.mark.parametrize("siblings", ["exclude", "count"])
@pytest.mark.parametrize("loss", ["hinge", "infonce"])
def test_the_spread_is_that_of_the_scores(configured, siblings, loss):
    batch = Batch()
    scores = batch.model.score(*batch.encoded()).tolist()
    expected = sum(oracles.score_spread(scores, IMAGE_IDS, siblings == "count"))
    assert batch.computed(configured(matching={"siblings": siblings, "loss": loss})).spread == pytest.approx(expected)


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_names_of_terms_and_shares(configured, direction):
    config = configured(constraints="both", ccr={"from_epoch": 1}, ccs={"from_epoch": 1, "swap": "hard"})
    terms = Batch(direction).computed(config).terms
    names = [f"ccr_{direction}", f"ccr_{direction}_active", f"ccs_{direction}", f"ccs_{direction}_active"]
    assert list(terms) == ["match", *names]
    assert all(type(value) is float for value in terms.values())


def test_shares_are_of_the_queries_that_count(configured):
    config = configured(
        constraints="both", ccr={"from_epoch": 1, "margin": 0.1}, ccs={"from_epoch": 1, "swap": "hard", "margin": 0.1}
    )
    batch = Batch()
    terms = batch.computed(config).terms
    images, captions = batch.encoded()
    attention = batch.model.attend(images, captions, "t2i")
    negatives = negatives_by_hand(batch, "exclude")
    partners = partners_by_hand(batch, batch.model.score(images, captions).detach(), negatives, "hard")
    allowed = allowed_by_hand(batch, partners, "hard")
    hinges = {
        "ccr": ccr_loss(attention, 0.1, reduction="none"),
        "ccs": ccs_loss(attention, captions.vectors[torch.tensor(partners)], allowed, 0.1, reduction="none"),
    }
    for name, values in hinges.items():
        counting = active = 0
        for p, length in enumerate(LENGTHS):
            for query in range(length):
                weight = getattr(batch.word_weights, name)[batch.tokens[p, query]]
                if weight > 0 and (name == "ccr" or allowed[p, query].any()):
                    counting += 1
                    active += int(values[p, query] > 0)
        assert 0 < active < counting, "a share of 0 or 1 would show little"
        assert terms[f"{name}_t2i_active"] == pytest.approx(active / counting)


@pytest.mark.parametrize(("epoch", "names"), [(1, set()), (2, {"ccr"}), (3, {"ccr"}), (4, {"ccr", "ccs"})])
def test_constraints_act_from_their_epoch(configured, epoch, names):
    config = configured(constraints="both", ccr={"from_epoch": 2}, ccs={"from_epoch": 4, "swap": "sentence"})
    terms = Batch().computed(config, epoch=epoch).terms
    assert {name.removesuffix("_active").removesuffix("_t2i") for name in terms} == {"match"} | names


@pytest.mark.parametrize(
    ("constraints", "names"), [("none", set()), ("ccr", {"ccr"}), ("ccs", {"ccs"}), ("both", {"ccr", "ccs"})]
)
def test_only_chosen_constraints_act(configured, constraints, names):
    config = configured(constraints=constraints, ccr={"from_epoch": 1}, ccs={"from_epoch": 1, "swap": "sentence"})
    terms = Batch().computed(config).terms
    assert {name.removesuffix("_active").removesuffix("_t2i") for name in terms} == {"match"} | names


@pytest.mark.parametrize("name", ["ccr", "ccs"])
def test_a_weight_multiplies_its_term_and_0_leaves_it_out(configured, name):
    fields = {"from_epoch": 1} | ({"swap": "hard"} if name == "ccs" else {})
    found = {
        weight: Batch().computed(configured(constraints=name, **{name: {"weight": weight, **fields}}))
        for weight in (0.0, 0.5, 2.0)
    }
    term = found[0.5].terms[f"{name}_t2i"]
    assert found[2.0].terms[f"{name}_t2i"] == pytest.approx(term), "the log has the term before its weight"
    for weight in (0.5, 2.0):
        assert found[weight].loss.item() == pytest.approx(found[weight].terms["match"] + weight * term)
    assert list(found[0.0].terms) == ["match"]
    assert found[0.0].loss.item() == found[0.0].terms["match"]


def test_first_epochs_rank_against_all_negatives(configured):
    """And then against the hardest, whose hinge is larger than the mean."""
    config = configured(matching={"all_negatives_epochs": 2})
    losses = [Batch().computed(config, epoch=epoch).loss.item() for epoch in (1, 2, 3)]
    every = Batch().computed(configured(matching={"negatives": "all", "all_negatives_epochs": 0})).loss.item()
    hardest = Batch().computed(configured(matching={"all_negatives_epochs": 0})).loss.item()
    assert losses == [every, every, hardest]
    assert every < hardest


@pytest.mark.parametrize("swap", ["hard", "random", "sentence", "batch"])
def test_a_batch_of_siblings_has_nothing_to_rank(configured, swap):
    """Nor anything to swap, unless it is from the same sentence."""
    config = configured(constraints="ccs", matching={"all_negatives_epochs": 0}, ccs={"from_epoch": 1, "swap": swap})
    batch = Batch(image_ids=(3, 3, 3))
    found = batch.computed(config, generator=seeded(swap))
    assert found.terms["match"] == 0
    if swap == "sentence":
        assert found.terms["ccs_t2i"] > 0
    else:
        assert (found.loss.item(), found.terms["ccs_t2i"], found.terms["ccs_t2i_active"]) == (0, 0, 0)
        assert not any(gradient.any() for gradient in batch.gradient(found.loss))


@pytest.mark.parametrize("swap", ["random", "batch"])
def test_chance_comes_from_the_generator(configured, swap):
    config = configured(constraints="ccs", ccs={"from_epoch": 1, "swap": swap, "batch_swaps": 3})

    def term(seed, global_seed):
        batch = Batch()
        torch.manual_seed(global_seed)
        return batch.computed(config, generator=torch.Generator().manual_seed(seed)).terms["ccs_t2i"]

    assert term(1, 0) == term(1, 1)
    assert len({term(seed, 0) for seed in range(5)}) > 1


def test_padding_changes_nothing(configured):
    """Whatever stands there, with all constraints and both directions."""
    config = configured(constraints="both", ccr={"from_epoch": 1}, ccs={"from_epoch": 1, "swap": "hard"})
    for direction in ("t2i", "i2t"):
        batch = Batch(direction)
        found = batch.computed(config)
        batch.features = torch.cat(
            [batch.features, torch.full((len(IMAGE_IDS), 2, FEATURES), 1e3, dtype=torch.float64)], dim=1
        )
        for row, count in enumerate(COUNTS):
            batch.features[row, count:] = -5.0
        batch.tokens = torch.cat([batch.tokens, torch.full((len(IMAGE_IDS), 3), PAD)], dim=1)
        padded = batch.computed(config)
        assert math.isclose(found.loss.item(), padded.loss.item(), rel_tol=1e-12)
        assert padded.terms == pytest.approx(found.terms, rel=1e-12)


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
@pytest.mark.parametrize("swap", ["hard", "random"])
def test_gradients_are_those_of_the_weighted_terms_on_the_fragments(configured, share, direction, swap):
    """By the full form, term by term."""
    acting = {"from_epoch": 1, "weight": 0.3}
    config = configured(
        constraints="both", matching={"all_negatives_epochs": 0}, ccr=acting, ccs={**acting, "swap": swap}
    )
    batch = Batch(direction)
    images, captions = batch.encoded()
    arguments = batch.tokens, batch.image_ids, config, 3, batch.word_weights
    found = batch_loss(batch.model, images, captions, *arguments, seeded(swap), measures_gradients=True)
    fragments = images.vectors, captions.vectors
    after = torch.autograd.grad(found.loss, fragments)
    batch.encoded = lambda: (images, captions)
    _, terms = full_form(batch, config, generator=seeded(swap))
    weights = {"match": 1.0, f"ccr_{direction}": 0.3, f"ccs_{direction}": 0.3}
    assert list(found.gradients) == list(weights)
    for name, weight in weights.items():
        gradients = torch.autograd.grad(
            weight * terms[name.split("_")[0]], fragments, retain_graph=True, allow_unused=True
        )
        expected = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients if gradient is not None))
        assert expected > 0
        assert found.gradients[name] == pytest.approx(expected, rel=1e-9)
    plain = batch_loss(batch.model, images, captions, *arguments, seeded(swap))
    assert plain.gradients == {}
    for mine, theirs in zip(after, torch.autograd.grad(plain.loss, fragments), strict=True):
        assert torch.equal(mine, theirs), "measuring changes no step"
