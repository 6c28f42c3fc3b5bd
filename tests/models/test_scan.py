import itertools

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
from xattn.losses.constraints import ccr_loss, ccs_loss
from xattn.losses.ranking import hinge_ranking_loss, negative_pairs
from xattn.losses.swaps import different_words, swap_partners
from xattn.metrics.retrieval import retrieval_report
from xattn.models.config import SCANConfig
from xattn.models.encoders import RegionEncoder, WordEncoder, prefix_mask
from xattn.models.fragments import Fragments
from xattn.models.scan import SCAN

SEEDS = st.integers(0, 2**32 - 1)
KINDS = list(itertools.product(["t2i", "i2t"], ["mean", "lse", "max", "sum"]))


def close(ours, expected, tolerance=1e-10):
    torch.testing.assert_close(ours, torch.as_tensor(expected, dtype=ours.dtype), rtol=0, atol=tolerance)


def ragged(generator, sets, length, dim, dtype=torch.double):
    mask = prefix_mask(torch.randint(1, length + 1, (sets,), generator=generator), length)
    vectors = torch.randn(sets, length, dim, generator=generator, dtype=dtype)
    vectors[..., 0] = (
        vectors[..., 0].abs() + 1
    )  # no content cancels, which would cost ours and the oracle's their digits
    return Fragments(vectors * mask[..., None], mask)


def model(direction, aggregation, lambda_softmax=6.0, lambda_lse=5.0):
    return SCAN(
        SCANConfig(direction, aggregation, lambda_softmax, lambda_lse, dim=4, word_dim=3),
        feature_size=5,
        vocabulary_size=7,
    )


def oracle(scan_model, image, caption):
    """The score of one image with one caption, each a `Fragments` of one."""
    config = scan_model.config
    regions, words = oracles.lists(image.vectors[0], image.mask[0]), oracles.lists(caption.vectors[0], caption.mask[0])
    return oracles.scan_score(
        regions, words, config.direction, config.aggregation, config.lambda_softmax, config.lambda_lse
    )


class TestScores:
    @pytest.mark.parametrize(("direction", "aggregation"), KINDS)
    @given(SEEDS, st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.integers(1, 6))
    @settings(max_examples=8)
    def test_oracle(self, direction, aggregation, seed, images, captions, regions, words, dim):
        generator = torch.Generator().manual_seed(seed)
        scan_model = model(direction, aggregation)
        encoded = ragged(generator, images, regions, dim), ragged(generator, captions, words, dim)
        scores = scan_model.score(*encoded)
        expected = [
            [oracle(scan_model, encoded[0][i : i + 1], encoded[1][c : c + 1]) for c in range(captions)]
            for i in range(images)
        ]
        close(scores, expected)

    @pytest.mark.parametrize(("direction", "aggregation"), KINDS)
    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.double, 1e-12), (torch.float32, 1e-5)])
    def test_score_pairs_is_the_diagonal_of_score(self, direction, aggregation, dtype, tolerance):
        generator = torch.Generator().manual_seed(0)
        scan_model = model(direction, aggregation)
        images, captions = ragged(generator, 6, 7, 16, dtype), ragged(generator, 6, 5, 16, dtype)
        scores = scan_model.score(images, captions)
        close(scan_model.score_pairs(images, captions), scores.diagonal(), tolerance)
        rows, columns = torch.tensor([5, 0, 0, 3]), torch.tensor([1, 1, 4, 3])
        close(scan_model.score_pairs(images[rows], captions[columns]), scores[rows, columns], tolerance)

    @pytest.mark.parametrize("direction", ["t2i", "i2t"])
    def test_attend_gives_the_attention_that_the_score_rests_on(self, direction):
        generator = torch.Generator().manual_seed(1)
        scan_model = model(direction, "mean")
        images, captions = ragged(generator, 4, 5, 6), ragged(generator, 4, 3, 6)
        attention = scan_model.attend(images, captions, direction)
        queries, keys = (captions, images) if direction == "t2i" else (images, captions)
        assert attention.weights.shape == (4, queries.mask.shape[1], keys.mask.shape[1])
        for p in range(4):
            vectors = oracles.lists(queries.vectors[p], queries.mask[p]), oracles.lists(keys.vectors[p], keys.mask[p])
            expected = oracles.scan_weights(*vectors, lambda_softmax=6.0)
            close(attention.weights[p][queries.mask[p]][:, keys.mask[p]], expected)
        mean = (attention.relevance * attention.query_mask).sum(1) / attention.query_mask.sum(1)
        close(scan_model.score_pairs(images, captions), mean)

    def test_attending_in_the_other_direction_is_refused(self):
        fragments_ = ragged(torch.Generator().manual_seed(0), 2, 3, 4)
        for direction, other in (("t2i", "i2t"), ("i2t", "t2i")):
            with pytest.raises(ValueError, match=rf"^SCAN attends {direction}, not {other}$"):
                model(direction, "mean").attend(fragments_, fragments_, other)

    @pytest.mark.parametrize(("direction", "aggregation"), KINDS)
    def test_gradients(self, direction, aggregation):
        generator = torch.Generator().manual_seed(5)
        scan_model = model(direction, aggregation, lambda_softmax=4.0)
        images, captions = ragged(generator, 2, 3, 3), ragged(generator, 2, 3, 3)
        similarity = torch.einsum("ird,cwd->icrw", images.vectors, captions.vectors)
        assert similarity[similarity != 0].abs().min() > 1e-4  # away from the kink of the leaky ReLU

        def fragments_of(vectors, like):  # padding stays zero, as the encoders keep it
            return Fragments(vectors * like.mask[..., None], like.mask)

        vectors = [images.vectors.clone().requires_grad_(), captions.vectors.clone().requires_grad_()]
        for score in (scan_model.score, scan_model.score_pairs):
            assert torch.autograd.gradcheck(
                lambda v, t, f=score: f(fragments_of(v, images), fragments_of(t, captions)), vectors
            )


