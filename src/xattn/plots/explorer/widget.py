"""The explorer as a notebook's widget, for any `Attention` with a photo, such as one layer of a transformer.

    with capture(model, layers=[-1]) as attentions:
        model(**processor(images=photo, text=caption, return_tensors="pt"))
    explorer(attentions[-1], photo, words, attentions.key_boxes(torch.tensor([[photo.size]])))

It needs `pip install 'xattn[notebook]'`.
"""

from collections.abc import Mapping, Sequence

import anywidget
import numpy as np
import torch
import traitlets
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from xattn.attention.attention import Attention
from xattn.models.config import Direction
from xattn.plots.explorer.exploration import (
    Exploration,
    ShownAttention,
    ShownCaption,
    ShownImage,
    ShownRun,
    ShownWord,
    View,
    differences,
)
from xattn.plots.explorer.page import module, stylesheet


class Explorer(anywidget.AnyWidget):
    """The widget: the page's own module and stylesheet, and `data`, the JSON of an `Exploration`."""

    _esm = module()
    _css = stylesheet()
    data = traitlets.Dict().tag(sync=True)


def explorer(
    attention: Attention | Mapping[str, Attention],
    image: Image.Image,
    words: Sequence[str],
    boxes: Float[Tensor, "*pairs k 4"] | Float[np.ndarray, "*pairs k 4"],
    *,
    pair: int = 0,
    head: int | None = None,
    direction: Direction = "t2i",
    title: str = "What words attend to",
) -> Explorer:
    """A widget that shows what words attend to in a photo.

    Args:
        attention: of words to regions (`t2i`) or of regions to words (`i2t`), with any leading dimensions; or several
            such by name, which stand side by side, for example layers.
        image: the photo.
        words: of the caption, as many as the attention has.
        boxes: x1, y1, x2, y2 of the regions in pixels of the photo, for one pair or for all. Those with NaN, such as of
            a class token, are not drawn; what is attended to there is missing from the sum of the weights shown.
        pair: which of the first leading dimension.
        head: which head; None for the mean over all leading dimensions that remain.
        direction: `t2i` if words attend, `i2t` if regions do.
        title: stands above.

    Raises:
        ValueError: numbers of words, regions and boxes that do not fit, no such pair or head, or no region with a box.
    """
    named = dict(attention) if isinstance(attention, Mapping) else {"attention": attention}
    found = np.asarray(torch.as_tensor(boxes).detach().cpu(), np.float64)
    found = found if found.ndim == 2 else found[pair]
    drawn = np.isfinite(found).all(1)
    if not drawn.any():
        raise ValueError("none of the boxes is of four finite numbers, so there is no region to draw")
    runs = [
        _weights(name, each, len(words), len(found), pair, head, direction)[:, drawn] for name, each in named.items()
    ]
    shown = View(
        0, [ShownWord(word) for word in words], found[drawn], [ShownAttention({direction: each}) for each in runs]
    )
    difference = None
    if len(runs) == 2:
        of_words = differences(*runs)
        difference = words[int(of_words.argmax())], float(of_words.max())
    caption = ShownCaption(" ".join(words), "", shown, difference=difference)
    names = [ShownRun(name, [direction]) for name in named]
    exploration = Exploration(title, [], names, [ShownImage.of(image, "given")], [caption])
    return Explorer(data=exploration.as_json())


def _weights(
    name: str, attention: Attention, n_words: int, n_regions: int, pair: int, head: int | None, direction: Direction
) -> Float[np.ndarray, "words regions"]:
    weights = attention.weights.detach().float()
    weights = weights if direction == "t2i" else weights.transpose(-1, -2)
    if weights.shape[-2:] != (n_words, n_regions):
        raise ValueError(
            f"{name}: connects {weights.shape[-2]} words with {weights.shape[-1]} regions, but {n_words} words and "
            f"{n_regions} boxes were given"
        )
    for what, place in (("pair", pair), ("head", head)):
        if weights.dim() > 2 and place is not None:
            if not -len(weights) <= place < len(weights):
                raise ValueError(f"{name}: there is no {what} {place}; there are {len(weights)}")
            weights = weights[place]
    return weights.reshape(-1, n_words, n_regions).mean(0).cpu().numpy()
