"""What `capture` gives: an `Attention` for each layer, and what its queries and keys are."""

from collections.abc import Sequence
from typing import overload

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from xattn.attention.attention import Attention
from xattn.integrations.transformers.recompute import Tokens, attention_of, values_of
from xattn.integrations.transformers.recording import Forward, Recording
from xattn.runtime.errors import InputError


class Captured(Sequence[Attention]):
    """The attention of the recorded layers in the model's last forward, in the order of `names`.

    `attentions[-1]` is an `Attention` of shape `batch heads q k`: each head's projected queries and keys and its
    weights before dropout, with gradient. Its `query_mask` is true at text tokens, its `key_mask` at image tokens. It
    is made when it is asked for, from the model's own queries and keys.

    Where text and image tokens are one sequence (ViLT, FLAVA, decoders), it is the block from text to image: the rows
    of the text, divided by their sum over the image's tokens. A text token that sees no image token, such as those
    before it in a decoder, counts as padding.
    """

    def __init__(self, recording: Recording, patches_alone: bool = False) -> None:
        self._recording = recording
        self._patches_alone = patches_alone
        self._of: Forward | None = None
        self._made: dict[int, Attention] = {}

    @property
    def names(self) -> list[str]:
        """The recorded layers, as in `model.named_modules()`."""
        return [layer.name for layer, _ in self._recording.layers]

    def __len__(self) -> int:
        return len(self._recording.layers)

    @overload
    def __getitem__(self, index: int) -> Attention: ...

    @overload
    def __getitem__(self, index: slice) -> list[Attention]: ...

    def __getitem__(self, index: int | slice) -> Attention | list[Attention]:
        """The attention of a layer, by its place in `names`.

        Raises:
            InputError: the model was not called since, or the layer was not; its mask cannot be read.
        """
        if isinstance(index, slice):
            return [self[place] for place in range(len(self))[index]]
        place = range(len(self))[index]
        forward = self._forward()
        if forward is not self._of:
            self._of, self._made = forward, {}
        if place not in self._made:
            projected, tokens = forward.projected[self._called(place)], self._tokens(place)
            self._made[place] = attention_of(projected, tokens, self._kept(tokens))
        return self._made[place]

    def values(self, index: int) -> Float[Tensor, "batch heads k value_dim"]:
        """The projected values of a layer's keys, one for each head, where `capture` was told to keep them."""
        place = range(len(self))[index]
        return values_of(self._forward().projected[self._called(place)], self._tokens(place))

    def on_patches(self) -> "Captured":
        """The same to keys that have a box alone, without class tokens: each row divided by its sum over them."""
        return Captured(self._recording, patches_alone=True)

    @property
    def query_ids(self) -> Int[Tensor, "batch q"] | None:
        """The token ids of the queries, 0 or the padding token at padding; None where the model got none."""
        return self._tokens(0).query_ids

    @property
    def key_images(self) -> Int[Tensor, "batch k"] | None:
        """Which picture of its sample each key is of, counted from 0; -1 = none. None where the model got none."""
        return self._tokens(0).images

    def key_boxes(self, sizes: Shaped[Tensor, "batch images 2"] | None = None) -> Float[Tensor, "batch k 4"] | None:
        """x1 y1 x2 y2 of each key in pixels; NaN where a key has no place: class tokens and padding.

        Args:
            sizes: width and height of each picture before the processor scaled it, in pixels; boxes are then of that
                picture, if all of it was scaled and nothing cut off. Absent = of the picture as the model got it.

        Returns:
            None where the model got no picture, or layers were named by hand.

        Raises:
            InputError: the model got boxes in place of pixels (LXMERT), so that sizes are needed; or sizes of another
                number of pictures.
        """
        tokens = self._tokens(0)
        if tokens.boxes is None or tokens.images is None:
            return None
        if sizes is None:
            if tokens.sizes is None:
                raise InputError("the model got boxes as shares of their pictures: pass sizes, for boxes in pixels")
            return tokens.boxes * tokens.sizes.repeat(1, 1, 2)
        expected = (len(tokens.boxes), int(tokens.images.max()) + 1, 2)
        if sizes.dim() != 3 or sizes.shape[0] != expected[0] or sizes.shape[1] < expected[1] or sizes.shape[2] != 2:
            raise InputError(
                f"sizes of shape {tuple(sizes.shape)} are not the width and height of each picture: expected {expected}"
            )
        index = tokens.images.clamp_min(0).unsqueeze(-1).expand(-1, -1, 2)
        return tokens.boxes * sizes.to(tokens.boxes).gather(1, index).repeat(1, 1, 2)

    def _forward(self) -> Forward:
        forward = self._recording.last
        if forward is None:
            raise InputError(
                f"nothing was recorded: call the {type(self._recording.model).__name__} itself inside of `with "
                "capture(...)`; what calls its parts alone, as generate of some models, needs capture on that part"
            )
        return forward

    def _called(self, place: int) -> str:
        name = self.names[place]
        if name not in self._forward().projected:
            raise InputError(
                f"{name} was not called in the last forward of {type(self._recording.model).__name__}: it attends only "
                "where the model gets both text and image"
            )
        return name

    def _tokens(self, place: int) -> Tokens:
        """Which queries and keys the attention of a layer is of."""
        forward, found = self._forward(), self._recording.found
        projected = forward.projected[self._called(place)]
        if found is None or not self._recording.layers[place][1]:
            return Tokens()
        if forward.root is None:
            raise InputError(f"the {type(found.root).__name__} was not called in the last forward, only parts of it")
        return found.family.read(forward.root, forward.picture, projected)

    def _kept(self, tokens: Tokens) -> Tensor | None:
        if not self._patches_alone:
            return None
        if tokens.boxes is None:
            raise InputError("no key has a box, so that there is no attention to patches alone")
        return ~torch.isnan(tokens.boxes).any(-1)
