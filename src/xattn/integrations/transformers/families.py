"""Which modules of which models attend from text to images: a row for each family.

A family is known by the class that sees the tokens; class names and not classes, so that no model of `transformers` is
imported before it is used.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from xattn.integrations.transformers import reading
from xattn.integrations.transformers.calls import Call
from xattn.integrations.transformers.recompute import Projected, Tokens


@dataclass(frozen=True)
class Layer:
    """An attention module by its name, and where it keeps what attention is made of.

    The other fields matter only for modules that do not call the attention interface of `transformers`; None = found by
    the usual names.
    """

    name: str
    """As in `model.named_modules()`, such as `decoder.layers.0.encoder_attn`."""
    query: str | None = None
    """The submodule that projects the queries."""
    key: str | None = None
    """The submodule that projects the keys."""
    value: str | None = None
    """The submodule that projects the values."""
    heads: str | None = None
    """The attribute that holds the number of heads."""
    mask: str | None = None
    """The argument of the module's forward that holds the mask."""
    scale: float | None = None
    """What products of queries and keys are multiplied by; None = the module's `scaling`, or the root of the heads'
    dimension, inverted."""


@dataclass(frozen=True)
class Family:
    """Models whose text attends to images in the same modules."""

    name: str
    roots: tuple[str, ...]
    """Classes of the module whose call has the tokens: `input_ids`, `attention_mask`."""
    attention: str
    """Regular expression for the names of the attention modules below the root."""
    read: Callable[[Call, Call | None, Projected], Tokens]
    """Which rows and columns are the text and the image."""
    picture: str | None = None
    """Class of another module whose call is needed to know the patches."""
    draws: bool = False
    """Whether that call draws by chance which patches are seen."""
    mask: str | None = None
    """As in `Layer`."""
    scale: float | None = None
    """As in `Layer`."""
    turn: int = 0
    """Which of several calls of a layer in one forward of the model is the text's; counted from 0."""
    turns: int = 1
    """How often a layer is called in one forward of the model."""


FAMILIES = (
    Family(
        "BLIP",
        ("BlipTextModel",),
        r"encoder\.layer\.\d+\.crossattention\.self",
        reading.blip,
        picture="BlipVisionModel",
        mask="encoder_attention_mask",
    ),
    Family(
        "LXMERT",
        ("LxmertModel",),
        r"encoder\.x_layers\.\d+\.visual_attention\.att",
        reading.lxmert,
        turns=2,  # the same weights serve words to regions, and then regions to words
    ),
    Family(
        "BridgeTower",
        ("BridgeTowerModel",),
        r"cross_modal_text_layers\.\d+\.crossattention\.self",
        reading.bridgetower,
    ),
    Family(
        "ViLT",
        ("ViltModel",),
        r"encoder\.layer\.\d+\.attention\.attention",
        reading.vilt,
        picture="ViltPatchEmbeddings",
        draws=True,
    ),
    Family(
        "FLAVA",
        ("FlavaModel",),
        r"multimodal_model\.encoder\.layer\.\d+\.attention\.attention",
        reading.flava,
    ),
    Family(
        "T5",
        ("T5Stack",),
        r"block\.\d+\.layer\.\d+\.EncDecAttention",
        reading.decoder_to_encoder,
        mask="mask",
        scale=1.0,
    ),
    Family("BART", ("BartDecoder",), r"layers\.\d+\.encoder_attn", reading.decoder_to_encoder),
    Family("BERT", ("BertModel",), r"encoder\.layer\.\d+\.crossattention\.self", reading.decoder_to_encoder),
    Family("PaliGemma", ("PaliGemmaModel",), r"language_model\.layers\.\d+\.self_attn", reading.paligemma),
    Family("Qwen2-VL", ("Qwen2VLModel",), r"language_model\.layers\.\d+\.self_attn", reading.qwen2_vl),
)


@dataclass(frozen=True)
class Found:
    """A family in a model."""

    family: Family
    root: nn.Module
    layers: tuple[Layer, ...]
    """All attention modules from text to image, in the order of the model."""
    picture: nn.Module | None


def find_family(model: nn.Module) -> Found | None:
    """The family of a model, and its layers; None where it is none that is known."""
    modules = dict(model.named_modules())
    for family in FAMILIES:
        for root_name, root in modules.items():
            if type(root).__name__ not in family.roots:
                continue
            prefix = f"{root_name}." if root_name else ""
            pattern = re.compile(re.escape(prefix) + family.attention)
            layers = tuple(
                Layer(name, mask=family.mask, scale=family.scale) for name in modules if pattern.fullmatch(name)
            )
            if layers:
                pictures = (each for each in modules.values() if type(each).__name__ == family.picture)
                return Found(family, root, layers, next(pictures, None))
    return None
