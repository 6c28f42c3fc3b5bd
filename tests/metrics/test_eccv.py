"""ECCV Caption and CxC: our ranked lists, through the package's own figures, against rankings of which the figures are
known."""

import numpy as np
import pytest
import torch

from xattn.metrics.eccv import TopRanked, coco_image_ids, eccv_metrics, eccv_report
from xattn.runtime.errors import InputError

pytest.importorskip("eccv_caption", reason="the extra eccv is not installed")


@pytest.fixture(scope="module")
def metrics():
    return eccv_metrics()


@pytest.fixture(scope="module")
def coco(metrics):
    """The ids of COCO's test captions, in their order, and the row of each one's image."""
    ids = [int(name) for name in metrics.coco_ids]
    images = list(dict.fromkeys(metrics.coco_gts["t2i"][name][0] for name in ids))
    place = {image: row for row, image in enumerate(images)}
    return ids, images, torch.tensor([place[metrics.coco_gts["t2i"][name][0]] for name in ids])


@pytest.mark.parametrize("longest", [1, 3, 20])
def test_the_best_of_scores_that_come_in_blocks(longest):
    scores = torch.from_numpy(np.random.default_rng(0).permutation(70).reshape(7, 10).astype(np.float32))
    ranked = TopRanked(7, 10, longest)
    for rows in torch.arange(7).split(3):
        for columns in torch.randperm(10).split(4):
            ranked.add(rows, columns, scores[rows][:, columns])
    by_row = [sorted(range(10), key=lambda caption, row=row: -float(scores[row, caption])) for row in range(7)]
    by_column = [
        sorted(range(7), key=lambda row, caption=caption: -float(scores[row, caption])) for caption in range(10)
    ]
    assert ranked.captions.candidates.tolist() == [best[: min(longest, 10)] for best in by_row]
    assert ranked.images.candidates.tolist() == [best[: min(longest, 7)] for best in by_column]


def test_images_are_found_by_their_captions(metrics, coco):
    ids, images, caption_image = coco
    assert len(ids) == 25000
    assert coco_image_ids([str(name) for name in ids], caption_image, metrics) == images


def ranked_by(metrics, coco, kind):
    """Lists that begin with the right ones of `kind`; what follows is the last of all, over and over, and asked for by
    nothing."""
    ids, images, _ = coco
    caption_row, image_row = (
        {name: row for row, name in enumerate(ids)},
        {image: row for row, image in enumerate(images)},
    )
    ranked = TopRanked(len(images), len(ids))
    right = getattr(metrics, f"{kind}_gts")
    for lists, queries, candidates, side in (
        (ranked.captions, image_row, caption_row, "i2t"),
        (ranked.images, caption_row, image_row, "t2i"),
    ):
        for name in right[side]:
            row = queries[name]
            best = [candidates[other] for other in right[side][name] if other in candidates]
            lists.candidates[row, : len(best)] = torch.tensor(best, dtype=torch.long)
    return ranked


def test_a_ranking_that_knows_all_is_perfect(metrics, coco):
    ids, images, _ = coco
    found = eccv_report(ranked_by(metrics, coco, "eccv"), images, [str(name) for name in ids], metrics)
    assert set(found) == {"eccv_map_at_r", "eccv_rprecision", "eccv_r1", "cxc_r1", "cxc_r5", "cxc_r10"}
    assert found["eccv_r1"] == {"i2t": 100.0, "t2i": 100.0}
    for name in ("eccv_map_at_r", "eccv_rprecision"):
        assert found[name]["t2i"] == 100
        assert 99.9 < found[name]["i2t"] < 100  # the package takes two captions as right that are not among the 25,000
    found = eccv_report(ranked_by(metrics, coco, "cxc"), images, [str(name) for name in ids], metrics)
    assert found["cxc_r1"] == {"i2t": 100.0, "t2i": 100.0}
    assert found["eccv_r1"]["i2t"] < 100


def test_the_figures_of_a_ranking_by_chance_by_hand(metrics, coco):
    """R-Precision: the share of right ones among the first R, R being how many there are; read off our lists in a
    loop."""
    ids, images, _ = coco
    rng = np.random.default_rng(1)
    ranked = TopRanked(len(images), len(ids))
    for lists, right, queries, candidates in (
        (ranked.captions, metrics.eccv_gts["i2t"], images, ids),
        (ranked.images, metrics.eccv_gts["t2i"], ids, images),
    ):
        place = {name: row for row, name in enumerate(candidates)}
        row_of = {name: row for row, name in enumerate(queries)}
        for name in right:
            row = row_of[name]
            half = [place[other] for other in right[name] if other in place][::2]
            rest = rng.permutation(1000)[:64] * (len(candidates) // 1000)
            chosen = list(dict.fromkeys([*half, *rest.tolist()]))[:64]
            lists.candidates[row] = torch.tensor(rng.permutation(chosen))
    found = eccv_report(ranked, images, [str(name) for name in ids], metrics)
    for side, lists, queries, candidates in (
        ("i2t", ranked.captions, images, ids),
        ("t2i", ranked.images, ids, images),
    ):
        row_of = {name: row for row, name in enumerate(queries)}
        shares, firsts = [], []
        for name, right in metrics.eccv_gts[side].items():
            best = [candidates[place] for place in lists.candidates[row_of[name]].tolist()]
            shares.append(len(set(best[: len(set(right))]) & set(right)) / len(set(right)))
            firsts.append(best[0] in right)
        assert found["eccv_rprecision"][side] == pytest.approx(100 * np.mean(shares))
        assert found["eccv_r1"][side] == pytest.approx(100 * np.mean(firsts))


def test_captions_of_another_split_are_refused(metrics, coco):
    ids, _, caption_image = coco
    with pytest.raises(InputError) as caught:
        coco_image_ids([*map(str, ids[:-2]), "x", "1"], caption_image, metrics)
    assert (
        str(caught.value)
        == "ECCV Caption is about COCO's 25,000 test captions, of which 2 are not among the split's ids"
    )
    moved = caption_image.clone()
    moved[0] = 1
    with pytest.raises(InputError, match=r"the caption \d+ is of the image \d+ in COCO, but of \d+ by its image row 1"):
        coco_image_ids([str(name) for name in ids], moved, metrics)
