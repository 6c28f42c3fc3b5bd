import functools

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

import oracles
import oracles_bfan
from xattn.attention.pairwise import pairwise_scores
from xattn.attention.weights import focal_weights
from xattn.metrics.retrieval import retrieval_report
from xattn.models import cross_attention
from xattn.models.bfan import BFAN
from xattn.models.config import BFANConfig, Focus
from xattn.models.encoders import prefix_mask
from xattn.models.fragments import Fragments
from xattn.runs.config import CCRConfig, CCSConfig, MatchingConfig, RunConfig
from xattn.training.loss import WordWeights, batch_loss

SEEDS = st.integers(0, 2**32 - 1)
both_kinds = pytest.mark.parametrize("focus", ["equal", "prob"])
both_precisions = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.double, 1e-10), (torch.float32, 1e-4)])
both_directions = pytest.mark.parametrize("direction", ["t2i", "i2t"])


def close(ours, expected, tolerance=1e-10):
    torch.testing.assert_close(ours, torch.as_tensor(expected, dtype=ours.dtype), rtol=0, atol=tolerance)


def ragged(generator, sets, length, dim, dtype=torch.double, shortest=1):
    mask = prefix_mask(torch.randint(shortest, length + 1, (sets,), generator=generator), length)
    vectors = torch.randn(sets, length, dim, generator=generator, dtype=torch.double)
    vectors[..., 0] = (
        vectors[..., 0].abs() + 1
    )  # no content cancels, which would cost ours and the oracle's their digits
    return Fragments((vectors * mask[..., None]).to(dtype), mask)


def model(focus: Focus = "equal", lambda_softmax=20.0):
    return BFAN(BFANConfig(focus, lambda_softmax, dim=4, word_dim=3), feature_size=5, vocabulary_size=12)


def lists_of(image, caption):
    return oracles.lists(image.vectors[0], image.mask[0]), oracles.lists(caption.vectors[0], caption.mask[0])


def compared(bfan_model, images, captions):
    """The oracle's scores of all pairs, and where rounding decides nothing about them."""
    config = bfan_model.config
    scores, safe = (
        torch.zeros(len(images), len(captions), dtype=torch.double),
        torch.zeros(len(images), len(captions), dtype=torch.bool),
    )
    for i in range(len(images)):
        for c in range(len(captions)):
            pair = lists_of(images[i : i + 1], captions[c : c + 1])
            scores[i, c] = oracles_bfan.score(*pair, config.lambda_softmax, config.focus)
            safe[i, c] = not oracles_bfan.is_near_a_jump(*pair, config.lambda_softmax, config.focus)
    return scores, safe


