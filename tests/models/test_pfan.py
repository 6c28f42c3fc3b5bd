import dataclasses

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

import oracles
import oracles_pfan
from xattn.metrics.retrieval import retrieval_report
from xattn.models.config import Direction, PFANConfig
from xattn.models.encoders import prefix_mask
from xattn.models.fragments import Fragments
from xattn.models.pfan import PFAN, pair_scores
from xattn.models.pfan_blocks import overlapped_blocks
from xattn.runs.config import RunConfig
from xattn.runtime.errors import InputError
from xattn.training import loss as objective_module
from xattn.training.loss import WordWeights, batch_loss

SEEDS = st.integers(0, 2**32 - 1)
FEATURES, VOCABULARY = 5, 9
BOTH = pytest.mark.parametrize("direction", ["t2i", "i2t"])


def close(ours, expected, tolerance=1e-10):
    torch.testing.assert_close(ours, torch.as_tensor(expected, dtype=ours.dtype), rtol=0, atol=tolerance)


def model(direction: Direction = "t2i", dtype=torch.double, seed=0):
    torch.manual_seed(seed)
    config = PFANConfig(direction, lambda_softmax=6.0, dim=6, word_dim=4, position_dim=3)
    made = PFAN(config, FEATURES, VOCABULARY).to(dtype)
    with torch.no_grad():
        made.words.embed.weight.mul_(30)  # so that words differ, as they do after some training
    return made


def ragged(generator, sets, length, dim, dtype=torch.double):
    mask = prefix_mask(torch.randint(1, length + 1, (sets,), generator=generator), length)
    vectors = torch.randn(sets, length, dim, generator=generator, dtype=dtype)
    vectors[..., 0] = (
        vectors[..., 0].abs() + 1
    )  # no content cancels, which would cost ours and the oracle's their digits
    return Fragments(vectors * mask[..., None], mask)


def random_boxes(generator, *shape, dtype=torch.double):
    """Boxes of all sizes: half of them small, which have missing blocks."""
    corners = torch.rand(*shape, 2, 2, generator=generator, dtype=dtype).sort(-2).values
    is_small = torch.rand(*shape, 1, generator=generator) < 0.5
    corners[..., 1, :] = torch.where(is_small, corners[..., 0, :] + 0.1 * corners[..., 1, :], corners[..., 1, :])
    return corners.flatten(-2)


def published(boxes):
    """The 30 columns of PFAN's own box file."""
    found = overlapped_blocks(boxes)
    return torch.cat([found.ids.to(boxes.dtype), found.overlaps], -1)


def image_data(generator, n, regions, dtype=torch.double):
    """Features, counts and boxes, with rubbish boxes at padding."""
    counts = torch.randint(1, regions + 1, (n,), generator=generator)
    features = torch.randn(n, regions, FEATURES, generator=generator, dtype=dtype)
    boxes = random_boxes(generator, n, regions, dtype=dtype)
    boxes[~prefix_mask(counts, regions)] = torch.nan
    return features, counts, boxes


def caption_data(generator, n, words):
    lengths = torch.randint(1, words + 1, (n,), generator=generator)
    return torch.randint(3, VOCABULARY, (n, words), generator=generator) * prefix_mask(lengths, words), lengths


