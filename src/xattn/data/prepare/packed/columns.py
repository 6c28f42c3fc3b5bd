"""Which columns of a packed set hold what, and the captions of a row.

The defaults are the columns of the hub's Flickr30K (`nlphuji/flickr30k`: `image`, `caption`, a list; `sentids`,
`split`, `img_id`, `filename`) and COCO-Karpathy (`yerevann/coco-karpathy`: `filepath`, `sentids`, `filename`, `imgid`,
`split`, `sentences`, a list; `cocoid`, `url`), and the endings of WebDataset's files.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from xattn.data.prepare.caption_file import Caption, caption_text, split_name
from xattn.data.prepare.karpathy import MOST_CAPTIONS
from xattn.runtime.errors import InputError
from xattn.runtime.jsonl import is_whole, preview

PHOTOS = ("image", "img", "jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
_CAPTIONS = ("caption", "captions", "sentences", "sentence", "text", "txt")
_SPLITS = ("split",)
_NAMES = ("filename", "file_name")


@dataclass(frozen=True)
class Columns:
    """What a person says of the columns; None: the first of the usual names that is there."""

    image: str | None = None
    caption: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class ChosenColumns:
    """The columns that are there, of one file or one row."""

    caption: str
    image: str | None
    split: str | None
    name: str | None


def chosen_columns(where: str, found: Collection[str], asked: Columns, has_photos: bool = True) -> ChosenColumns:
    """The columns to read.

    Args:
        where: what has them, for messages.
        found: their names.
        asked: what a person says of them.
        has_photos: whether photos are looked for.

    Raises:
        InputError: there is none of captions, or of photos where those are looked for, or a column that was asked for
            is not there; with all that are.
    """
    listed = ", ".join(found) or "none"
    for flag, name in (("image", asked.image), ("caption", asked.caption), ("split", asked.split)):
        if name is not None and name not in found:
            raise InputError(f"{where}: has no column {name} of --{flag}-column; its columns are {listed}")
    caption = asked.caption or _first(_CAPTIONS, found)
    image = asked.image or _first(PHOTOS, found)
    if has_photos and image is None:
        raise InputError(
            f"{where}: has no column of photos ({', '.join(PHOTOS)}); its columns are {listed}; name it with "
            "--image-column or, where the photos lie in a folder, give that with --images and make captions of this "
            "with `xattn prepare karpathy`"
        )
    if caption is None:
        raise InputError(
            f"{where}: has no column of captions ({', '.join(_CAPTIONS)}); its columns are {listed}; name it with "
            "--caption-column"
        )
    return ChosenColumns(caption, image, asked.split or _first(_SPLITS, found), _first(_NAMES, found))


def photo_name(where: str, record: Mapping[str, Any], chosen: ChosenColumns, otherwise: str) -> str:
    """What the photo of a row is called: its file's name, in the folder that `filepath` names, if the row has one, or
    that of the file that it was packed from, or another name.

    Raises:
        InputError: the name leads out of a folder.
    """
    image = record.get(chosen.image) if chosen.image else None
    name = record.get(chosen.name) if chosen.name else None
    if isinstance(name, str) and name.strip():
        folder = record.get("filepath")
        name = str(PurePosixPath(folder) / name.strip()) if isinstance(folder, str) and folder else name.strip()
    elif isinstance(image, Mapping) and isinstance(image.get("path"), str) and image["path"].strip():
        name = PurePosixPath(image["path"].strip()).name
    else:
        name = otherwise
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or any(letter in name for letter in "\0\\\n\r"):
        raise InputError(f"{where}: expected a photo's name to be a path within a folder, found {preview(name)}")
    return str(path)


def captions_of(
    where: str, record: Mapping[str, Any], chosen: ChosenColumns, image: str, split: str | None
) -> list[Caption]:
    """The captions of a row; of a set with Karpathy's `sentids` the first five, and its `restval` is `train`, as in his
    split files. A text is one caption, a list has several, of texts or of objects with `raw`.

    Args:
        where: the row, for messages.
        record: its values by column.
        chosen: what they are.
        image: the photo's name.
        split: that of the file, where the row has none.

    Raises:
        InputError: a caption or split is none, or there are not as many ids as captions.
    """
    said = record.get(chosen.caption)
    texts = [said] if isinstance(said, str) else said
    if not isinstance(texts, list):
        raise InputError(f"{where}: expected {chosen.caption} to be a text or a list of texts, found {preview(said)}")
    texts = [text.get("raw") if isinstance(text, Mapping) else text for text in texts]
    ids = record.get("sentids")
    if ids is not None and (not isinstance(ids, list) or len(ids) != len(texts)):
        raise InputError(f"{where}: expected sentids to be a list of {len(texts)}, one a caption, found {preview(ids)}")
    named = record.get(chosen.split) if chosen.split else None
    if named is not None:
        named = split_name(named, where)
        split = "train" if named.casefold() == "restval" else named
    number = record.get("cocoid")
    return [
        Caption(
            image=image,
            text=caption_text(text, where),
            line=0,
            split=split,
            image_id=str(number) if is_whole(number) else None,
            caption_id=None if ids is None else str(ids[place]),
        )
        for place, text in enumerate(texts[: len(texts) if ids is None else MOST_CAPTIONS])
    ]


def _first(names: Collection[str], found: Collection[str]) -> str | None:
    return next((name for name in names if name in found), None)
