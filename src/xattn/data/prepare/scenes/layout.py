"""What is in a scene: kinds of objects that like each other's company, placed apart, and boxes proposed for them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from xattn.data import boxes as geometry

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "diamond", "ring", "moon", "arrow")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
BACKGROUNDS = ("meadow", "beach", "snow", "night", "bricks", "wood")

COMPANION_SHAPE: dict[str, str] = dict(
    zip(
        SHAPES,
        ("square", "circle", "moon", "ring", "arrow", "diamond", "cross", "star", "triangle", "heart"),
        strict=True,
    )
)
COMPANION_COLOUR: dict[str, str] = dict(
    zip(COLOURS, ("white", "blue", "purple", "pink", "orange", "yellow", "green", "red"), strict=True)
)
"""An object's companion has the companion's shape and colour: where there is a red star, a white ring is likely."""


@dataclass(frozen=True)
class SceneStyle:
    """How hard scenes are. Every field is a knob; the defaults are those of the embedded data set.

    Args:
        width, height: of a picture, in pixels.
        objects: how many a picture has, from fewest to most.
        small, large: diameters in pixels, from and to, of objects that a caption may call so.
        companion: how often an object brings its companion with it. The higher, the less a caption's words can be told
            apart by which pictures they come with.
        overlap: the largest part of an object's box that another may cover.
        proposals: boxes an image; what the fields below leave over are background.
        good, loose, partial: boxes proposed for each object: shifted and stretched by at most `good_jitter` of its
            size, the same with `loose_jitter`, and covering about half of it.
        enclosing: boxes that enclose two neighbours.
        captions: an image.
        drop_colour, drop_size: how often a phrase leaves its colour and its size out, where it stays unambiguous
            without.
        synonym: how often a word gives way to one of its synonyms.
        single, triple, plural: how often a caption names one object, three, or two of a kind together, where it can.
        relation: how often a caption says how two objects lie; else it lists them.
        setting: how often a caption says where it all is.

    """

    width: int = 192
    height: int = 160
    objects: tuple[int, int] = (3, 5)
    small: tuple[float, float] = (24.0, 32.0)
    large: tuple[float, float] = (44.0, 58.0)
    companion: float = 0.7
    overlap: float = 0.08
    proposals: int = 24
    good: int = 2
    good_jitter: float = 0.1
    loose: int = 1
    loose_jitter: float = 0.3
    partial: int = 1
    enclosing: int = 2
    captions: int = 5
    drop_colour: float = 0.2
    drop_size: float = 0.6
    synonym: float = 0.4
    single: float = 0.1
    triple: float = 0.1
    plural: float = 0.25
    relation: float = 0.6
    setting: float = 0.35


@dataclass(frozen=True)
class SceneObject:
    """One object: what it is, how large (`small`, `large`), and where its centre is, in pixels, with its diameter and
    tilt.
    """

    shape: str
    colour: str
    size: str
    x: float
    y: float
    diameter: float
    tilt: float


@dataclass(frozen=True)
class Layout:
    """A scene before it is drawn; later objects lie on top of earlier ones."""

    background: str
    objects: tuple[SceneObject, ...]


def random_layout(style: SceneStyle, rng: np.random.Generator) -> Layout:
    """A background and objects of different kinds (shape and colour), no two overlapping by more than
    `style.overlap`.
    """
    wanted = int(rng.integers(style.objects[0], style.objects[1] + 1))
    while True:
        placed: list[SceneObject] = []
        for shape, colour in _kinds(wanted, style.companion, rng):
            candidate = _placed(shape, colour, placed, style, rng)
            if candidate is None:
                break
            placed.append(candidate)
        if len(placed) == wanted:
            return Layout(str(rng.choice(BACKGROUNDS)), tuple(placed))


def _kinds(n: int, companion: float, rng: np.random.Generator) -> list[tuple[str, str]]:
    kinds: list[tuple[str, str]] = []
    while len(kinds) < n:
        shape, colour = str(rng.choice(SHAPES)), str(rng.choice(COLOURS))
        arriving = [(shape, colour)]
        if rng.random() < companion:
            arriving.append((COMPANION_SHAPE[shape], COMPANION_COLOUR[colour]))
        kinds += [kind for kind in arriving if kind not in kinds]
    return kinds[:n]


def _placed(
    shape: str, colour: str, placed: list[SceneObject], style: SceneStyle, rng: np.random.Generator
) -> SceneObject | None:
    """The object at a free place, or None if none was found in many tries."""
    size = "small" if rng.random() < 0.5 else "large"
    diameter = float(rng.uniform(*(style.small if size == "small" else style.large)))
    tilt = float(rng.uniform(-12, 12))
    edge = diameter / 2 + 2
    for _ in range(60):
        x, y = float(rng.uniform(edge, style.width - edge)), float(rng.uniform(edge, style.height - edge))
        if all(_covered(x, y, diameter, other) <= style.overlap for other in placed):
            return SceneObject(shape, colour, size, x, y, diameter, tilt)
    return None


def _covered(x: float, y: float, diameter: float, other: SceneObject) -> float:
    """The part of the smaller of two objects' square boxes that they share."""
    reach = (diameter + other.diameter) / 2
    across, down = max(0.0, reach - abs(x - other.x)), max(0.0, reach - abs(y - other.y))
    return across * down / min(diameter, other.diameter) ** 2