class TestRegions:
    @given(SEEDS, st.integers(1, 3), st.integers(1, 4), st.booleans())
    @settings(max_examples=15)
    def test_oracle(self, seed, n, regions, are_published):
        generator = torch.Generator().manual_seed(seed)
        pfan_model = model(seed=seed % 1000)
        features, counts, boxes = image_data(generator, n, regions)
        with torch.no_grad():
            encoded = pfan_model.encode_images(
                features, counts, published(boxes.nan_to_num()) if are_published else boxes
            )
        state = {name: weight.tolist() for name, weight in pfan_model.regions.state_dict().items()}
        for image in range(n):
            for region in range(regions):
                expected = [0.0] * 6
                if region < counts[image]:
                    ids, overlaps = oracles_pfan.blocks(boxes[image, region].tolist())
                    expected = oracles_pfan.region(features[image, region].tolist(), ids, overlaps, state)
                close(encoded.vectors[image, region], expected)
        assert torch.equal(encoded.mask, prefix_mask(counts, regions))

    def test_features_come_before_the_position(self):
        pfan_model = model()
        features, counts, boxes = image_data(torch.Generator().manual_seed(0), 2, 3)
        pfan_model.regions.fc.weight.data[:, FEATURES:] = 0
        moved = pfan_model.encode_images(features, counts, boxes.flip(1).nan_to_num())
        assert torch.equal(pfan_model.encode_images(features, counts, boxes).vectors, moved.vectors)

    def test_missing_blocks_take_part_in_both_softmaxes(self):
        """By hand: one block of overlap 1 whose tanh is 0.5, fourteen missing of tanh -0.2."""
        encoder = model().regions
        with torch.no_grad():
            encoder.fc_att.weight.zero_()
            encoder.fc_att.bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
            encoder.position_embedding.weight.zero_()
            encoder.position_embedding.weight[0] = torch.tensor([0.5, 1.0, 0.0]).double().atanh().nan_to_num(posinf=1.0)
            encoder.position_embedding.weight[256] = (
                torch.tensor([-0.2, 0.0, 1.0]).double().atanh().nan_to_num(posinf=1.0)
            )
        corner = torch.tensor([0.0, 0.0, 0.05, 0.05]).double()
        positioned = encoder.positioned(torch.zeros(1, 1, FEATURES).double(), overlapped_blocks(corner[None, None]))
        first = torch.tensor(0.5).double().exp() / (
            torch.tensor(0.5).double().exp() + 14 * torch.tensor(-0.2).double().exp()
        )
        second = first.exp() / (first.exp() + 14)
        close(positioned[0, 0, FEATURES + 1 :], torch.stack([second, 1 - second]).detach())

    def test_the_same_from_boxes_and_from_the_published_columns(self):
        pfan_model = model(dtype=torch.float32)
        features, counts, boxes = image_data(torch.Generator().manual_seed(3), 4, 6, torch.float32)
        from_boxes = pfan_model.encode_images(features, counts, boxes)
        from_columns = pfan_model.encode_images(features, counts, published(boxes.nan_to_num()))
        assert torch.equal(from_boxes.vectors, from_columns.vectors)

    def test_padding_and_company_change_nothing(self):
        generator = torch.Generator().manual_seed(4)
        pfan_model = model()
        features, counts, boxes = image_data(generator, 3, 5)
        encoded = pfan_model.encode_images(features, counts, boxes)
        for image, count in enumerate(counts.tolist()):
            alone = pfan_model.encode_images(
                features[image, None, :count], counts[image, None], boxes[image, None, :count]
            )
            close(encoded.vectors[image, :count], alone.vectors[0].detach(), 1e-14)
            assert (encoded.vectors[image, count:] == 0).all()

    def test_first_weights_and_their_names(self):
        torch.manual_seed(0)
        encoder = PFAN(PFANConfig(), 2048, VOCABULARY).regions
        shapes = {name: tuple(weight.shape) for name, weight in encoder.state_dict().items()}
        assert shapes == {
            "fc.weight": (1024, 2248),
            "fc.bias": (1024,),
            "fc_att.weight": (200, 2048),
            "fc_att.bias": (200,),
            "position_embedding.weight": (257, 200),
        }
        for weight, bound in ((encoder.fc.weight, (6 / (2248 + 1024)) ** 0.5), (encoder.fc_att.weight, 2048**-0.5)):
            assert bound * 0.99 < weight.abs().max() <= bound
        assert (encoder.fc.bias == 0).all()
        assert encoder.position_embedding.weight.mean().item() == pytest.approx(0, abs=0.02)
        assert encoder.position_embedding.weight.std().item() == pytest.approx(1, abs=0.02)

    def test_two_threads_add_the_gradients_of_blocks_in_one_order(self):
        encoder = PFAN(PFANConfig(dim=8, word_dim=4, position_dim=64), 16, VOCABULARY).regions
        generator = torch.Generator().manual_seed(0)
        features = torch.randn(64, 36, 16, generator=generator)
        blocks = overlapped_blocks(random_boxes(generator, 64, 36, dtype=torch.float32))
        factors = torch.randn(64, 36, 80, generator=generator)
        threads = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            loss = (encoder.positioned(features, blocks) * factors).sum()
            weights = [encoder.position_embedding.weight, encoder.fc_att.weight]
            gradients = [torch.autograd.grad(loss, weights, retain_graph=True) for _ in range(5)]
        finally:
            torch.set_num_threads(threads)
        for others in gradients[1:]:
            assert all(torch.equal(*pair) for pair in zip(gradients[0], others, strict=True))


