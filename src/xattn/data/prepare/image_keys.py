"""One name for an image, whatever a source calls it: what files are joined by."""

import re
import unicodedata
from pathlib import PurePosixPath

_COCO = re.compile(r"(?:COCO_\w+_)?(\d+)", re.ASCII)
_FLICKR = re.compile(r"(\d{5,})_[0-9a-f]{10}", re.ASCII)
_ENDING = re.compile(r"\.(?:jpe?g|png)\Z", re.IGNORECASE)


def image_key(name: str | int) -> str:
    r"""The key of an image: COCO's number where its name is one, else the name of its file without folder and ending.

    Folders end with `/` or `\`, and the forms of Unicode in which systems write an accent are one.

    >>> [image_key(name) for name in (391895, "000000391895.jpg", "val2014/COCO_val2014_000000391895.jpg")]
    ['391895', '391895', '391895']
    >>> image_key("flickr30k-images/1000092795.jpg"), image_key("1001773457_577c3a7d70.jpg")
    ('1000092795', '1001773457_577c3a7d70')
    >>> image_key("photos\\cafe\u0301.JPG") == image_key("caf\u00e9.jpg")
    True
    """
    spelt = unicodedata.normalize("NFC", str(name)).replace("\\", "/")
    stem = _ENDING.sub("", PurePosixPath(spelt).name)
    number = _COCO.fullmatch(stem)
    return number[1].lstrip("0") or "0" if number else stem


def flickr_number(key: str) -> str | None:
    """The number of a photo on Flickr, by which Flickr30K calls it, from a key that is the name of its file there; None
    if it is none.

    >>> flickr_number("1000268201_693b08cb0e"), flickr_number("1000268201")
    ('1000268201', None)
    """
    named = _FLICKR.fullmatch(key)
    return named[1] if named else None


def photo_key(name: str) -> str:
    r"""What spellings of one name have in common: the form of Unicode, `\` for `/`, `./`, and the case of letters.

    >>> photo_key("./More\\A.JPG")
    'more/a.jpg'
    """
    return PurePosixPath(unicodedata.normalize("NFC", name).replace("\\", "/")).as_posix().casefold()