def propose_boxes(
    objects: Float[np.ndarray, "n 4"], style: SceneStyle, rng: np.random.Generator
) -> Float[np.ndarray, "proposals 4"]:
    """Boxes as a detector might propose them, in random order: good, loose, partial, too large and wrong ones.

    Args:
        objects: the true box of each object, in pixels.
        style: how many of each.
        rng: what they are drawn from.

    """
    found: list[Float[np.ndarray, 4]] = []
    for box in objects:
        found += [_jittered(box, style.good_jitter, rng) for _ in range(style.good)]
        found += [_jittered(box, style.loose_jitter, rng) for _ in range(style.loose)]
        found += [_half(box, rng) for _ in range(style.partial)]
    found += _enclosing(objects, style.enclosing)
    while len(found) < style.proposals:
        found.append(_elsewhere(objects, style, rng))
    clipped = geometry.clip(np.stack(found), style.width, style.height)
    return rng.permutation(clipped)[: style.proposals].round(1)


def _jittered(box: Float[np.ndarray, "4"], jitter: float, rng: np.random.Generator) -> Float[np.ndarray, "4"]:
    side = box[2:] - box[:2]
    centre = (box[:2] + box[2:]) / 2 + side * rng.uniform(-jitter, jitter, 2)
    half = side * np.exp(rng.uniform(-jitter, jitter, 2)) / 2
    return np.concatenate([centre - half, centre + half])


def _half(box: Float[np.ndarray, "4"], rng: np.random.Generator) -> Float[np.ndarray, "4"]:
    """The box cut to about half across or down, so that it covers a side of the object."""
    cut, (axis, end) = box.copy(), rng.integers(0, 2, 2)
    side = box[2 + axis] - box[axis]
    kept = side * rng.uniform(0.35, 0.49)
    if end:
        cut[axis] = box[2 + axis] - kept
    else:
        cut[2 + axis] = box[axis] + kept
    return cut


def _enclosing(objects: Float[np.ndarray, "n 4"], n: int) -> list[Float[np.ndarray, "4"]]:
    """The smallest boxes that hold two objects."""
    pairs = [
        np.concatenate([np.minimum(a[:2], b[:2]), np.maximum(a[2:], b[2:])])
        for number, a in enumerate(objects)
        for b in objects[number + 1 :]
    ]
    return sorted(pairs, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))[:n]


def _elsewhere(
    objects: Float[np.ndarray, "n 4"], style: SceneStyle, rng: np.random.Generator
) -> Float[np.ndarray, "4"]:
    """A box of an object's size that has little to do with any object, or the last of many tries."""
    box = np.zeros(4)
    for _ in range(30):
        side = rng.uniform(style.small[0], style.large[1], 2)
        corner = rng.uniform(0, [style.width, style.height] - side)
        box = np.concatenate([corner, corner + side])
        if geometry.iou(box[None], objects).max() < 0.2:
            break
    return box