class TestScores:
    @both_kinds
    @both_precisions
    @given(
        SEEDS,
        st.integers(1, 4),
        st.integers(1, 4),
        st.integers(1, 7),
        st.integers(1, 7),
        st.integers(2, 8),
        st.floats(1, 35),
    )
    @settings(max_examples=30)
    def test_oracle(self, focus, dtype, tolerance, seed, images, captions, regions, words, dim, lambda_softmax):
        generator = torch.Generator().manual_seed(seed)
        bfan_model = model(focus, lambda_softmax)
        encoded = ragged(generator, images, regions, dim, dtype), ragged(generator, captions, words, dim, dtype)
        expected, safe = compared(bfan_model, *encoded)
        close(bfan_model.score(*encoded)[safe], expected[safe], tolerance)

    @both_kinds
    @both_precisions
    def test_oracle_of_pairs_as_large_as_real_ones(self, focus, dtype, tolerance):
        generator = torch.Generator().manual_seed(3)
        bfan_model = model(focus)
        encoded = ragged(generator, 4, 36, 16, dtype, shortest=20), ragged(generator, 4, 14, 16, dtype, shortest=8)
        expected, safe = compared(bfan_model, *encoded)
        assert safe.sum() > 12, "or hardly anything is compared"
        close(bfan_model.score(*encoded)[safe], expected[safe], tolerance)

    def test_the_two_kinds_differ_and_so_does_no_focus(self):
        """Or the oracle tests would not tell them apart."""
        generator = torch.Generator().manual_seed(4)
        images, captions = ragged(generator, 3, 8, 6), ragged(generator, 3, 7, 6)
        equal, prob = (model(focus, 6.0).score(images, captions) for focus in ("equal", "prob"))
        assert (equal - prob).abs().min() > 1e-3

    @both_kinds
    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.double, 1e-12), (torch.float32, 1e-5)])
    def test_score_pairs_is_the_diagonal_of_score(self, focus, dtype, tolerance):
        generator = torch.Generator().manual_seed(0)
        bfan_model = model(focus)
        images, captions = ragged(generator, 6, 9, 16, dtype), ragged(generator, 6, 5, 16, dtype)
        scores = bfan_model.score(images, captions)
        close(bfan_model.score_pairs(images, captions), scores.diagonal(), tolerance)
        rows, columns = torch.tensor([5, 0, 0, 3]), torch.tensor([1, 1, 4, 3])
        close(bfan_model.score_pairs(images[rows], captions[columns]), scores[rows, columns], tolerance)

    @both_kinds
    def test_blocks_are_the_whole(self, focus, monkeypatch):
        generator = torch.Generator().manual_seed(2)
        bfan_model = model(focus)
        images, captions = ragged(generator, 11, 6, 5), ragged(generator, 9, 8, 5)
        whole = bfan_model.score(images, captions)
        monkeypatch.setattr(
            cross_attention,
            "pairwise_scores",
            functools.partial(pairwise_scores, block_elements=120, block_columns=10, part_elements=40),
        )
        close(bfan_model.score(images, captions), whole, 1e-12)
        with torch.no_grad():
            close(bfan_model.score(images, captions), whole, 1e-12)

    @both_kinds
    def test_padding_changes_nothing(self, focus):
        generator = torch.Generator().manual_seed(6)
        bfan_model = model(focus).double()
        features, counts = torch.randn(5, 4, 5, generator=generator, dtype=torch.double), torch.tensor([4, 2, 3, 1, 4])
        tokens, lengths = torch.randint(3, 12, (5, 6), generator=generator), torch.tensor([3, 6, 2, 5, 4])

        def scored(features, tokens):
            images, captions = bfan_model.encode_images(features, counts), bfan_model.encode_captions(tokens, lengths)
            pairs = bfan_model.match(images, captions)
            relevances = [attention.relevance[attention.query_mask] for attention in pairs.attentions.values()]
            return bfan_model.score(images, captions), pairs.scores, *relevances

        longer = (
            torch.cat([features, torch.full((5, 3, 5), 1e3, dtype=torch.double)], dim=1),
            functional.pad(tokens, (0, 2)),
        )
        for padded, plain in zip(scored(*longer), scored(features, tokens), strict=True):
            close(padded, plain, 1e-12)
        for p in range(5):
            alone = bfan_model.encode_images(features[p : p + 1, : counts[p]], counts[p : p + 1])
            words = bfan_model.encode_captions(tokens[p : p + 1, : lengths[p]], lengths[p : p + 1])
            close(scored(*longer)[0][p, p], bfan_model.score(alone, words)[0, 0], 1e-12)

    def test_the_product_alone_may_be_coarse(self):
        generator = torch.Generator().manual_seed(1)
        bfan_model = model()
        images, captions = ragged(generator, 8, 6, 16, torch.float32), ragged(generator, 8, 5, 16, torch.float32)
        with torch.no_grad():
            fine = bfan_model.score(images, captions)
            coarse = bfan_model.score(images, captions, torch.bfloat16)
        assert coarse.dtype == torch.float32
        assert 1e-6 < (coarse - fine).abs().median() < 0.02


class TestAttention:
    @both_kinds
    @both_directions
    def test_it_is_that_which_the_score_rests_on(self, focus, direction):
        generator = torch.Generator().manual_seed(1)
        bfan_model = model(focus, 8.0)
        images, captions = ragged(generator, 6, 9, 6, shortest=3), ragged(generator, 6, 7, 6, shortest=3)
        attention = bfan_model.attend(images, captions, direction)
        queries, keys = (captions, images) if direction == "t2i" else (images, captions)
        dropped = 0
        for p in range(6):
            vectors = oracles.lists(queries.vectors[p], queries.mask[p]), oracles.lists(keys.vectors[p], keys.mask[p])
            ours = attention.weights[p][queries.mask[p]][:, keys.mask[p]]
            close(ours, oracles_bfan.focal_weights(*vectors, 8.0, focus))
            dropped += int((ours == 0).sum())
        assert dropped > 50
        assert (attention.weights[~attention.query_mask] == 0).all()
        close(attention.similarity, queries.vectors @ keys.vectors.transpose(1, 2))

    def test_both_directions_share_the_similarity_and_make_the_score(self):
        generator = torch.Generator().manual_seed(1)
        images, captions = ragged(generator, 4, 5, 6), ragged(generator, 4, 3, 6)
        scores, attentions = model().match(images, captions)
        assert list(attentions) == ["t2i", "i2t"] == list(BFAN.directions)
        assert attentions["t2i"].similarity.data_ptr() == attentions["i2t"].similarity.data_ptr()
        means = [(a.relevance * a.query_mask).sum(1) / a.query_mask.sum(1) for a in attentions.values()]
        close(scores, means[0] + means[1], 1e-12)


