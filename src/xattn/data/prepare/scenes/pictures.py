"""Drawing a scene: a textured background, and objects with an outline and a shadow."""

import math
from functools import cache

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from xattn.data.prepare.scenes.layout import Layout, SceneObject, SceneStyle

_FINER = 3
"""Objects are drawn this many times larger and then reduced, which smooths their edges."""

_RGB = {
    "red": (214, 40, 40),
    "orange": (245, 130, 32),
    "yellow": (250, 214, 48),
    "green": (50, 160, 74),
    "blue": (44, 98, 208),
    "purple": (132, 62, 172),
    "pink": (246, 140, 186),
    "white": (244, 244, 240),
}

_Points = list[tuple[float, float]]


def draw_scene(
    layout: Layout, style: SceneStyle, rng: np.random.Generator
) -> tuple[Image.Image, Float[np.ndarray, "n 4"]]:
    """The picture of a scene, and the box of what can be seen of each object, in pixels."""
    size = style.width * _FINER, style.height * _FINER
    picture = _background(layout.background, style, rng).resize(size, Image.Resampling.BILINEAR)
    masks = [_mask(item, size) for item in layout.objects]
    for item, mask in zip(layout.objects, masks, strict=True):
        _paint(picture, item, mask, rng)
    boxes = []
    for number, mask in enumerate(masks):
        for above in masks[number + 1 :]:
            mask = ImageChops.subtract(mask, above)
        box = mask.getbbox()
        assert box is not None, "objects overlap little, so each is seen"
        boxes.append(np.array(box) / _FINER)
    return picture.resize((style.width, style.height), Image.Resampling.BOX), np.stack(boxes).round(2)


def _mask(item: SceneObject, size: tuple[int, int]) -> Image.Image:
    mask = Image.new("L", size)
    pen = ImageDraw.Draw(mask)
    turn, radius = math.radians(item.tilt), item.diameter / 2 * _FINER
    for points, is_filled in _outline(item.shape):
        turned = [
            (
                item.x * _FINER + radius * (x * math.cos(turn) - y * math.sin(turn)),
                item.y * _FINER + radius * (x * math.sin(turn) + y * math.cos(turn)),
            )
            for x, y in points
        ]
        pen.polygon(turned, fill=255 if is_filled else 0)
    return mask


def _paint(picture: Image.Image, item: SceneObject, mask: Image.Image, rng: np.random.Generator) -> None:
    """Shadow, then a body that darkens downwards in a shade of its colour, then a dark outline."""
    box = mask.getbbox()
    assert box is not None
    margin = 6 * _FINER
    around = (
        max(0, box[0] - margin),
        max(0, box[1] - margin),
        min(mask.width, box[2] + margin),
        min(mask.height, box[3] + margin),
    )
    mask, body = mask.crop(around), picture.crop(around)
    shadow = (
        ImageChops.offset(mask, 2 * _FINER, 2 * _FINER)
        .filter(ImageFilter.GaussianBlur(1.5 * _FINER))
        .point(lambda v: v * 0.4)
    )
    body.paste((20, 20, 30), mask=shadow)
    colour = np.clip(np.array(_RGB[item.colour]) + rng.uniform(-14, 14, 3), 0, 255)
    down = np.linspace(1.06, 0.86, mask.height)[:, None, None]
    shaded = np.broadcast_to(np.clip(colour * down, 0, 255), (mask.height, mask.width, 3)).astype(np.uint8)
    body.paste(tuple(int(v * 0.45) for v in colour), mask=mask)
    body.paste(Image.fromarray(shaded), mask=mask.filter(ImageFilter.MinFilter(2 * _FINER - 1)))
    picture.paste(body, around[:2])


def _circle(radius: float = 1.0, x: float = 0.0, y: float = 0.0) -> _Points:
    angles = np.linspace(0, 2 * math.pi, 48, endpoint=False)
    return [(x + radius * math.cos(angle), y + radius * math.sin(angle)) for angle in angles]


