"""SCAN's scores as `similarity_fct`, against SCAN written in loops from its equations."""

import pytest

pytest.importorskip("sentence_transformers", reason="needs the extra sentence-transformers")

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers.multi_vector_encoder import losses
from sentence_transformers.util.misc import similarity_fct_name

import oracles
from multi_vector_models import DOCUMENTS, NEGATIVES, QUERIES, features_of, real_text_encoder, text_encoder
from xattn.integrations.sentence_transformers.scores import ScanKDScores, ScanPairwiseScores, ScanScores

AGGREGATIONS = ["mean", "lse", "max", "sum"]


def oracle_score(words, tokens, aggregation, lambda_softmax, lambda_lse):
    """Of one query and one document without padding; one without tokens is relevant to nothing."""
    if not tokens:
        return oracles.aggregate([0.0] * len(words), aggregation, lambda_lse)
    return oracles.scan_score(tokens, words, "t2i", aggregation, lambda_softmax, lambda_lse)


def some_batch(seed, n_queries, groups, n, q, k, dim=5):
    """Vectors and masks with holes, of which padding holds NaN; every query has a token, documents may have none."""
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(n_queries, q, dim, generator=generator, dtype=torch.double)
    documents = torch.randn(groups, n, k, dim, generator=generator, dtype=torch.double)
    q_mask, d_mask = (torch.rand(x.shape[:-1], generator=generator) < 0.6 for x in (queries, documents))
    q_mask[torch.arange(n_queries), torch.randint(q, (n_queries,), generator=generator)] = True
    d_mask[0, 0, 0] = True
    queries[~q_mask], documents[~d_mask] = torch.nan, torch.nan
    return queries, documents, q_mask, d_mask


def oracle_scores(queries, documents, q_mask, d_mask, scores):
    options = scores.aggregation, scores.lambda_softmax, scores.lambda_lse
    valid = [query[mask].tolist() for query, mask in zip(queries, q_mask, strict=True)]
    others = [
        document[mask].tolist() for document, mask in zip(documents.flatten(0, 1), d_mask.flatten(0, 1), strict=True)
    ]
    return [[oracle_score(words, tokens, *options) for tokens in others] for words in valid]


sizes = st.tuples(*(st.integers(1, most) for most in (3, 3, 2, 4, 5)))


@given(st.integers(0, 10**6), sizes, st.sampled_from(AGGREGATIONS), st.sampled_from([1.0, 9.0, 20.0]))
@settings(max_examples=40)
def test_scores_of_all_pairs_are_the_oracles(seed, size, aggregation, lambda_softmax):
    scores = ScanScores(aggregation, lambda_softmax, lambda_lse=5.0)
    queries, documents, q_mask, d_mask = some_batch(seed, *size)
    found = scores(queries, documents, queries_mask=q_mask, documents_mask=d_mask.float())
    expected = torch.tensor(oracle_scores(queries, documents, q_mask, d_mask, scores), dtype=torch.double)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    for row in range(min(len(queries), len(documents))):
        own = queries[[row]], documents[[row]]
        alone = ScanKDScores(aggregation, lambda_softmax, 5.0)(
            *own, queries_mask=q_mask[[row]], documents_mask=d_mask[[row]]
        )
        torch.testing.assert_close(alone, found[[row], row * size[2] : (row + 1) * size[2]], rtol=0, atol=1e-9)
        pair = ScanPairwiseScores(aggregation, lambda_softmax, 5.0)
        one = pair(queries[[row]], documents[[row], 0], queries_mask=q_mask[[row]], documents_mask=d_mask[[row], 0])
        torch.testing.assert_close(one, alone[:, 0], rtol=0, atol=1e-9)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_gradients_are_those_of_differences_and_padding_has_none(aggregation):
    queries, documents, q_mask, d_mask = some_batch(3, 2, 2, 2, 3, 4)
    queries, documents = queries.nan_to_num(0.7), documents.nan_to_num(0.7)
    queries.requires_grad_()
    documents.requires_grad_()
    scores = ScanScores(aggregation)

    def scored(queries, documents):
        return scores(queries, documents, queries_mask=q_mask, documents_mask=d_mask)

    assert torch.autograd.gradcheck(scored, (queries, documents), atol=1e-6)
    scored(queries, documents).square().sum().backward()
    assert (queries.grad[~q_mask] == 0).all()
    assert (documents.grad[~d_mask] == 0).all()
    assert (documents.grad[d_mask] != 0).any()