class TestFocalWeights:
    @both_kinds
    def test_by_hand(self, focus):
        """Softmax weights 16, 9, 4, 1 of 30; their mean is 7.5, and weighed by their roots (64 + 27 + 8 + 1) / (4 + 3 +
        2 + 1) = 10."""
        rows = torch.tensor([16.0, 9.0, 4.0, 1.0], dtype=torch.double)
        # With a second query opposite to the first, `s^` is `s / |s|` of two numbers, which can be chosen freely.
        wanted = rows.log() / 4
        similarity = torch.stack([wanted, (1 - wanted.square()).sqrt()]) * 3
        similarity = torch.cat([similarity, torch.ones(2, 2, dtype=torch.double)], dim=1)
        mask = torch.tensor([True] * 4 + [False] * 2)
        weights = focal_weights(
            similarity, query_dim=0, key_dim=1, lambda_softmax=4.0, focus=focus, key_mask=mask[None]
        )[0]
        expected = [16 / 25, 9 / 25, 0, 0, 0, 0] if focus == "equal" else [1.0, 0, 0, 0, 0, 0]
        close(weights / weights.sum(), expected, 1e-6)  # 1e-8 is added to the norm

    @both_kinds
    @both_precisions
    @pytest.mark.parametrize("lambda_softmax", [1.0, 20.0, 35.0])
    def test_a_uniform_row_stays_uniform(self, focus, dtype, tolerance, lambda_softmax):
        """Keys that are all alike, and a single query, to which all keys are alike since the norm is over the
        queries."""
        generator = torch.Generator().manual_seed(7)
        bfan_model = model(focus, lambda_softmax)
        captions = ragged(generator, 40, 9, 64, dtype)
        same = torch.randn(40, 1, 64, generator=generator, dtype=dtype).expand(40, 36, 64).contiguous()
        alike = Fragments(same, torch.ones(40, 36, dtype=torch.bool))
        row = bfan_model.attend(alike, captions, "t2i").weights[captions.mask]
        close(row, torch.full_like(row, 1 / 36), tolerance / 10)
        positive = Fragments(torch.rand(40, 36, 64, generator=generator, dtype=dtype) + 0.1, alike.mask)
        one = Fragments(
            torch.rand(40, 1, 64, generator=generator, dtype=dtype) + 0.1, torch.ones(40, 1, dtype=torch.bool)
        )
        row = bfan_model.attend(positive, one, "t2i").weights
        close(row, torch.full_like(row, 1 / 36), 1e-5)
        scores = bfan_model.score(positive, one)
        content = functional.cosine_similarity(
            positive.vectors.mean(1).unsqueeze(1), one.vectors[:, 0].unsqueeze(0), dim=-1
        )
        regions = functional.cosine_similarity(positive.vectors[:, None], one.vectors[None], dim=-1).mean(-1)
        close(scores, content + regions, 1e-5)

    @pytest.mark.parametrize(("dtype", "kept"), [(torch.double, False), (torch.float32, True)])
    def test_a_key_just_below_its_limit_is_tied_in_float32_alone(self, dtype, kept):
        """Where rounding cannot make up the difference the published rule holds: 1e-5 of the limit is much in
        float64."""
        lambda_softmax, below = 20.0, 1e-5
        # One query, two keys of unit norm after normalisation over the queries: weights 1 and exp(-d), 1 apart by d.
        difference = below / lambda_softmax
        similarity = torch.tensor([[0.8, 0.8 * (1 - difference)], [0.6, 0.6]], dtype=dtype)
        similarity[1, 1] = (1 - similarity[0, 1] ** 2).sqrt()
        weights = focal_weights(similarity, query_dim=0, key_dim=1, lambda_softmax=lambda_softmax, focus="equal")
        assert bool(weights[0, 0] > 0)
        assert bool(weights[0, 1] > 0) is kept

    @both_kinds
    @both_precisions
    def test_a_single_key_has_all_the_attention(self, focus, dtype, tolerance):
        generator = torch.Generator().manual_seed(8)
        bfan_model = model(focus)
        images, captions = ragged(generator, 5, 1, 6, dtype), ragged(generator, 5, 4, 6, dtype)
        attention = bfan_model.attend(images, captions, "t2i")
        assert (attention.weights[captions.mask] == 1).all()
        expected, safe = compared(bfan_model, images, captions)
        close(bfan_model.score(images, captions)[safe], expected[safe], tolerance)
        one = ragged(generator, 5, 1, 6, dtype)
        close(
            bfan_model.score(images, one),
            2 * functional.cosine_similarity(images.vectors, one.vectors[:, 0], dim=-1),
            tolerance,
        )

    @both_kinds
    @given(SEEDS, st.integers(1, 40), st.integers(1, 12), st.floats(0.1, 35), st.sampled_from([0.0, 1e-6, 1.0]))
    @settings(max_examples=60)
    def test_every_query_keeps_a_key_and_no_padding(self, focus, seed, keys, queries, lambda_softmax, spread):
        """Whatever the rounding; the largest weight is always kept."""
        generator = torch.Generator().manual_seed(seed)
        similarity = 1 + spread * torch.randn(3, queries, keys, generator=generator)
        mask = prefix_mask(torch.randint(1, keys + 1, (3,), generator=generator), keys).unsqueeze(1)
        options = {"query_dim": 1, "key_dim": 2, "lambda_softmax": lambda_softmax, "focus": focus}
        weights = focal_weights(similarity, key_mask=mask, **options)
        assert weights.isfinite().all()
        assert (weights.max(2).values > 1).all()
        assert ((weights == 0) | (weights > 1)).all()
        assert (weights[~mask.expand_as(weights)] == 0).all()

    @both_kinds
    def test_any_layout(self, focus):
        generator = torch.Generator().manual_seed(9)
        similarity = torch.randn(3, 5, 7, generator=generator, dtype=torch.double)
        mask = prefix_mask(torch.tensor([7, 4, 1]), 7).unsqueeze(1)
        options = {"lambda_softmax": 9.0, "focus": focus}
        weights = focal_weights(similarity, query_dim=1, key_dim=2, key_mask=mask, **options)
        moved = focal_weights(
            similarity.permute(2, 1, 0), query_dim=1, key_dim=0, key_mask=mask.permute(2, 1, 0), **options
        )
        close(moved.permute(2, 1, 0), weights)

    @both_kinds
    def test_all_valid_is_the_same_as_no_mask(self, focus):
        similarity = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
        options = {"query_dim": 1, "key_dim": 2, "lambda_softmax": 9.0, "focus": focus}
        assert torch.equal(
            focal_weights(similarity, **options),
            focal_weights(similarity, key_mask=torch.ones(2, 1, 6, dtype=torch.bool), **options),
        )


