"""Opening pictures of every kind as what the eye sees: upright, in sRGB, eight bits a channel."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from xattn.runtime.errors import InputError


class UnreadableImageError(InputError):
    """A file that should be an image cannot be read as one."""


def load_image(path: Path | str) -> Image.Image:
    """The picture in a file: in mode RGB, turned upright as its EXIF orientation says, transparency over white.

    Greyscale (of 8 and 16 bits), palette and CMYK images are converted; of an animation the first frame is taken.

    Raises:
        UnreadableImageError: the file is missing, no image, damaged, cut short, or has more pixels than Pillow takes to
            be safe (`PIL.Image.MAX_IMAGE_PIXELS`, 89 million).

    """
    try:
        with Image.open(path) as image:
            _refuse_huge(image)
            return _upright_rgb(image)
    except (
        Exception
    ) as error:  # what a decoder raises on damaged data is anything at all, from SyntaxError to struct.error
        raise UnreadableImageError(f"{path}: cannot be read as an image{_reason(error)}") from error


def image_size(path: Path | str) -> tuple[int, int]:
    """Width and height of the upright picture, which is decoded to its end, at the lowest resolution that its format
    offers.

    Raises:
        UnreadableImageError: as `load_image`.

    """
    try:
        with Image.open(path) as image:
            _refuse_huge(image)
            width, height = image.size
            image.draft("RGB", (1, 1))
            image.load()
            is_turned = image.getexif().get(_ORIENTATION) in _QUARTER_TURNS
    except Exception as error:  # see load_image
        raise UnreadableImageError(f"{path}: cannot be read as an image{_reason(error)}") from error
    return (height, width) if is_turned else (width, height)


def as_tensor(image: Image.Image) -> Float[Tensor, "3 height width"]:
    """An RGB image as values from 0 to 1."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


_ORIENTATION = 0x0112
_QUARTER_TURNS = (5, 6, 7, 8)


def _upright_rgb(image: Image.Image) -> Image.Image:
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits; Pillow's own conversion would cut every value above 255 to white
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _refuse_huge(image: Image.Image) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise Image.DecompressionBombError(
            f"its {image.width} x {image.height} pixels are more than the {limit} allowed"
        )


def _reason(error: Exception) -> str:
    """What Pillow says, where it says more than that it could not."""
    if isinstance(error, UnidentifiedImageError):
        return ""
    if isinstance(error, OSError) and error.strerror:
        return f" ({error.strerror})"
    return f" ({error})" if str(error) else ""
