import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xattn.losses.batch_swaps import draw_swaps, of_other_images


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
