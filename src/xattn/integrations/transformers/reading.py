"""Where each family has its text and its image: rows and columns of the attention, their ids and their boxes.

A function for each layout of tokens, named in the table of families. It gets the call of the module that sees the
tokens and, where that is another module, of the one that sees the picture.
"""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from xattn.integrations.transformers.calls import Call
from xattn.integrations.transformers.patches import patch_shares
from xattn.integrations.transformers.recompute import Projected, Tokens
from xattn.runtime.errors import InputError


def decoder_to_encoder(root: Call, picture: Call | None, projected: Projected) -> Tokens:
    """Cross-attention between a decoder's tokens and an encoder's (T5, BART, BERT)."""
    ids, mask = _text(root, projected.queries.shape[2])
    return Tokens(query_ids=ids, query_mask=mask, key_mask=_boolean(root["encoder_attention_mask"]))


def blip(root: Call, picture: Call | None, projected: Projected) -> Tokens:
    """Words to the class token and the patches of one picture; BLIP's layers ignore a mask of the image."""
    ids, mask = _text(root, projected.queries.shape[2])
    boxes = {}
    if picture is not None and picture["pixel_values"] is not None:
        vision = _config(picture.module)
        boxes = _grid(picture["pixel_values"], vision.patch_size, n_class=1, n_keys=projected.keys.shape[2])
        boxes = _for_batch(boxes, len(projected.queries))
    return Tokens(query_ids=ids, query_mask=mask, **boxes)


def bridgetower(root: Call, picture: Call | None, projected: Projected) -> Tokens:
    """Words to the class token and the patches of one picture."""
    ids, mask = _text(root, projected.queries.shape[2])
    boxes = {}
    if root["pixel_values"] is not None:
        vision = _config(root.module).vision_config
        boxes = _grid(root["pixel_values"], vision.patch_size, n_class=1, n_keys=projected.keys.shape[2])
    return Tokens(query_ids=ids, query_mask=mask, **boxes)


def lxmert(root: Call, picture: Call | None, projected: Projected) -> Tokens:
    """Words to regions, whose boxes the model gets as shares of the picture."""
    ids, mask = _text(root, projected.queries.shape[2])
    places = root["visual_pos"]
    images = torch.zeros(places.shape[:2], dtype=torch.long, device=places.device)
    return Tokens(
        query_ids=ids,
        query_mask=mask,
        key_mask=_boolean(root["visual_attention_mask"]),
        boxes=places[..., :4].detach().float(),
        images=images,
    )


def flava(root: Call, picture: Call | None, projected: Projected) -> Tokens:
    """Joint attention over a class token, the image's class token and patches, and the words, in this order."""
    total, n_text = projected.queries.shape[2], root["input_ids"].shape[1]
    first_image = 1 if root.module.multimodal_model.use_cls_token else 0  # pyright: ignore[reportAttributeAccessIssue]
    batch, device = len(projected.queries), projected.queries.device
    n_image = total - n_text - first_image
    ids, mask = _text(root, n_text)
    vision = _config(root.module).image_config
    boxes = _grid(root["pixel_values"], vision.patch_size, n_class=1, n_keys=n_image)
    return Tokens(
        rows=torch.arange(total - n_text, total, device=device).expand(batch, -1),
        columns=torch.arange(first_image, first_image + n_image, device=device).expand(batch, -1),
        query_ids=ids,
        query_mask=mask,
        **boxes,
    )


def vilt(root: Call, picture: Call | None, projected: Projected) -> Tokens:
    """Joint attention over the words, the image's class token and patches, which ViLT draws in any order."""
    total, n_text = projected.queries.shape[2], _width(root)
    batch, device = len(projected.queries), projected.queries.device
    ids, mask = _text(root, n_text)
    boxes = {}
    if picture is not None and root["pixel_values"] is not None:
        boxes = _drawn_patches(root, picture)
    return Tokens(
        rows=torch.arange(n_text, device=device).expand(batch, -1),
        columns=torch.arange(n_text, total, device=device).expand(batch, -1),
        query_ids=ids,
        query_mask=mask,
        **boxes,
    )


def paligemma(root: Call, picture: Call | None, projected: Projected) -> Tokens:
    """The words of a sequence to its image tokens; all pictures of a batch have one size."""
    tokens = _placeholders(root)
    pixels, vision = root["pixel_values"], _config(root.module).vision_config
    if pixels is None:
        return tokens
    shares = patch_shares(pixels.shape[-1], pixels.shape[-2], vision.patch_size)
    size = torch.tensor([pixels.shape[-1], pixels.shape[-2]], dtype=torch.float32)
    return _with_pictures(tokens, [shares] * len(pixels), [size] * len(pixels))


def qwen2_vl(root: Call, picture: Call | None, projected: Projected) -> Tokens:
    """The words of a sequence to its image tokens, each of which merges some patches; pictures differ in size."""
    tokens = _placeholders(root)
    grids, vision = root["image_grid_thw"], _config(root.module).vision_config
    if grids is None:
        return tokens
    side = vision.patch_size * vision.spatial_merge_size
    shares, sizes = [], []
    for frames, down, across in grids.tolist():
        width, height = across * vision.patch_size, down * vision.patch_size
        shares.append(patch_shares(width, height, side).repeat(frames, 1))
        sizes.append(torch.tensor([width, height], dtype=torch.float32))
    return _with_pictures(tokens, shares, sizes)


def _text(root: Call, n: int) -> tuple[Int[Tensor, "batch n"] | None, Tensor | None]:
    """The ids of the text, and which are no padding, as the model was told."""
    ids, mask = root["input_ids"], root["attention_mask"]
    ids = ids if ids is not None and ids.shape[1] == n else None
    # A mask of another width is of other tokens too, or already in the model's own form.
    return ids, _boolean(mask) if mask is not None and mask.dim() == 2 and mask.shape[1] == n else None


