"""From a source's captions to a captions file with truth, which `xattn prepare photos` and `xattn prepare tsv` take."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from xattn.data.prepare.caption_file import Caption, write_captions
from xattn.data.prepare.captions import captions_from
from xattn.data.prepare.coco import read_instances, with_category_truth
from xattn.data.prepare.flickr30k_entities import with_entity_truth


def prepare_karpathy(captions: Path, out: Path) -> str:
    """Write the captions of a split file of Karpathy's; gives what a person wants to know. Raises as
    `captions_from`.
    """
    found = captions_from(captions)
    write_captions(out, found)
    return counted(out, found)


def prepare_coco(captions: Sequence[Path], instances: Sequence[Path], out: Path) -> str:
    """Write captions with truth from instances; gives what a person wants to know.

    Raises:
        InputError: as `captions_from`, `read_instances` and `with_category_truth`.
    """
    boxes = read_instances(instances)
    found = with_category_truth(captions_from(captions), boxes)
    write_captions(out, found)
    kinds = Counter(span.type or "" for caption in found for span in caption.spans)
    skipped = f"Left out: {boxes.crowds} crowds, {boxes.without_area} boxes without area."
    by_type = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common()) or "none"
    return "\n".join([counted(out, found), truth_counted(found), f"by type: {by_type}", skipped])


def prepare_entities(captions: Path, annotations: Path, out: Path) -> str:
    """Write captions with truth from Flickr30K Entities; gives what a person wants to know.

    Raises:
        InputError: as `captions_from` and `with_entity_truth`.
    """
    found, summary = with_entity_truth(captions_from(captions), annotations)
    write_captions(out, found)
    return "\n".join([counted(out, found), truth_counted(found), str(summary)])


def counted(out: Path, captions: Sequence[Caption]) -> str:
    """How many images and captions each split has."""
    by_split: dict[str, list[str]] = {}
    for caption in captions:
        by_split.setdefault(caption.split or "no split,", []).append(caption.image)
    return f"{out}: " + ", ".join(
        f"{name} {len(set(images))} images {len(images)} captions" for name, images in by_split.items()
    )


def truth_counted(captions: Sequence[Caption]) -> str:
    """How many captions and tokens have truth."""
    named = [[span for span in caption.spans if span.boxes] for caption in captions]
    tokens = sum(len({token for span in spans for token in range(span.start, span.end)}) for spans in named)
    with_truth = sum(bool(spans) for spans in named)
    return f"{with_truth} of {len(captions)} captions have truth, for {tokens} tokens in {sum(map(len, named))} phrases"