def test_half_precision_is_scored_in_float32():
    queries, documents, q_mask, d_mask = some_batch(4, 3, 2, 2, 4, 5)
    half = queries.nan_to_num().bfloat16(), documents.nan_to_num().bfloat16()
    scores = ScanScores("mean")
    found = scores(*half, queries_mask=q_mask, documents_mask=d_mask)
    assert found.dtype == torch.float32
    exact = scores(half[0].double(), half[1].double(), queries_mask=q_mask, documents_mask=d_mask)
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return text_encoder(tmp_path_factory.mktemp("text"))


def losses_with(model):
    """Each loss that takes the scores, with its columns and labels."""
    pairs, triplets = [QUERIES, DOCUMENTS], [QUERIES, DOCUMENTS, NEGATIVES]
    ranking, cached = (
        losses.MultiVectorMultipleNegativesRankingLoss,
        losses.CachedMultiVectorMultipleNegativesRankingLoss,
    )
    scores, scale = ScanScores("mean"), 20.0
    return [
        (ranking(model, scale=scale, similarity_fct=scores), pairs, None),
        (ranking(model, scale=scale, similarity_fct=scores, score_mini_batch_size=3), triplets, None),
        (cached(model, scale=scale, similarity_fct=scores, mini_batch_size=3), triplets, None),
        (losses.MultiVectorDistillKLDivLoss(model, similarity_fct=ScanKDScores()), triplets, torch.rand(4, 2)),
        (losses.MultiVectorMarginMSELoss(model, similarity_fct=ScanPairwiseScores()), triplets, torch.rand(4)),
    ]


@pytest.mark.parametrize("place", range(5))
def test_every_loss_learns_with_them(model, place):
    """And the cached form has the gradient of the other one."""
    loss, columns, labels = losses_with(model)[place]
    model.zero_grad()
    value = loss(features_of(model, columns), labels)
    value.backward()
    gradient = torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None])
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0
    if place == 2:
        plain, _, _ = losses_with(model)[1]
        model.zero_grad()
        expected = plain(features_of(model, columns))
        expected.backward()
        assert value.item() == pytest.approx(expected.item(), abs=1e-5)
        wanted = torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None])
        torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_real_sentences_find_what_says_the_same(aggregation):
    """With vectors of tokens that mean something, in batches that pad them."""
    model = real_text_encoder()
    queries = ["a dog runs through water", "two children play football", "a red car", "the old man reads a newspaper"]
    documents = [
        "a puppy runs in a lake",
        "kids are playing soccer",
        "a crimson automobile",
        "an elderly man with a paper",
    ]
    read = [model(features, task=features["task"]) for features in features_of(model, [queries, documents])]
    vectors = read[0]["token_embeddings"].detach(), read[1]["token_embeddings"].detach().unsqueeze(1)
    masks = read[0]["attention_mask"].bool(), read[1]["attention_mask"].bool().unsqueeze(1)
    assert not masks[0].all(), "padded"
    scores = ScanScores(aggregation)
    found = scores(*vectors, queries_mask=masks[0], documents_mask=masks[1])
    torch.testing.assert_close(found, torch.tensor(oracle_scores(*vectors, *masks, scores)), rtol=0, atol=1e-5)
    assert found.argmax(1).tolist() == [0, 1, 2, 3]


def test_the_model_card_names_the_options():
    assert similarity_fct_name(ScanScores("lse")) == (
        "ScanScores(aggregation='lse', lambda_softmax=9.0, lambda_lse=6.0)"
    )


def test_user_mistakes_are_one_sentence():
    with pytest.raises(ValueError, match=r"^aggregation must be 'mean', 'lse', 'max', 'sum', but it is 'median'$"):
        ScanScores("median")
    with pytest.raises(ValueError, match=r"^lambda_softmax must be above 0 and at most 35, but it is 36.0$"):
        ScanScores("mean", 36.0)
    with pytest.raises(ValueError, match=r"^lambda_lse must be above 0, but it is 0.0$"):
        ScanScores("lse", 9.0, 0.0)
    vectors = torch.ones(2, 1, 3)
    with pytest.raises(ValueError, match=r"^query 1 has no token that counts, so it has no relevance to anything$"):
        ScanScores()(vectors, vectors[:, None], queries_mask=torch.tensor([[True], [False]]))