@cache
def _outline(shape: str) -> tuple[tuple[_Points, bool], ...]:
    """Polygons in a circle of radius 1 around the origin, each to be filled or, second, cut out again."""
    if shape == "circle":
        return ((_circle(0.92), True),)
    if shape == "ring":
        return (_circle(1.0), True), (_circle(0.55), False)
    if shape == "moon":
        return (_circle(1.0), True), (_circle(0.85, 0.5, -0.1), False)
    if shape == "star":
        spokes = [(-math.pi / 2 + number * math.pi / 5, 1.0 if number % 2 == 0 else 0.42) for number in range(10)]
        return (([(radius * math.cos(angle), radius * math.sin(angle)) for angle, radius in spokes], True),)
    if shape == "heart":
        angles = np.linspace(0, 2 * math.pi, 60, endpoint=False)
        x = np.sin(angles) ** 3
        y = -(13 * np.cos(angles) - 5 * np.cos(2 * angles) - 2 * np.cos(3 * angles) - np.cos(4 * angles)) / 16
        return ((list(zip(x.tolist(), y.tolist(), strict=True)), True),)
    corners: dict[str, _Points] = {
        "square": [(-0.84, -0.84), (0.84, -0.84), (0.84, 0.84), (-0.84, 0.84)],
        "triangle": [(0.0, -0.95), (0.98, 0.8), (-0.98, 0.8)],
        "diamond": [(0.0, -1.0), (0.66, 0.0), (0.0, 1.0), (-0.66, 0.0)],
        "cross": [
            *((-0.33, -1.0), (0.33, -1.0), (0.33, -0.33), (1.0, -0.33), (1.0, 0.33), (0.33, 0.33)),
            *((0.33, 1.0), (-0.33, 1.0), (-0.33, 0.33), (-1.0, 0.33), (-1.0, -0.33), (-0.33, -0.33)),
        ],
        "arrow": [(-1.0, -0.28), (0.1, -0.28), (0.1, -0.8), (1.0, 0.0), (0.1, 0.8), (0.1, 0.28), (-1.0, 0.28)],
    }
    return ((corners[shape], True),)


def _background(name: str, style: SceneStyle, rng: np.random.Generator) -> Image.Image:
    width, height = style.width, style.height
    y = np.linspace(0, 1, height)[:, None, None]
    horizon = rng.uniform(0.3, 0.5)
    if name == "meadow":
        rows = _blend(y, horizon, ((168, 212, 240), (214, 236, 246)), ((126, 178, 92), (92, 150, 66)))
    elif name == "beach":
        rows = _blend(y, horizon, ((120, 190, 220), (96, 176, 206)), ((238, 220, 172), (226, 200, 146)))
    elif name == "snow":
        rows = _blend(y, horizon, ((176, 190, 206), (206, 216, 226)), ((228, 234, 240), (206, 216, 230)))
    elif name == "night":
        rows = _blend(y, 1.0, ((16, 18, 48), (58, 52, 96)), ((58, 52, 96), (58, 52, 96)))
    elif name == "bricks":
        rows = np.broadcast_to(np.array([176.0, 118.0, 98.0]), (height, 1, 3))
    else:
        rows = np.broadcast_to(np.array([182.0, 140.0, 96.0]), (height, 1, 3))
    picture = np.repeat(rows, width, axis=1) if rows.shape[1] == 1 else rows.copy()
    picture = picture + _texture(name, width, height, rng)[:, :, None]
    return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))


_Colour = tuple[int, int, int]


def _blend(
    y: Float[np.ndarray, "height 1 1"], horizon: float, above: tuple[_Colour, _Colour], below: tuple[_Colour, _Colour]
) -> Float[np.ndarray, "height 1 3"]:
    """Two gradients, one down to the horizon and one from there on."""
    t_above, t_below = np.clip(y / horizon, 0, 1), np.clip((y - horizon) / max(1 - horizon, 1e-6), 0, 1)
    upper, lower = (np.array(a) * (1 - t) + np.array(b) * t for (a, b), t in ((above, t_above), (below, t_below)))
    return np.where(y < horizon, upper, lower)


def _texture(name: str, width: int, height: int, rng: np.random.Generator) -> Float[np.ndarray, "height width"]:
    """What is added to a background's brightness: soft blotches, and mortar, planks or far lights where they belong."""
    coarse = Image.fromarray(rng.normal(0, 1, (height // 16 + 1, width // 16 + 1)).astype(np.float32))
    texture = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)) * 5 + rng.normal(
        0, 2.5, (height, width)
    )
    if name == "bricks":
        rows, columns = np.arange(height) // 16, np.arange(width)
        is_mortar = (np.arange(height) % 16 < 2)[:, None] | ((columns[None, :] + 16 * (rows[:, None] % 2)) % 32 < 2)
        texture = texture + 34.0 * is_mortar
    elif name == "wood":
        grain = np.asarray(Image.fromarray(rng.normal(0, 1, (height, 4)).astype(np.float32)).resize((width, height)))
        texture = texture + 6 * grain - 40.0 * (np.arange(height) % 40 < 2)[:, None]
    elif name == "night":
        texture = texture + 90.0 * (rng.random((height, width)) < 0.002)
    return texture