def _width(root: Call) -> int:
    return (root["input_ids"] if root["input_ids"] is not None else root["inputs_embeds"]).shape[1]


def _boolean(mask: Tensor | None) -> Tensor | None:
    return None if mask is None or mask.dim() != 2 else mask != 0


def _config(module: nn.Module) -> Any:
    return module.config


def _grid(pixels: Tensor, patch: int | list[int] | tuple[int, ...], n_class: int, n_keys: int) -> dict[str, Tensor]:
    """Boxes of class tokens and patches of one picture a sample; none where the keys are no such tokens."""
    height, width = pixels.shape[-2:]
    down, across = (patch, patch) if isinstance(patch, int) else patch
    shares = patch_shares(width, height, (across, down))
    if n_keys != n_class + len(shares):
        return {}
    boxes = torch.cat([torch.full((n_class, 4), torch.nan), shares]).to(pixels.device)
    batch = (len(pixels), n_keys)
    return {
        "boxes": boxes.expand(*batch, 4),
        "sizes": torch.tensor([width, height], dtype=torch.float32, device=pixels.device).expand(*batch, 2),
        "images": torch.zeros(batch, dtype=torch.long, device=pixels.device),
    }


def _for_batch(boxes: dict[str, Tensor], batch: int) -> dict[str, Tensor]:
    """The same for a batch of texts in which one picture serves several: all pictures have one size."""
    return {name: numbers[:1].expand(batch, *numbers.shape[1:]) for name, numbers in boxes.items()}


def _drawn_patches(root: Call, picture: Call) -> dict[str, Tensor]:
    """ViLT draws the order of its patches by chance, so they are drawn once more from the same state of chance."""
    embeddings, pixels, mask = root.module.embeddings, root["pixel_values"], root["pixel_mask"]
    config = _config(root.module)
    if mask is None:
        mask = torch.ones((len(pixels), config.image_size, config.image_size), device=pixels.device)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.set_rng_state(picture.chance)
        drawn = embeddings.visual_embed(pixels, mask, max_image_length=config.max_image_length)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    places, side = drawn[2][0].to(pixels.device), config.patch_size  # batch patches 2: row, column
    height, width = pixels.shape[-2:]
    corner = places.flip(-1).float() * side
    boxes = torch.cat([corner, corner + side], dim=-1)
    # Padded pictures fill the top left of the tensor; shares are of the picture, not of its padding.
    valid = torch.stack([mask[:, 0].sum(-1), mask[:, :, 0].sum(-1)], dim=-1).float()  # batch 2: width, height
    valid = torch.minimum(valid, torch.tensor([width, height], device=pixels.device, dtype=torch.float32))
    shares = boxes / valid.repeat(1, 2)[:, None]
    blank = torch.full_like(shares[:, :1], torch.nan)
    n = boxes.shape[1] + 1
    return {
        "boxes": torch.cat([blank, shares], dim=1),
        "sizes": valid[:, None].expand(-1, n, -1),
        "images": torch.zeros((len(pixels), n), dtype=torch.long, device=pixels.device),
    }


def _placeholders(root: Call) -> Tokens:
    """Text and image tokens of a sequence, told apart by the id of the image token."""
    ids = root["input_ids"]
    if ids is None:
        raise InputError("the model was called without input_ids, which tell image tokens from words: pass input_ids")
    is_image = ids == _config(root.module).image_token_id
    is_text = ~is_image & (ids != getattr(_config(root.module), "video_token_id", -1))
    mask = _boolean(root["attention_mask"])
    is_text = is_text if mask is None else is_text & mask
    rows, row_mask = _packed(is_text)
    columns, column_mask = _packed(is_image)
    return Tokens(
        rows=rows,
        columns=columns,
        query_mask=row_mask,
        key_mask=column_mask,
        query_ids=torch.where(row_mask, ids.gather(1, rows), 0),
    )


def _packed(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """The places of the chosen tokens of each sample, the first ones first, and which of them are no padding."""
    counts = chosen.sum(1)
    longest = max(int(counts.max()), 1)
    order = (~chosen).int().argsort(dim=1, stable=True)[:, :longest]
    return order, torch.arange(longest, device=chosen.device) < counts.unsqueeze(1)


def _with_pictures(tokens: Tokens, shares: list[Tensor], sizes: list[Tensor]) -> Tokens:
    """The boxes of the pictures of a batch in the places of the samples' image tokens, one sample after another.

    The model itself refuses pictures that have more or fewer patches than the samples have image tokens.
    """
    mask = tokens.key_mask
    assert mask is not None
    first = mask.sum(1).cumsum(0) - mask.sum(1)  # the number of image tokens before each sample
    boxes = torch.full((*mask.shape, 4), torch.nan, device=mask.device)
    sizes_of_keys = torch.full((*mask.shape, 2), torch.nan, device=mask.device)
    images = torch.full(mask.shape, -1, dtype=torch.long, device=mask.device)
    boxes[mask] = torch.cat(shares).to(mask.device)
    sizes_of_keys[mask] = torch.cat([size.expand(len(each), 2) for size, each in zip(sizes, shares, strict=True)]).to(
        mask.device
    )
    starts = torch.tensor([0, *(len(each) for each in shares)], device=mask.device).cumsum(0)[:-1]
    number = torch.cat([torch.full((len(each),), place) for place, each in enumerate(shares)]).to(mask.device)
    earlier = (starts.unsqueeze(0) < first.unsqueeze(1)).sum(1)  # pictures of the samples before
    images[mask] = number
    images = torch.where(mask, images - earlier.unsqueeze(1), -1)
    return replace(tokens, boxes=boxes, sizes=sizes_of_keys, images=images)