def slow_weights(queries, keys, lambda_softmax, focus):
    """`oracles_bfan.focal_weights` on lists of tensors, for its gradient."""
    rectified = [[functional.leaky_relu(query @ key, 0.1) for key in keys] for query in queries]
    norms = [torch.stack([row[j] for row in rectified]).square().sum().sqrt() + 1e-8 for j in range(len(keys))]
    rows = []
    for row in rectified:
        weights = torch.stack([lambda_softmax * s / norm for s, norm in zip(row, norms, strict=True)]).softmax(0)
        kept = oracles_bfan.focused(weights.tolist(), focus)
        chosen = torch.stack([w if k > 0 else 0 * w for w, k in zip(weights, kept, strict=True)])
        rows.append(chosen / chosen.sum())
    return rows


def slow_relevance(query, weights, keys):
    content = torch.stack([w * key for w, key in zip(weights, keys, strict=True)]).sum(0)
    return functional.cosine_similarity(query, content, dim=0)


class SlowPair:
    """One image with one caption, and all that a loss needs of them, key by key and query by query."""

    def __init__(self, regions, words, focus):
        self.sides: dict[str, tuple[list[torch.Tensor], list[torch.Tensor]]] = {
            "t2i": (words, regions),
            "i2t": (regions, words),
        }
        self.weights = {direction: slow_weights(*side, 20.0, focus) for direction, side in self.sides.items()}

    def relevances(self, direction):
        queries, keys = self.sides[direction]
        return [slow_relevance(query, row, keys) for query, row in zip(queries, self.weights[direction], strict=True)]

    def score(self):
        return torch.stack(self.relevances("t2i")).mean() + torch.stack(self.relevances("i2t")).mean()

    def ccr(self, direction, margin, counted):
        queries, keys = self.sides[direction]
        hinges = []
        for i, relevance in enumerate(self.relevances(direction)):
            if counted[i]:
                ignored = [(1 - w) / (len(keys) - 1) for w in self.weights[direction][i]]
                hinges.append((margin - relevance + slow_relevance(queries[i], ignored, keys)).clamp_min(0))
        return torch.stack(hinges).mean()

    def ccs(self, direction, margin, counted, others, allowed):
        keys = self.sides[direction][1]
        hinges = []
        for i, relevance in enumerate(self.relevances(direction)):
            swaps = [other for o, other in enumerate(others) if allowed(i, o)]
            if counted[i] and swaps:
                hardest = (
                    torch.stack([slow_relevance(other, self.weights[direction][i], keys) for other in swaps])
                    .max(0)
                    .values
                )
                hinges.append((margin - relevance + hardest).clamp_min(0))
        return torch.stack(hinges).mean()