class TestScores:
    @BOTH
    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.double, 1e-10), (torch.float32, 1e-4)])
    @given(SEEDS, st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.integers(1, 6))
    @settings(max_examples=8)
    def test_oracle(self, direction, dtype, tolerance, seed, images, captions, regions, words, dim):
        generator = torch.Generator().manual_seed(seed)
        pfan_model = model(direction, dtype)
        encoded = ragged(generator, images, regions, dim, dtype), ragged(generator, captions, words, dim, dtype)
        sets = [[oracles.lists(part.vectors[n], part.mask[n]) for n in range(len(part))] for part in encoded]
        expected = [[oracles_pfan.score(image, caption, direction, 6.0) for caption in sets[1]] for image in sets[0]]
        close(pfan_model.score(*encoded), expected, tolerance)

    @BOTH
    def test_oracle_from_features_boxes_and_tokens(self, direction):
        generator = torch.Generator().manual_seed(7)
        pfan_model = model(direction)
        features, counts, boxes = image_data(generator, 3, 4)
        captions = pfan_model.encode_captions(*caption_data(generator, 4, 5))
        state = {name: weight.tolist() for name, weight in pfan_model.regions.state_dict().items()}
        images = [
            [
                oracles_pfan.region(feature, *oracles_pfan.blocks(box), state)
                for feature, box in zip(features[n, :count].tolist(), boxes[n, :count].tolist(), strict=True)
            ]
            for n, count in enumerate(counts.tolist())
        ]
        sentences = [oracles.lists(captions.vectors[n], captions.mask[n]) for n in range(4)]
        expected = [[oracles_pfan.score(image, sentence, direction, 6.0) for sentence in sentences] for image in images]
        close(pfan_model.score(pfan_model.encode_images(features, counts, boxes), captions).detach(), expected)

    @BOTH
    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.double, 1e-12), (torch.float32, 1e-5)])
    def test_score_pairs_is_the_diagonal_of_score(self, direction, dtype, tolerance):
        generator = torch.Generator().manual_seed(0)
        pfan_model = model(direction, dtype)
        images, captions = ragged(generator, 6, 7, 16, dtype), ragged(generator, 6, 5, 16, dtype)
        scores = pfan_model.score(images, captions)
        close(pfan_model.score_pairs(images, captions), scores.diagonal(), tolerance)
        rows, columns = torch.tensor([5, 0, 0, 3]), torch.tensor([1, 1, 4, 3])
        close(pfan_model.score_pairs(images[rows], captions[columns]), scores[rows, columns], tolerance)

    @BOTH
    def test_padding_changes_no_score(self, direction):
        generator = torch.Generator().manual_seed(1)
        pfan_model = model(direction)
        images, captions = ragged(generator, 3, 4, 6), ragged(generator, 3, 5, 6)
        longer = [
            Fragments(functional.pad(part.vectors, (0, 0, 0, 3)), functional.pad(part.mask, (0, 3)))
            for part in (images, captions)
        ]
        close(pfan_model.score(*longer), pfan_model.score(images, captions), 1e-12)
        close(pfan_model.score_pairs(*longer), pfan_model.score_pairs(images, captions), 1e-12)

    @BOTH
    def test_attend_gives_the_attention_that_the_score_rests_on(self, direction):
        generator = torch.Generator().manual_seed(1)
        pfan_model = model(direction)
        images, captions = ragged(generator, 4, 5, 6), ragged(generator, 4, 3, 6)
        attention = pfan_model.attend(images, captions, direction)
        queries, keys = (captions, images) if direction == "t2i" else (images, captions)
        for p in range(4):
            vectors = oracles.lists(queries.vectors[p], queries.mask[p]), oracles.lists(keys.vectors[p], keys.mask[p])
            close(
                attention.weights[p][queries.mask[p]][:, keys.mask[p]],
                oracles.scan_weights(*vectors, lambda_softmax=6.0),
            )
        assert list(pfan_model.match(images, captions).attentions) == [direction]

    def test_coarser_products(self):
        generator = torch.Generator().manual_seed(2)
        pfan_model = model(dtype=torch.float32)
        images, captions = ragged(generator, 3, 4, 6, torch.float32), ragged(generator, 3, 5, 6, torch.float32)
        with torch.no_grad():
            expected = pfan_model.score(images, captions)
            coarse = pfan_model.score(images, captions, torch.bfloat16)
        assert coarse.dtype == torch.float32
        assert not torch.equal(coarse, expected)
        close(coarse, expected, 0.05)

    def test_by_hand(self):
        relevance, largest = torch.tensor([[0.5, -0.1, 0.9]]), torch.tensor([[0.8, 0.4, 1.0]])
        mask = torch.tensor([[True, True, False]])
        close(pair_scores(relevance, None, mask), [0.2], 1e-7)
        close(pair_scores(relevance, largest, mask), [0.2 + 0.3], 1e-7)


