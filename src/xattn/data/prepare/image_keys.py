"""One name for an image, whatever a source calls it: what files are joined by."""

import re
from pathlib import PurePosixPath

_COCO = re.compile(r"(?:COCO_\w+_)?0*(\d+)")


def image_key(name: str | int) -> str:
    """The key of an image: COCO's number where its name is one, else the name of its file without folder and ending.

    >>> [image_key(name) for name in (391895, "000000391895.jpg", "val2014/COCO_val2014_000000391895.jpg")]
    ['391895', '391895', '391895']
    >>> image_key("flickr30k-images/1000092795.jpg"), image_key("1001773457_577c3a7d70.jpg")
    ('1000092795', '1001773457_577c3a7d70')
    """
    stem = re.sub(r"\.(?:jpe?g|png)$", "", PurePosixPath(str(name)).name, flags=re.IGNORECASE)
    number = _COCO.fullmatch(stem)
    return number[1] if number else stem