@both_kinds
@pytest.mark.parametrize("share", [0.0, 1.0], ids=["all at once", "one by one"])
def test_gradient_of_the_whole_objective(focus, share, monkeypatch):
    monkeypatch.setattr("xattn.training.loss.SPARSE_SHARE", share)
    generator = torch.Generator().manual_seed(12)
    n = 4
    images, captions = ragged(generator, n, 5, 6, shortest=3), ragged(generator, n, 6, 6, shortest=4)
    assert compared(model(focus), images, captions)[1].all(), "no pair stands near a jump"
    lengths = captions.mask.sum(1).tolist()
    tokens = torch.randint(4, 9, (n, 6), generator=generator) * captions.mask
    tokens[:, 0] = 1
    content = torch.tensor([0.0] * 4 + [1.0] * 8, dtype=torch.double)
    config = RunConfig(
        constraints="both",
        matching=MatchingConfig(margin=0.4, all_negatives_epochs=0),
        ccr=CCRConfig(weight=0.7, margin=0.5, from_epoch=1),
        ccs=CCSConfig(weight=1.3, margin=0.4, from_epoch=1, swap="hard"),
    )
    leaves = [images.vectors.requires_grad_(), captions.vectors.requires_grad_()]

    ours = batch_loss(
        model(focus), images, captions, tokens, torch.arange(n), config, 3, WordWeights(content, content), generator
    )
    gradients = torch.autograd.grad(ours.loss, leaves)

    regions = [[images.vectors[p, r] for r in range(int(images.mask[p].sum()))] for p in range(n)]
    words = [[captions.vectors[p, w] for w in range(lengths[p])] for p in range(n)]
    pairs = [[SlowPair(regions[i], words[c], focus) for c in range(n)] for i in range(n)]
    scores = [[pair.score() for pair in row] for row in pairs]
    terms = dict.fromkeys(["match", "ccr_t2i", "ccr_i2t", "ccs_t2i", "ccs_i2t"], torch.zeros((), dtype=torch.double))
    for p in range(n):
        others = [o for o in range(n) if o != p]
        caption, image = (
            max(others, key=lambda o, p=p: scores[p][o].item()),
            max(others, key=lambda o, p=p: scores[o][p].item()),
        )
        terms["match"] = terms["match"] + (0.4 - scores[p][p] + scores[p][caption]).clamp_min(0)
        terms["match"] = terms["match"] + (0.4 - scores[p][p] + scores[image][p]).clamp_min(0)
        own, theirs = tokens[p].tolist(), tokens[caption].tolist()
        counted, every = [token > 3 for token in own], [True] * len(regions[p])
        terms["ccr_t2i"] = terms["ccr_t2i"] + pairs[p][p].ccr("t2i", 0.5, counted)
        terms["ccr_i2t"] = terms["ccr_i2t"] + pairs[p][p].ccr("i2t", 0.5, every)
        may = lambda i, o, own=own, theirs=theirs: theirs[o] > 3 and theirs[o] != own[i]  # noqa: E731
        terms["ccs_t2i"] = terms["ccs_t2i"] + pairs[p][p].ccs("t2i", 0.4, counted, words[caption], may)
        terms["ccs_i2t"] = terms["ccs_i2t"] + pairs[p][p].ccs("i2t", 0.4, every, regions[image], lambda i, o: True)
    for name, term in terms.items():
        assert term.item() > 0.1, "a term that is 0 would test nothing"
        assert ours.terms[name] == pytest.approx(term.item(), abs=1e-10)
    loss = terms["match"] + 0.7 * (terms["ccr_t2i"] + terms["ccr_i2t"]) + 1.3 * (terms["ccs_t2i"] + terms["ccs_i2t"])
    close(ours.loss, loss.item())
    for mine, theirs, fragments in zip(gradients, torch.autograd.grad(loss, leaves), (images, captions), strict=True):
        assert theirs.abs().max() > 0.01
        close(mine[fragments.mask], theirs[fragments.mask])