class LoopForm:
    """PFAN and its losses pair by pair and fragment by fragment, with every content built, differentiable
    throughout."""

    def __init__(self, pfan_model, features, counts, boxes, tokens, lengths, word_weights):
        self.model, self.tokens, self.word_weights = pfan_model, tokens, word_weights
        self.images = [
            [self.region(features[n, r], *oracles_pfan.blocks(boxes[n, r].tolist())) for r in range(count)]
            for n, count in enumerate(counts.tolist())
        ]
        self.captions = []
        for n, length in enumerate(lengths.tolist()):
            words = pfan_model.words(tokens[n : n + 1, :length], torch.ones(1, length, dtype=torch.bool))
            self.captions.append(list(words[0]))

    def region(self, feature, ids, overlaps):
        weights = self.model.regions
        embedded = torch.stack([weights.position_embedding.weight[block] for block in ids])
        asked = weights.fc_att.weight @ feature + weights.fc_att.bias
        attended = functional.softmax(torch.tanh(embedded @ asked), 0) * torch.tensor(overlaps, dtype=torch.double)
        position = functional.softmax(attended, 0) @ embedded
        vector = weights.fc.weight @ torch.cat([feature, position]) + weights.fc.bias
        return vector / (vector.norm() + 1e-8)

    def attention(self, image, caption):
        """Queries, keys and weights of an image with a caption."""
        t2i = self.model.config.direction == "t2i"
        queries, keys = (
            (self.captions[caption], self.images[image]) if t2i else (self.images[image], self.captions[caption])
        )
        similarity = torch.stack([torch.stack([query @ key for key in keys]) for query in queries])
        rectified = functional.leaky_relu(similarity, 0.1)
        weights = functional.softmax(6.0 * rectified / (rectified.norm(dim=0) + 1e-8), 1)
        return queries, keys, weights

    def score(self, image, caption):
        queries, keys, weights = self.attention(image, caption)
        each = [relevance(query, row, keys) for query, row in zip(queries, weights, strict=True)]
        if self.model.config.direction == "t2i":
            each = [value + 0.5 * row.max() for value, row in zip(each, weights, strict=True)]
        return torch.stack(each).mean()

    def loss(self, config):
        n = len(self.images)
        scores = [[self.score(image, caption) for caption in range(n)] for image in range(n)]
        loss = torch.zeros((), dtype=torch.double)
        for p in range(n):
            others = [other for other in range(n) if other != p]
            loss = loss + max(hinge(config.matching.margin, scores[p][p], scores[p][o]) for o in others)
            loss = loss + max(hinge(config.matching.margin, scores[p][p], scores[o][p]) for o in others)
            t2i = self.model.config.direction == "t2i"
            partner = max(others, key=lambda o, p=p: (scores[p][o] if t2i else scores[o][p]).item())
            ccr, ccs, counts = [], [], []
            queries, keys, weights = self.attention(p, p)
            swapped = self.captions[partner] if t2i else self.images[partner]
            for i, (query, row) in enumerate(zip(queries, weights, strict=True)):
                own = relevance(query, row, keys)
                counts.append(self.word_weights[self.tokens[p, i]].item() if t2i else 1.0)
                ccr.append(hinge(config.ccr.margin, own, relevance(query, (1 - row) / (len(keys) - 1), keys)))
                allowed = [
                    other
                    for s, other in enumerate(swapped)
                    if not t2i or self.may_swap(self.tokens[p, i], self.tokens[partner, s])
                ]
                ccs.append(hinge(config.ccs.margin, own, max(relevance(other, row, keys) for other in allowed)))
            for weight, hinges in ((config.ccr.weight, ccr), (config.ccs.weight, ccs)):
                loss = loss + weight * sum(c * value for c, value in zip(counts, hinges, strict=True)) / sum(counts)
        return loss

    def may_swap(self, word, other):
        return word != other and self.word_weights[other] > 0


