"""Boxes of patches, against the convolution that cuts them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xattn.integrations.transformers.patches import patch_boxes, patch_shares
from xattn.runtime.errors import InputError


@given(width=st.integers(4, 30), height=st.integers(4, 30), across=st.integers(1, 4), down=st.integers(1, 4))
def test_each_box_is_what_the_convolution_sees(width, height, across, down):
    """A picture whose pixels are all different: the sum over a box is what a convolution of ones gives there."""
    picture = torch.arange(width * height, dtype=torch.float64).view(1, 1, height, width).square()
    ones = torch.ones(1, 1, down, across, dtype=torch.float64)
    expected = torch.nn.functional.conv2d(picture, ones, stride=(down, across)).flatten()
    boxes = patch_boxes(width, height, (across, down))
    sums = [picture[0, 0, int(y1) : int(y2), int(x1) : int(x2)].sum() for x1, y1, x2, y2 in boxes.tolist()]
    torch.testing.assert_close(torch.stack(sums), expected)
    torch.testing.assert_close(patch_shares(width, height, (across, down)) * torch.tensor([width, height] * 2), boxes)


@pytest.mark.parametrize("bad", [(8, 8, 9), (8, 8, 0), (0, 8, 4)])
def test_a_picture_smaller_than_a_patch_is_refused(bad):
    with pytest.raises(
        InputError, match=r"^a picture of \d x 8 pixels has no patches of \d x \d: expected a picture at l"
    ):
        patch_boxes(*bad)