@both_kinds
def test_gradients_are_finite_where_nothing_is_focused(focus):
    bfan_model = model(focus)
    vectors = torch.ones(2, 3, 4, dtype=torch.double, requires_grad=True)
    alike = Fragments(vectors, torch.ones(2, 3, dtype=torch.bool))
    (bfan_model.score(alike, alike).sum() + bfan_model.score_pairs(alike, alike).sum()).backward()
    assert vectors.grad is not None
    assert vectors.grad.isfinite().all()


def learned(focus, constraints):
    """R@1 of both directions in eval mode, and the first and last loss, of 16 pairs learned by heart."""
    torch.manual_seed(0)
    bfan_model = BFAN(BFANConfig(focus, dim=32, word_dim=16), feature_size=12, vocabulary_size=40)
    features, counts = torch.randn(16, 5, 12), torch.randint(3, 6, (16,))
    lengths = torch.randint(4, 8, (16,))
    tokens = torch.randint(4, 40, (16, 7)) * prefix_mask(lengths, 7)
    content = torch.cat([torch.zeros(4), torch.ones(36)])
    acting = {"from_epoch": 1, "weight": 0.3}
    config = RunConfig(
        constraints=constraints,
        matching=MatchingConfig(all_negatives_epochs=1),
        ccr=CCRConfig(**acting),
        ccs=CCSConfig(swap="hard", **acting),
    )
    optimiser = torch.optim.Adam(bfan_model.parameters(), lr=1e-2)
    losses = []
    for step in range(40):
        images, captions = bfan_model.encode_images(features, counts), bfan_model.encode_captions(tokens, lengths)
        epoch = 1 + step // 10
        found = batch_loss(
            bfan_model,
            images,
            captions,
            tokens,
            torch.arange(16),
            config,
            epoch,
            WordWeights(content, content),
            torch.Generator(),
        )
        losses.append(found.loss.item())
        optimiser.zero_grad()
        found.loss.backward()
        assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in bfan_model.parameters())
        optimiser.step()
    bfan_model.eval()
    with torch.no_grad():
        scores = bfan_model.score(
            bfan_model.encode_images(features, counts), bfan_model.encode_captions(tokens, lengths)
        )
    report = retrieval_report(scores, torch.arange(16))
    return report.image_to_text.r1, report.text_to_image.r1, losses


@both_kinds
@pytest.mark.parametrize("constraints", ["none", "both"])
def test_learns_sixteen_pairs_by_heart(focus, constraints):
    image_to_text, text_to_image, losses = learned(focus, constraints)
    assert (image_to_text, text_to_image) == (100.0, 100.0)
    assert losses[-1] < losses[0] / 4


class TestConfig:
    def test_published_settings_are_the_defaults(self):
        config = BFANConfig()
        assert (config.name, config.focus, config.lambda_softmax, config.dim, config.word_dim) == (
            "bfan",
            "equal",
            20.0,
            1024,
            300,
        )

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"focus": "both"}, "model.focus must be 'equal' or 'prob', but it is 'both'"),
            ({"lambda_softmax": 0.0}, "model.lambda_softmax must be above 0 and at most 35, but it is 0.0"),
            ({"lambda_softmax": 35.5}, "model.lambda_softmax must be above 0 and at most 35, but it is 35.5"),
            ({"dim": 0}, "model.dim and model.word_dim must be at least 1, but they are 0 and 300"),
            ({"word_dim": 0}, "model.dim and model.word_dim must be at least 1, but they are 1024 and 0"),
        ],
    )
    def test_values_that_cannot_be(self, options, message):
        jaxtyping.config.update("jaxtyping_disable", True)
        try:
            with pytest.raises(ValueError) as caught:  # noqa: PT011 the message is compared whole
                BFANConfig(**options)
        finally:
            jaxtyping.config.update("jaxtyping_disable", False)
        assert str(caught.value) == message
