import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles_pfan
from xattn.models.pfan_blocks import overlapped_blocks, region_blocks
from xattn.runtime.errors import InputError

ANY = st.floats(-0.1, 1.1)
ON_A_GRID = st.integers(0, 64).map(lambda part: part / 64)
OF_PIXELS = st.integers(0, 500).map(lambda pixel: pixel / 500)
BOXES = st.one_of(*(st.tuples(kind, kind, kind, kind) for kind in (ANY, ON_A_GRID, OF_PIXELS)))


def proper(box):
    x1, y1, x2, y2 = box
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


def sixteenths(*box, dtype=torch.double):
    """A box whose coordinates are counted in blocks."""
    return torch.tensor(box, dtype=dtype) / 16


class TestOverlappedBlocks:
    @given(st.lists(BOXES.map(proper), min_size=1, max_size=6))
    @settings(max_examples=60)
    def test_oracle(self, boxes):
        found = overlapped_blocks(torch.tensor(boxes, dtype=torch.double))
        for box, ids, overlaps in zip(boxes, found.ids.tolist(), found.overlaps.tolist(), strict=True):
            expected_ids, expected_overlaps = oracles_pfan.blocks(box)
            assert ids == expected_ids
            assert overlaps == pytest.approx(expected_overlaps, rel=0, abs=1e-12)

    @given(BOXES.map(proper))
    @settings(max_examples=60)
    def test_overlaps_are_the_shares_of_the_largest_areas(self, box):
        """Against areas of coordinates as they are, which says nothing of ties."""
        areas = [oracles_pfan.area(box, block) for block in range(256)]
        ids, overlaps = (part.tolist() for part in overlapped_blocks(torch.tensor(box, dtype=torch.double)))
        kept = [areas[block] if block < 256 else 0.0 for block in ids]
        assert kept == pytest.approx(sorted(areas, reverse=True)[:15], rel=0, abs=1e-5)
        assert [overlap * sum(kept) for overlap in overlaps] == pytest.approx(kept, rel=0, abs=1e-4)
        assert overlaps == sorted(overlaps, reverse=True)
        assert sum(overlaps) == pytest.approx(1 if sum(kept) > 1e-4 else sum(overlaps))
        real = [block for block in ids if block < 256]
        assert len(set(real)) == len(real)
        assert ids == real + [256] * (15 - len(real))

    def test_the_whole_image_keeps_the_blocks_in_its_middle(self):
        found = overlapped_blocks(torch.tensor([0.0, 0.0, 1.0, 1.0]))
        assert found.ids.tolist() == [119, 120, 135, 136, 103, 104, 118, 121, 134, 137, 151, 152, 102, 105, 150]
        assert found.overlaps.tolist() == pytest.approx([1 / 15] * 15)

    @pytest.mark.parametrize("block", [0, 15, 17, 240, 255])
    def test_a_box_that_is_one_block(self, block):
        row, column = divmod(block, 16)
        found = overlapped_blocks(sixteenths(column, row, column + 1, row + 1))
        assert found.ids.tolist() == [block] + [256] * 14
        assert found.overlaps.tolist() == [1.0] + [0.0] * 14

    def test_a_box_over_parts_of_blocks(self):
        found = overlapped_blocks(sixteenths(2.25, 5, 4.5, 5.5))
        assert found.ids.tolist()[:4] == [83, 82, 84, 256]
        assert found.overlaps.tolist()[:4] == pytest.approx([1 / 2.25, 0.75 / 2.25, 0.5 / 2.25, 0], abs=1e-6)

    @pytest.mark.parametrize("dtype", [torch.double, torch.float32])
    def test_rounding_decides_no_tie(self, dtype):
        """Both ends share 0.2 of a block with the box, which no float says exactly."""
        found = overlapped_blocks(sixteenths(4.8, 0, 9.2, 1, dtype=dtype))
        assert found.ids.tolist()[:6] == [6, 7, 5, 8, 4, 9]

    def test_part_of_a_box_outside_its_image_does_not_count(self):
        inside, outside = sixteenths(0, 14, 2, 16), sixteenths(-3, 14, 2, 20)
        assert all(
            torch.equal(*pair) for pair in zip(overlapped_blocks(inside), overlapped_blocks(outside), strict=True)
        )

    @pytest.mark.parametrize(
        "box",
        [
            (0.3, 0.3, 0.3, 0.8),
            (0.3, 0.3, 0.8, 0.3),
            (0.5, 0.5, 0.5, 0.5),
            (0.31, 0.1, 0.3, 0.9),
            (0.1, 0.91, 0.3, 0.9),
            (1, 0, 1.1, 1),
        ],
    )
    def test_a_box_without_area_keeps_no_block(self, box):
        found = overlapped_blocks(torch.tensor(box))
        assert found.ids.tolist() == [256] * 15
        assert found.overlaps.tolist() == [0.0] * 15

    def test_precisions_and_leading_dimensions(self):
        generator = torch.Generator().manual_seed(0)
        boxes = torch.rand(3, 4, 2, 2, generator=generator).sort(2).values.flatten(2)
        found = overlapped_blocks(boxes)
        assert found.ids.shape == found.overlaps.shape == (3, 4, 15)
        assert found.overlaps.dtype == torch.float32
        doubled = overlapped_blocks(boxes.double())
        assert torch.equal(found.ids, doubled.ids)
        assert doubled.overlaps.dtype == torch.double
        torch.testing.assert_close(found.overlaps, doubled.overlaps.float())
        alone = overlapped_blocks(boxes[2, 1])
        assert torch.equal(alone.ids, found.ids[2, 1])
        assert torch.equal(alone.overlaps, found.overlaps[2, 1])
        assert overlapped_blocks(boxes.half()).overlaps.dtype == torch.float32