def test_two_threads_add_the_gradients_of_repeated_rows_in_one_order():
    """A batch takes its hardest images and captions again and again; a sum of another order would be another run."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(128, 36, 256, generator=generator).requires_grad_()
    taken, factors = torch.randint(0, 128, (300,), generator=generator), torch.randn(300, 36, 256, generator=generator)
    images = Fragments(vectors, torch.ones(128, 36, dtype=torch.bool))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        gradients = [torch.autograd.grad((images[taken].vectors * factors).sum(), vectors)[0] for _ in range(6)]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(gradients[0], gradient) for gradient in gradients[1:])


class TestEncoders:
    def test_regions(self):
        encoder = RegionEncoder(feature_size=6, dim=4)
        bound = (6 / (6 + 4)) ** 0.5
        assert encoder.fc.weight.abs().max() <= bound
        assert encoder.fc.weight.abs().max() > bound / 2
        assert (encoder.fc.bias == 0).all()
        features, mask = torch.randn(2, 3, 6), torch.tensor([[True, True, False], [True, True, True]])
        vectors = encoder(features, mask)
        close(vectors.norm(dim=-1), mask.float(), 1e-6)
        expected = features[1, 2] @ encoder.fc.weight.T
        close(vectors[1, 2], expected / expected.norm(), 1e-6)

    def test_words_do_not_depend_on_padding_or_company(self):
        encoder = WordEncoder(vocabulary_size=9, word_dim=3, dim=4)
        assert encoder.embed.weight.abs().max() <= 0.1
        tokens = torch.tensor([[1, 5, 6, 2], [1, 7, 2, 0]])
        vectors = encoder(tokens, tokens > 0)
        assert (vectors[1, 3] == 0).all()
        close(vectors.norm(dim=-1), (tokens > 0).float(), 1e-6)
        alone = encoder(tokens[1:, :3], torch.ones(1, 3).bool())
        close(vectors[1, :3], alone[0], 1e-6)
        longer = encoder(torch.nn.functional.pad(tokens, (0, 3)), torch.nn.functional.pad(tokens > 0, (0, 3)))
        close(longer[:, :4], vectors, 1e-6)
        assert longer.shape == (2, 7, 4)

    def test_words_are_the_mean_of_both_directions(self):
        encoder = WordEncoder(vocabulary_size=9, word_dim=3, dim=4)
        tokens = torch.tensor([[1, 5, 2]])
        hidden = encoder.rnn(encoder.embed(tokens))[0]
        mean = (hidden[..., :4] + hidden[..., 4:]) / 2
        close(encoder(tokens, torch.ones(1, 3).bool()), mean / mean.norm(dim=-1, keepdim=True), 1e-6)


class TestFragments:
    def test_index_and_concatenate(self):
        generator = torch.Generator().manual_seed(2)
        first, second = ragged(generator, 2, 3, 4), ragged(generator, 3, 5, 4)
        first = Fragments(first.vectors, first.mask, {"globals": torch.tensor([1.0, 2.0])})
        second = Fragments(second.vectors, second.mask, {"globals": torch.tensor([3.0, 4.0, 5.0])})
        whole = Fragments.concatenate([first, second])
        assert len(whole) == 5
        assert whole.vectors.shape == (5, 5, 4)
        close(whole.vectors[:2, :3], first.vectors)
        assert (whole.vectors[:2, 3:] == 0).all()
        assert whole.mask[:2, 3:].logical_not().all()
        picked = whole[torch.tensor([4, 0, 0])]
        assert picked.extras["globals"].tolist() == [5.0, 1.0, 1.0]
        close(picked.vectors[0], second.vectors[2])
        close(picked.vectors[1, :3], first.vectors[0])


class TestConfig:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"direction": "both"}, "model.direction must be 't2i' or 'i2t', but it is 'both'"),
            ({"aggregation": "median"}, "model.aggregation must be 'mean', 'lse', 'max' or 'sum', but it is 'median'"),
            ({"lambda_softmax": 0.0}, "model.lambda_softmax must be above 0 and at most 35, but it is 0.0"),
            ({"lambda_softmax": 35.5}, "model.lambda_softmax must be above 0 and at most 35, but it is 35.5"),
            ({"lambda_lse": -1.0}, "model.lambda_lse must be above 0, but it is -1.0"),
            ({"dim": 0}, "model.dim and model.word_dim must be at least 1, but they are 0 and 300"),
            ({"word_dim": 0}, "model.dim and model.word_dim must be at least 1, but they are 1024 and 0"),
        ],
    )
    def test_values_that_cannot_be(self, options, message):
        jaxtyping.config.update("jaxtyping_disable", True)
        try:
            with pytest.raises(ValueError) as caught:  # noqa: PT011 the message is compared whole
                SCANConfig(**options)
        finally:
            jaxtyping.config.update("jaxtyping_disable", False)
        assert str(caught.value) == message


def learned(direction, constraint_weight, steps=60):
    """R@1 of both directions, and the losses of the first and the last step, of 16 pairs learned by heart."""
    torch.manual_seed(0)
    scan_model = SCAN(SCANConfig(direction, "mean", dim=32, word_dim=16), feature_size=12, vocabulary_size=40)
    features, counts = torch.randn(16, 5, 12), torch.randint(3, 6, (16,))
    tokens, lengths = torch.randint(4, 40, (16, 6)), torch.randint(3, 7, (16,))
    tokens = tokens * prefix_mask(lengths, 6)
    negatives = negative_pairs(torch.arange(16))
    optimiser = torch.optim.Adam(scan_model.parameters(), lr=1e-2)
    losses = []
    for _ in range(steps):
        images, captions = scan_model.encode_images(features, counts), scan_model.encode_captions(tokens, lengths)
        scores = scan_model.score(images, captions)
        loss = hinge_ranking_loss(scores, negatives)
        if constraint_weight:
            attention = scan_model.attend(images, captions, direction)
            partners, has = swap_partners(scores, negatives, "hard", direction)
            others = captions if direction == "t2i" else images
            allowed = others.mask[partners][:, None] & has[:, None, None]
            if direction == "t2i":
                allowed = allowed & different_words(tokens, tokens[partners], others.mask[partners])
            loss = loss + constraint_weight * (
                ccr_loss(attention) + ccs_loss(attention, others.vectors[partners], allowed)
            )
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in scan_model.parameters())
        optimiser.step()
    with torch.no_grad():
        scores = scan_model.score(
            scan_model.encode_images(features, counts), scan_model.encode_captions(tokens, lengths)
        )
    report = retrieval_report(scores, torch.arange(16))
    return report.image_to_text.r1, report.text_to_image.r1, losses


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
@pytest.mark.parametrize("constraint_weight", [0.0, 0.3])
def test_learns_sixteen_pairs_by_heart(direction, constraint_weight):
    image_to_text, text_to_image, losses = learned(direction, constraint_weight)
    assert (image_to_text, text_to_image) == (100.0, 100.0)
    assert losses[-1] < losses[0] / 4
