import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xattn.losses.swaps import different_words, draw_swaps, of_other_images, swap_partners


@given(st.integers(0, 2**32 - 1), st.integers(0, 4), st.integers(1, 5), st.integers(1, 8))
@settings(max_examples=25)
def test_candidates_are_drawn_once_each(seed, rows, columns, count):
    generator = torch.Generator().manual_seed(seed)
    candidates = torch.rand(rows, columns, generator=generator) < 0.5
    drawn = draw_swaps(candidates, count, generator)
    places = [divmod(place, columns) for place in drawn.tolist()]
    assert len(set(places)) == len(places) == min(count, int(candidates.sum()))
    assert all(candidates[place] for place in places)
    again = torch.Generator().manual_seed(seed)
    torch.rand(rows, columns, generator=again)
    assert torch.equal(draw_swaps(candidates.int(), count, again), drawn)


def test_every_candidate_has_the_same_chance():
    generator, candidates = torch.Generator().manual_seed(0), torch.tensor([[True, False, True], [False, True, True]])
    drawn = torch.cat([draw_swaps(candidates, 2, generator) for _ in range(2000)])
    assert torch.bincount(drawn, minlength=6)[[1, 3]].tolist() == [0, 0]
    assert (torch.bincount(drawn, minlength=6)[[0, 2, 4, 5]] - 1000).abs().max() < 100


def test_what_is_of_the_own_image_is_no_swap():
    allowed = of_other_images(torch.tensor([4, 7, 4]), torch.tensor([7, 4, 9, 4]))
    assert allowed.tolist() == [[[True, False, True, False]], [[False, True, True, True]], [[True, False, True, False]]]


class TestSwapPartners:
    @given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(1, 8))
    @settings(max_examples=40)
    def test_hard_and_random(self, seed, pairs, images):
        generator = torch.Generator().manual_seed(seed)
        scores = torch.randn(pairs, pairs, generator=generator)
        ids = torch.randint(images, (pairs,), generator=generator).tolist()
        negatives = torch.tensor([[a != b for b in ids] for a in ids])
        for direction in ("t2i", "i2t"):
            partners, has = swap_partners(scores, negatives, "hard", direction)
            chances, has_too = swap_partners(scores, negatives, "random", direction, generator)
            for p in range(pairs):
                others = [o for o in range(pairs) if ids[o] != ids[p]]
                assert has[p] == has_too[p] == bool(others)
                if others:
                    score = (lambda o, p=p: scores[p, o]) if direction == "t2i" else (lambda o, p=p: scores[o, p])
                    assert partners[p] == max(others, key=score)
                    assert chances[p].item() in others

    def test_random_is_reproducible_and_reaches_every_negative(self):
        ids = torch.tensor([0, 0, 1, 2, 3])
        negatives = ids[:, None] != ids

        def drawn(seed):
            generator = torch.Generator().manual_seed(seed)
            return torch.stack(
                [swap_partners(torch.zeros(5, 5), negatives, "random", "t2i", generator)[0] for _ in range(60)]
            )

        assert torch.equal(drawn(3), drawn(3))
        assert not torch.equal(drawn(3), drawn(4))
        assert set(drawn(3)[:, 0].tolist()) == {2, 3, 4}
        assert set(drawn(3)[:, 4].tolist()) == {0, 1, 2, 3}

    def test_sentence_is_the_pair_itself(self):
        for direction in ("t2i", "i2t"):
            partners, has = swap_partners(torch.randn(3, 3), torch.zeros(3, 3, dtype=torch.bool), "sentence", direction)
            assert partners.tolist() == [0, 1, 2]
            assert has.all()


def test_different_words():
    words, swapped = torch.tensor([[4, 5, 0]]), torch.tensor([[5, 6, 0]])
    allowed = different_words(words, swapped, torch.tensor([[True, True, False]]))
    assert allowed.tolist() == [[[True, True, False], [False, True, False], [True, True, False]]]
