"""The bound of SGRAF multiplies as often as its head says, counted by PyTorch."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from xattn.models.config import SGRAFConfig
from xattn.models.encoders import prefix_mask
from xattn.models.fragments import Fragments
from xattn.models.sgraf import SGRAF


@pytest.mark.parametrize("module", ["sgr", "saf"])
def test_multiplications(module, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    from sgraf_products import sgraf_products_alone

    dim, sim, regions, n_images, lengths = 8, 6, 5, 7, [2, 4, 4, 3]
    model = SGRAF(SGRAFConfig(module, dim=dim, word_dim=4, sim_dim=sim, regions=regions), 3, 9)
    mask = prefix_mask(torch.tensor(lengths), 4)
    images = Fragments(torch.rand(n_images, regions, dim), torch.ones(n_images, regions, dtype=torch.bool))
    captions = Fragments(torch.rand(len(lengths), 4, dim) * mask[..., None], mask)
    expected = 0
    for n in lengths:
        expected += 2 * n * regions * dim + sim * dim + n * sim * dim
        if module == "sgr":
            expected += 2 * (2 * (n + 1) * sim**2 + 2 * (n + 1) ** 2 * sim) + 2 * sim**2
        expected += 2 * (n + 1) * sim
    tasks = sgraf_products_alone(model, images, captions)
    assert {name.split()[0] for name in tasks} == {"256", "512", "1024"}
    for task in tasks.values():
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            task()
        assert counter.get_total_flops() == 2 * n_images * expected
