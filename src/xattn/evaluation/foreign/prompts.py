"""A photo and its caption as the one sequence that a decoder reads: the photo's tokens, then the caption.

PaliGemma: image tokens, `<bos>`, the caption, a line break, as its own processor has it. Qwen2-VL: image tokens between
the tokens that begin and end a picture, then the caption, without the roles and instructions of a chat.
"""

from typing import Any

import torch
from torch import Tensor

from xattn.evaluation.foreign.loading import ForeignModel
from xattn.evaluation.foreign.words import Letters


def prompts(
    foreign: ForeignModel, captions: list[str], pictures: dict[str, Tensor]
) -> tuple[dict[str, Tensor], list[list[Letters]]]:
    """The sequences as the model takes them, padded on the right, and the letters of each token that is no image token,
    in the order of the model's queries: none (0, 0) for those that are not the caption's.

    Args:
        foreign: of one of the families `PROMPTED`.
        captions: one for each picture.
        pictures: what the image processor made of the pictures.
    """
    config: Any = foreign.model.config
    encoded = foreign.tokenizer(captions, add_special_tokens=False, return_offsets_mapping=True)
    rows, offsets = [], []
    for place, (ids, letters) in enumerate(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)):
        if foreign.found.family.name == "PaliGemma":
            vision = config.vision_config
            before = [config.image_token_id] * (vision.image_size // vision.patch_size) ** 2
            before.append(foreign.tokenizer.bos_token_id)
            after = foreign.tokenizer("\n", add_special_tokens=False)["input_ids"]
        else:
            merged = config.vision_config.spatial_merge_size**2
            n_image = int(pictures["image_grid_thw"][place].prod()) // merged
            before = [config.vision_start_token_id, *[config.image_token_id] * n_image, config.vision_end_token_id]
            after = []
        rows.append(torch.tensor([*before, *ids, *after]))
        n_before = sum(token != config.image_token_id for token in before)
        offsets.append([(0, 0)] * n_before + [(start, end) for start, end in letters] + [(0, 0)] * len(after))
    longest = max(map(len, offsets))
    offsets = [each + [(0, 0)] * (longest - len(each)) for each in offsets]
    input_ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    mask = torch.arange(input_ids.shape[1]) < lengths[:, None]
    inputs = {"input_ids": input_ids, "attention_mask": mask.long()}
    if foreign.found.family.name == "PaliGemma":
        inputs["token_type_ids"] = torch.zeros_like(input_ids)  # all of it is read before anything is written
    else:
        inputs["mm_token_type_ids"] = (input_ids == config.image_token_id).int()
    return inputs, offsets
