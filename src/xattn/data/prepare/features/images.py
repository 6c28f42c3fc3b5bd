"""Opening pictures of every kind as what the eye sees: upright, in sRGB, eight bits a channel.

Only the formats of `FORMATS` are opened, whatever a file is named: Pillow recognizes more, and starts Ghostscript for a
PostScript file, say. A picture of more than `MAX_PIXELS` pixels is refused from its header, before it is decoded, and
`pixels_in_flight` bounds the pixels that all threads of the process hold at one time.
"""

import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from xattn.runtime.errors import InputError

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""Of Pillow's formats, those that are opened; MPO, the JPEG of cameras that store several views, is JPEG here."""
MAX_PIXELS = 50_000_000
"""The most pixels of a picture, and of all pictures that are decoded at one time. A pixel takes up to 31 bytes on its
way to features, so 50 million take about 1.6 GB."""


class UnreadableImageError(InputError):
    """A file that should be an image cannot be read as one.

    Args:
        path: the file.
        reason: what is wrong with it, if more is known than that.
    """

    def __init__(self, path: Path | str, reason: str = "") -> None:
        super().__init__(f"{path}: cannot be read as an image{f' ({reason})' if reason else ''}")
        self.reason = reason


def load_image(path: Path | str) -> Image.Image:
    """The picture in a file: in mode RGB, turned upright as its EXIF orientation says, transparency over white.

    Greyscale (of 8 and 16 bits), palette and CMYK images are converted; of an animation the first frame is taken.

    Raises:
        UnreadableImageError: the file is missing, no image of one of the `FORMATS`, damaged, cut short, or has more
            than `MAX_PIXELS` pixels.
    """
    with _opened(path) as image:
        return _upright_rgb(image)


def image_size(path: Path | str) -> tuple[int, int]:
    """Width and height of the upright picture, which is decoded to its end, at the lowest resolution that its format
    offers.

    Raises:
        UnreadableImageError: as `load_image`.
    """
    with _opened(path) as image:
        width, height = image.size
        image.draft("RGB", (1, 1))
        with pixels_in_flight(image.width * image.height):
            image.load()
        is_turned = image.getexif().get(_ORIENTATION) in _QUARTER_TURNS
    return (height, width) if is_turned else (width, height)


def pixel_count(path: Path | str) -> int:
    """How many pixels a picture has, from the header of its file.

    Raises:
        UnreadableImageError: as `load_image`, but for damage behind the header.
    """
    with _opened(path) as image:
        return image.width * image.height


@contextmanager
def pixels_in_flight(count: int) -> Iterator[None]:
    """Wait until the pictures that other threads hold have at most `MAX_PIXELS` pixels together with these `count`."""
    global _in_flight
    with _changed:
        _changed.wait_for(lambda: _in_flight == 0 or _in_flight + count <= MAX_PIXELS)
        _in_flight += count
    try:
        yield
    finally:
        with _changed:
            _in_flight -= count
            _changed.notify_all()


def as_tensor(image: Image.Image) -> Float[Tensor, "3 height width"]:
    """An RGB image as values from 0 to 1."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div_(255)


def as_pixels(image: Float[Tensor, "3 height width"]) -> UInt8[np.ndarray, "height width 3"]:
    """The eight bits a channel that an image of values from 0 to 1 was made of: back from `as_tensor`."""
    return (image * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


_ORIENTATION = 0x0112
_QUARTER_TURNS = (5, 6, 7, 8)
_changed = threading.Condition()
_in_flight = 0


@contextmanager
def _opened(path: Path | str) -> Iterator[Image.Image]:
    """A picture that is not yet decoded; whatever goes wrong with it in the `with` statement is said of its file."""
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):  # a pipe without a writer would be waited for
            raise ValueError("it is no ordinary file")
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(
                    f"its {image.width} x {image.height} pixels are more than the {MAX_PIXELS:,} that a picture may "
                    "have; save it smaller"
                )
            yield image
    except (UnreadableImageError, MemoryError):  # a photo is not bad because the memory is full
        raise
    except Exception as error:  # what a decoder raises on damaged data is anything at all, from SyntaxError on
        raise UnreadableImageError(path, _reason(error)) from error


def _upright_rgb(image: Image.Image) -> Image.Image:
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):  # 16 bits; Pillow's own conversion would cut every value above 255 to white
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _reason(error: Exception) -> str:
    """What Pillow says, where it says more than that it could not."""
    if isinstance(error, UnidentifiedImageError):
        return ""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)