def hinge(margin, own, other):
    return (margin - own + other).clamp_min(0)


def relevance(query, row, keys):
    content = torch.stack([w * key for w, key in zip(row, keys, strict=True)]).sum(0)
    return query @ content / (query.norm() * content.norm())


def run_config(pfan_model, constraints="both", weight=0.7):
    config = RunConfig()
    return dataclasses.replace(
        config,
        model=pfan_model.config,
        constraints=constraints,
        matching=dataclasses.replace(config.matching, all_negatives_epochs=0),
        ccr=dataclasses.replace(config.ccr, weight=weight, margin=0.8, from_epoch=1),
        ccs=dataclasses.replace(config.ccs, weight=weight, margin=0.5, from_epoch=1, swap="hard"),
    )


class TestGradients:
    @BOTH
    @pytest.mark.parametrize("share", [0.0, 1.0], ids=["all at once", "one by one"])
    def test_ranking_and_constraints(self, direction, share, monkeypatch):
        monkeypatch.setattr(objective_module, "SPARSE_SHARE", share)
        generator = torch.Generator().manual_seed(8)
        pfan_model = model(direction)
        features, boxes = torch.randn(4, 4, FEATURES, generator=generator).double(), random_boxes(generator, 4, 4)
        counts, lengths = torch.tensor([4, 2, 3, 4]), torch.tensor([3, 5, 4, 2])
        tokens = torch.randint(3, VOCABULARY, (4, 5), generator=generator) * prefix_mask(lengths, 5)
        word_weights = torch.tensor([0, 0, 0, 0.5, 1, 1, 0.25, 1, 1]).double()
        images, captions = (
            pfan_model.encode_images(features, counts, boxes),
            pfan_model.encode_captions(tokens, lengths),
        )
        config = run_config(pfan_model)
        found = batch_loss(
            pfan_model, images, captions, tokens, torch.arange(4), config, 1, WordWeights(word_weights, word_weights)
        )
        assert all(found.terms[name] > 0 for name in ("match", f"ccr_{direction}", f"ccs_{direction}"))
        expected = LoopForm(pfan_model, features, counts, boxes, tokens, lengths, word_weights).loss(config)
        close(found.loss.detach(), expected.detach())
        names, parameters = zip(*pfan_model.named_parameters(), strict=True)
        gradients = [torch.autograd.grad(loss, parameters) for loss in (found.loss, expected)]
        for name, ours, theirs in zip(names, *gradients, strict=True):
            assert theirs.abs().max() > 1e-6, name
            close(ours, theirs, 1e-9)

    @BOTH
    def test_gradcheck(self, direction):
        generator = torch.Generator().manual_seed(5)
        pfan_model = model(direction)
        images, captions = ragged(generator, 2, 3, 3), ragged(generator, 2, 3, 3)
        vectors = [images.vectors.clone().requires_grad_(), captions.vectors.clone().requires_grad_()]

        def fragments_of(vectors, like):  # padding stays zero, as the encoders keep it
            return Fragments(vectors * like.mask[..., None], like.mask)

        for score in (pfan_model.score, pfan_model.score_pairs):
            assert torch.autograd.gradcheck(
                lambda v, t, f=score: f(fragments_of(v, images), fragments_of(t, captions)), vectors
            )


def learned(direction, constraints, steps=50):
    """R@1 of both directions in evaluation, and the losses of all steps, of 16 pairs learned by heart."""
    torch.manual_seed(0)
    pfan_model = PFAN(
        PFANConfig(direction, dim=32, word_dim=16, position_dim=8), feature_size=12, vocabulary_size=40
    ).train()
    generator = torch.Generator().manual_seed(0)
    features, counts = torch.randn(16, 5, 12, generator=generator), torch.randint(3, 6, (16,), generator=generator)
    boxes = random_boxes(generator, 16, 5, dtype=torch.float32)
    lengths = torch.randint(3, 7, (16,), generator=generator)
    tokens = torch.randint(4, 40, (16, 6), generator=generator) * prefix_mask(lengths, 6)
    words = (torch.arange(40) > 3).float()
    optimiser = torch.optim.Adam(pfan_model.parameters(), lr=1e-2)
    losses = []
    for _ in range(steps):
        images, captions = (
            pfan_model.encode_images(features, counts, boxes),
            pfan_model.encode_captions(tokens, lengths),
        )
        config = run_config(pfan_model, constraints, weight=0.3)
        loss = batch_loss(
            pfan_model, images, captions, tokens, torch.arange(16), config, 1, WordWeights(words, words)
        ).loss
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        assert all(
            parameter.grad is not None and parameter.grad.isfinite().all() for parameter in pfan_model.parameters()
        )
        optimiser.step()
    pfan_model.eval()
    with torch.no_grad():
        scores = pfan_model.score(
            pfan_model.encode_images(features, counts, boxes), pfan_model.encode_captions(tokens, lengths)
        )
    report = retrieval_report(scores, torch.arange(16))
    return report.image_to_text.r1, report.text_to_image.r1, losses


