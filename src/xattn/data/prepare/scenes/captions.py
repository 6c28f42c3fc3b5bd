"""Sentences about a scene: true, varied, about some of its objects only, and with the box of every word that names
one.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from xattn.data.phrases import Span
from xattn.data.prepare.scenes.layout import Layout, SceneObject, SceneStyle

SYNONYMS = {
    "circle": ("disc", "dot"),
    "square": ("block", "box"),
    "triangle": ("wedge",),
    "diamond": ("rhombus",),
    "ring": ("hoop",),
    "moon": ("crescent",),
    "arrow": ("pointer",),
    "purple": ("violet",),
    "red": ("crimson",),
    "yellow": ("golden",),
    "small": ("little", "tiny"),
    "large": ("big", "huge"),
}
PLURALS = {"cross": "crosses", "rhombus": "rhombuses", "box": "boxes"}
SETTINGS = {
    "meadow": ("on the grass", "in a meadow", "in the field"),
    "beach": ("on the sand", "at the beach"),
    "snow": ("in the snow", "on a winter day"),
    "night": ("at night", "in the dark"),
    "bricks": ("on a brick wall", "in front of some bricks"),
    "wood": ("on a wooden table", "on the planks"),
}
RELATIONS = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under", "beneath"),
    "near": ("next to", "beside", "close to"),
}
OPENINGS = ("", "", "", "there is", "here is", "we see", "a picture of")


@dataclass(frozen=True)
class SceneCaption:
    """A caption whose tokens are its words, separated by single spaces, and what its phrases name."""

    text: str
    spans: tuple[Span, ...]


def caption_scene(
    layout: Layout, boxes: Float[np.ndarray, "n 4"], style: SceneStyle, rng: np.random.Generator
) -> list[SceneCaption]:
    """`style.captions` sentences, all different where that is possible in a few tries.

    Every phrase ("a small red circle", its article included) fits one object of the scene and no other, or, when it
    counts ("two stars"), as many as it says: so its boxes are exactly what it names.

    Args:
        layout: the scene.
        boxes: the true box of each of its objects.
        style: how the sentences are made.
        rng: what they are drawn from.

    """
    captions: list[SceneCaption] = []
    for _ in range(style.captions):
        tries = (_Sentence(layout, boxes, style, rng).written() for _ in range(5))
        caption = next((caption for caption in tries if caption not in captions), None)
        captions.append(caption or _Sentence(layout, boxes, style, rng).written())
    return captions


def relations_of(a: Float[np.ndarray, "4"], b: Float[np.ndarray, "4"], style: SceneStyle) -> list[str]:
    """What is plainly true of how box `a` lies to box `b`: clearly to a side of it and not as much off to another, or
    near.
    """
    dx, dy = ((a[:2] + a[2:]) - (b[:2] + b[2:])) / 2
    found = []
    if abs(dx) >= 0.15 * style.width and abs(dx) >= abs(dy):
        found.append("left" if dx < 0 else "right")
    if abs(dy) >= 0.15 * style.height and abs(dy) >= abs(dx):
        found.append("above" if dy < 0 else "below")
    gap = np.maximum(np.maximum(a[:2], b[:2]) - np.minimum(a[2:], b[2:]), 0)
    if float(np.hypot(*gap)) <= 0.1 * style.width:
        found.append("near")
    return found


class _Sentence:
    """One caption in the making: its tokens so far, and the spans among them."""

    def __init__(self, layout: Layout, boxes: Float[np.ndarray, "n 4"], style: SceneStyle, rng: np.random.Generator):
        self.layout, self.boxes, self.style, self.rng = layout, boxes, style, rng
        self.tokens: list[str] = []
        self.spans: list[Span] = []

    def written(self) -> SceneCaption:
        twins = self._twins()
        order = [int(i) for i in self.rng.permutation(len(self.layout.objects))]
        if twins and self._happens(self.style.plural):
            others = [i for i in order if i not in twins]
            self._say(str(self.rng.choice([opening for opening in OPENINGS if not opening.endswith("is")])))
            self._name_twins(twins)
            if others and self._happens(0.7):
                self._say("and")
                self._name(others[0])
        elif self._happens(self.style.single):
            self._open()
            self._name(order[0])
        elif len(order) > 2 and self._happens(self.style.triple):
            self._open()
            self._name(order[0])
            self._say(",")
            self._name(order[1])
            self._say("and")
            self._name(order[2])
        else:
            self._name_two(order[0], order[1])
        if self._happens(self.style.setting):
            self._say(str(self.rng.choice(SETTINGS[self.layout.background])))
        if self._happens(0.5):
            self._say(".")
        return SceneCaption(" ".join(self.tokens), tuple(self.spans))

    def _name_two(self, a: int, b: int) -> None:
        self._open()
        self._name(a)
        relations = relations_of(self.boxes[a], self.boxes[b], self.style)
        if relations and self._happens(self.style.relation):
            self._say(str(self.rng.choice(RELATIONS[str(self.rng.choice(relations))])))
        else:
            self._say(str(self.rng.choice(("and", "and", "with"))))
        self._name(b)

    def _open(self) -> None:
        self._say(str(self.rng.choice(OPENINGS)))

    def _say(self, words: str) -> None:
        self.tokens += words.split()

    def _happens(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def _word(self, word: str) -> str:
        others = SYNONYMS.get(word)
        return str(self.rng.choice(others)) if others and self._happens(self.style.synonym) else word

    def _twins(self) -> list[int]:
        """Objects that share their shape with exactly one other, if there are any: the first such two."""
        by_shape: dict[str, list[int]] = {}
        for number, item in enumerate(self.layout.objects):
            by_shape.setdefault(item.shape, []).append(number)
        return next((numbers for numbers in by_shape.values() if len(numbers) == 2), [])

    def _name_twins(self, twins: list[int]) -> None:
        word = self._word(self.layout.objects[twins[0]].shape)
        self._span(["two", PLURALS.get(word, f"{word}s")], twins)

    def _name(self, number: int) -> None:
        """Say of an object what it takes to tell it from the others, and more at random."""
        item, others = self.layout.objects[number], [o for i, o in enumerate(self.layout.objects) if i != number]
        with_colour, with_size = not self._happens(self.style.drop_colour), not self._happens(self.style.drop_size)
        while any(_fits(other, item, with_colour, with_size) for other in others):
            if not with_colour:
                with_colour = True
            else:
                with_size = True
        words = [self._word(item.size)] if with_size else []
        words += [self._word(item.colour)] if with_colour else []
        words.append(self._word(item.shape))
        self._span(["an" if words[0][0] in "aeiou" else "a", *words], [number])

    def _span(self, words: list[str], numbers: list[int]) -> None:
        start = len(self.tokens)
        self.tokens += words
        boxes = tuple(tuple(float(v) for v in self.boxes[number]) for number in numbers)
        self.spans.append(Span(start, len(self.tokens), boxes, "shape"))  # type: ignore[arg-type]


def _fits(other: SceneObject, item: SceneObject, with_colour: bool, with_size: bool) -> bool:
    """Whether what is said of `item` would be true of `other` as well."""
    return (
        other.shape == item.shape
        and (not with_colour or other.colour == item.colour)
        and (not with_size or other.size == item.size)
    )