MASK = torch.tensor([[True, True, False], [True, True, True]])


def plain_boxes():
    return torch.tensor([0.1, 0.2, 0.6, 0.9]).repeat(2, 3, 1)


def published(boxes):
    """PFAN's 30 columns."""
    found = overlapped_blocks(boxes)
    return torch.cat([found.ids.to(boxes.dtype), found.overlaps], -1)


class TestRegionBlocks:
    @pytest.mark.parametrize("form", [plain_boxes, lambda: published(plain_boxes())])
    def test_padding_is_not_looked_at(self, form):
        boxes = form()
        expected = region_blocks(boxes, MASK)
        for rubbish in (torch.nan, torch.inf, -7.5, 1e9):
            boxes[0, 2] = rubbish
            found = region_blocks(boxes, MASK)
            assert torch.equal(found.ids, expected.ids)
            assert torch.equal(found.overlaps, expected.overlaps)
        assert (expected.ids[~MASK] == 256).all()
        assert (expected.overlaps[~MASK] == 0).all()
        assert torch.equal(expected.ids[MASK], overlapped_blocks(plain_boxes()).ids[MASK])

    def test_published_columns_are_taken_as_they_are(self):
        columns = torch.zeros(1, 1, 30)
        columns[..., :15] = torch.tensor([255.0, 0.0, 7.0] + [256.0] * 12)
        columns[..., 15:18] = torch.tensor([0.5, 0.25, 0.25])
        found = region_blocks(columns, torch.ones(1, 1, dtype=torch.bool))
        assert found.ids.dtype == torch.long
        assert found.ids[0, 0].tolist() == [255, 0, 7] + [256] * 12
        assert found.overlaps[0, 0].tolist() == [0.5, 0.25, 0.25] + [0.0] * 12

    def test_a_pixel_outside_is_no_mistake(self):
        """As far out as data folders allow: a pixel beyond an image that may be one pixel large."""
        region_blocks(torch.tensor([-1.0, -1.0, 2.0, 2.0]).repeat(2, 3, 1), MASK)

    @pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 15), (2, 2, 4), (1, 3, 30), (2, 3)])
    def test_other_shapes(self, shape):
        with pytest.raises(InputError) as caught:
            region_blocks(torch.zeros(shape), MASK)
        assert str(caught.value) == (
            "expected boxes of shape (2, 3, 4), x1 y1 x2 y2, or (2, 3, 30), PFAN's 15 block ids and 15 overlaps, "
            f"found {shape}"
        )

    @pytest.mark.parametrize(
        ("value", "shown"), [(torch.nan, "nan"), (torch.inf, "inf"), (-1.25, "-1.25"), (213.0, "213")]
    )
    def test_boxes_that_cannot_be(self, value, shown):
        boxes = plain_boxes()
        boxes[1, 2, 3] = value
        with pytest.raises(InputError) as caught:
            region_blocks(boxes, MASK)
        assert str(caught.value) == (
            f"expected x1 y1 x2 y2 in units of the image's width and height, found 0.1, 0.2, 0.6, {shown} in image 1 "
            "of the batch, region 2"
        )

    @pytest.mark.parametrize(
        ("value", "shown"), [(257.0, "257"), (-1.0, "-1"), (3.5, "3.5"), (torch.nan, "nan"), (torch.inf, "inf")]
    )
    def test_ids_that_cannot_be(self, value, shown):
        columns = torch.zeros(2, 3, 30)
        columns[0, 1, 14] = value
        with pytest.raises(InputError) as caught:
            region_blocks(columns, MASK)
        zeros = "0, " * 14
        assert str(caught.value) == (
            f"expected block ids to be whole numbers from 0 to 256, found {zeros}{shown} in image 0 of the batch, "
            "region 1"
        )

    @pytest.mark.parametrize(
        ("value", "shown"), [(1.5, "1.5"), (-0.25, "-0.25"), (torch.nan, "nan"), (torch.inf, "inf")]
    )
    def test_overlaps_that_cannot_be(self, value, shown):
        columns = torch.zeros(2, 3, 30)
        columns[1, 0, 15] = value
        with pytest.raises(InputError) as caught:
            region_blocks(columns, MASK)
        zeros = ", 0" * 14
        assert str(caught.value) == (
            f"expected the overlaps of blocks to lie in [0, 1], found {shown}{zeros} in image 1 of the batch, region 0"
        )