@BOTH
@pytest.mark.parametrize("constraints", ["none", "both"])
def test_learns_sixteen_pairs_by_heart(direction, constraints):
    image_to_text, text_to_image, losses = learned(direction, constraints)
    assert (image_to_text, text_to_image) == (100.0, 100.0)
    assert losses[-1] < losses[0] / 4


class TestErrors:
    def test_no_boxes(self):
        assert PFAN.needs_boxes
        with pytest.raises(InputError) as caught:
            model().encode_images(torch.zeros(2, 3, FEATURES).double(), torch.tensor([3, 2]))
        assert str(caught.value) == (
            "PFAN needs to know where regions lie: either {split}_boxes.npy with their boxes in pixels and "
            "{split}_images.jsonl with "
            "the sizes of the images, or PFAN's own file of blocks and overlaps as {split}_boxes.npy"
        )

    def test_boxes_of_another_form(self):
        with pytest.raises(InputError, match=r"^expected boxes of shape \(2, 3, 4\), .*, found \(2, 3, 6\)$"):
            model().encode_images(torch.zeros(2, 3, FEATURES).double(), torch.tensor([3, 2]), torch.zeros(2, 3, 6))

    def test_an_id_that_is_no_blocks(self):
        columns = torch.zeros(2, 3, 30)
        columns[1, 1, 3] = 300
        with pytest.raises(
            InputError,
            match=r"^expected block ids to be whole numbers from 0 to 256, .* in image 1 of the batch, region 1$",
        ):
            model().encode_images(torch.zeros(2, 3, FEATURES).double(), torch.tensor([3, 2]), columns)

    @BOTH
    def test_attending_in_the_other_direction(self, direction):
        other = "i2t" if direction == "t2i" else "t2i"
        fragments = ragged(torch.Generator().manual_seed(0), 2, 3, 4)
        with pytest.raises(ValueError, match=rf"^PFAN attends {direction}, not {other}$"):
            model(direction).attend(fragments, fragments, other)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"direction": "both"}, "model.direction must be 't2i' or 'i2t', but it is 'both'"),
            ({"lambda_softmax": 0.0}, "model.lambda_softmax must be above 0 and at most 35, but it is 0.0"),
            ({"lambda_softmax": 35.5}, "model.lambda_softmax must be above 0 and at most 35, but it is 35.5"),
            (
                {"dim": 0},
                "model.dim, model.word_dim and model.position_dim must be at least 1, but they are (0, 300, 200)",
            ),
            (
                {"word_dim": 0},
                "model.dim, model.word_dim and model.position_dim must be at least 1, but they are (1024, 0, 200)",
            ),
            (
                {"position_dim": 0},
                "model.dim, model.word_dim and model.position_dim must be at least 1, but they are (1024, 300, 0)",
            ),
        ],
    )
    def test_values_that_cannot_be(self, options, message):
        jaxtyping.config.update("jaxtyping_disable", True)
        try:
            with pytest.raises(ValueError) as caught:  # noqa: PT011 the message is compared whole
                PFANConfig(**options)
        finally:
            jaxtyping.config.update("jaxtyping_disable", False)
        assert str(caught.value) == message

    def test_published_settings_are_the_defaults(self):
        assert dataclasses.asdict(PFANConfig()) == {
            "name": "pfan", "direction": "t2i", "lambda_softmax": 9.0, "dim": 1024, "word_dim": 300,
            "position_dim": 200, "prior": 0.0, "learn_prior": False, "prior_area": 0.0,
        }  # fmt: skip
