"""`xattn prepare`: from photos, or the field's own files, to a data folder, or to captions with truth."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from xattn.cli.printing import print_lines
from xattn.data.prepare.options import AppendPart, FloatType, JoinBy, RegionSource, RegionView


@dataclass(frozen=True)
class Photos:
    """Turn a folder of captioned photos into a data folder: boxes, and EfficientNet-Lite0 features pooled for each box.

    Interrupted, the same command resumes. `xattn regions` is another name of `xattn prepare photos`.
    """

    images: tuple[Path, ...]
    """The folder of photos, subfolders included; or a set that holds photos and captions: parquet files, the folder of
    a `datasets` set, or WebDataset shards (.tar). Its photos are written to OUT/photos, its captions to
    OUT/captions.jsonl."""
    out: Path
    """The data folder to write."""
    captions: Path | None = None
    """A CSV or JSONL file with image, caption and, optionally, split; without splits, a tenth each goes to dev and
    test. For a set that holds captions: a file to take in their place, such as one with truth."""
    image_column: str | None = None
    """Of a set: its column of photos, or the ending of their files; by default image, img, jpg, png, ..."""
    caption_column: str | None = None
    """Of a set: its column of captions, of texts or lists of texts; by default caption, captions, sentences, sentence,
    text, txt."""
    split_column: str | None = None
    """Of a set: its column of splits; by default split, and without it the names of the files."""
    boxes: Path | None = None
    """JSONL with the boxes of each image, {"image": "a.jpg", "boxes": [[x1, y1, x2, y2], ...]} in pixels, in place of
    windows; with "scores" and "labels", one a box, they are detections."""
    detector: str | None = None
    """What finds the regions: torchvision:MODEL or transformers:MODEL (or a folder), in place of windows."""
    queries: tuple[str, ...] = ()
    """What to look for, for detectors that are asked in words, such as OWLv2."""
    backbone: str | None = None
    """What makes the features, in place of EfficientNet-Lite0: timm:MODEL or transformers:MODEL (or a folder)."""
    size: int | None = None
    """The longer side of the photo that EfficientNet-Lite0 sees (320), or the side of the square that another backbone
    does (that with which it was trained)."""
    regions: RegionSource = "windows"
    """What the regions are with neither --boxes nor --detector: windows; patches, the places of the last map of a
    --backbone of timm or transformers, such as CLIP's, SigLIP's or DINOv2's, one vector each."""
    region_view: RegionView = "map"
    """What a region's vector is of: map, the map of the whole photo, averaged over the region; crop, the region cut out
    and seen alone; both, one beside the other."""
    crop_size: int | None = None
    """Of crop and both: how large the backbone sees a region alone, in pixels as --size; 128 by default."""
    crop_margin: float | None = None
    """Of crop and both: by what part of its sides a region is enlarged before it is cut out; 0.08 by default."""
    append: tuple[AppendPart, ...] = ()
    """What to put behind each region's vector: labels, a 1 at its label among those of the folder; boxes, its corners
    and area as parts of the photo."""
    label_model: str | None = None
    """A text model of transformers, by name or folder: its vector of the words of each region's label, times the
    region's score, is put behind the region's vector."""
    n_boxes: int = 36
    """Of windows: how many of the 36 multi-scale ones to take of each image."""
    n_detections: int = 26
    """Of detections: the most to take of each image, the best by score."""
    n_windows: int = 10
    """Of detections: how many windows to add for what they miss; places that they leave free are windows too."""
    nms: float = 0.45
    """Of detections: of two that overlap by a larger IoU the lesser is left out."""
    skip_bad: bool = False
    """Leave images out that cannot be read, with their captions, and list them in left_out.txt."""
    shard: str | None = None
    """I/N: compute only part I of N of the photos, into OUT.shards, for any scheduler; then --join."""
    join: bool = False
    """Join the shards in OUT.shards to the data folder, with else the same options as they had."""
    ray: bool = False
    """Have the features computed by workers of Ray, on this machine or on a cluster."""
    ray_workers: int | None = None
    """Of Ray: how many workers; by default one a graphics card or, without cards, one a processor."""
    ray_address: str | None = None
    """Of Ray: that of a cluster, as ray.init takes it; by default RAY_ADDRESS. Without either, Ray is started here."""

    def run(self) -> None:
        """Call `xattn.data.prepare.photos.write_regions`."""
        from functools import partial

        from xattn.data.prepare.features.by_name import detector_by_name, viewing_backbone
        from xattn.data.prepare.features.mixing import Mix
        from xattn.data.prepare.packed.columns import Columns
        from xattn.data.prepare.photo_ray import ray_workers
        from xattn.data.prepare.photos import write_regions
        from xattn.data.prepare.shard import Shard
        from xattn.models.config import WordsConfig
        from xattn.models.text_model import load_text_model

        seen_by = (self.backbone, self.size, self.region_view, self.crop_size, self.crop_margin)
        backbone = partial(viewing_backbone, *seen_by)
        detector = partial(detector_by_name, self.detector, self.queries) if self.detector is not None else None
        ray = ray_workers(self.ray, self.ray_workers, self.ray_address, backbone, detector)
        summary = write_regions(
            self.images,
            self.captions,
            self.out,
            boxes=self.boxes,
            n_boxes=self.n_boxes,
            skip_bad=self.skip_bad,
            detector=detector() if detector else None,
            backbone=backbone(),
            mix=Mix(self.n_detections, self.n_windows, self.nms),
            regions=self.regions,
            columns=Columns(self.image_column, self.caption_column, self.split_column),
            append=self.append,
            label_reader=load_text_model(WordsConfig(model=self.label_model or "")),
            shard=None if self.shard is None else Shard.parse(self.shard),
            join=self.join,
            ray=ray,
        )
        print_lines(summary)


@dataclass(frozen=True)
class Archive:
    """A data folder of the precomp archive that SCAN published: features are linked, repeated images told apart, boxes
    joined from a TSV.

    Needs {train,dev,test,testall}_ims.npy with _caps.txt and, where there are some, _ids.txt; kept on Kaggle as
    kuanghueilee/scan-features. It has no boxes: they come from a bottom-up-attention TSV of the same extraction.
    """

    archive: Path
    """The folder of the archive."""
    out: Path
    """The data folder to write."""
    captions: Path | None = None
    """Captions of the same images, for truth, ids of captions and the join: of `prepare entities` or `coco`, or
    Karpathy's split file."""
    boxes_from: tuple[Path, ...] = ()
    """Bottom-up-attention TSV files of the same extraction; where their features differ from the archive's, they are
    refused."""
    join: JoinBy | None = None
    """How an image is found in the other files: by the archive's ids, or by its captions; by default by ids in a split
    that has them."""

    def run(self) -> None:
        """Call `xattn.data.prepare.archive.write_archive_folder`."""
        from xattn.data.prepare.archive import write_archive_folder
        from xattn.data.prepare.captions import captions_from

        captions = captions_from(self.captions) if self.captions else ()
        print_lines(write_archive_folder(self.archive, self.out, captions, self.boxes_from, self.join))


@dataclass(frozen=True)
class Tsv:
    """A data folder of bottom-up-attention TSV files, with boxes; one pass, which the same command takes up again if it
    is broken off.

    Needs TSV files with the columns image_id, image_w, image_h, num_boxes, boxes, features, kept by
    peteanderson80/bottom-up-attention on GitHub (36 or 10 to 100 boxes an image), or made with its extractor; and
    captions.
    """

    tsv: tuple[Path, ...]
    """The files, in any order of images."""
    captions: Path
    """The captions: Karpathy's split file, or what `prepare coco` or `prepare entities` wrote, whose truth goes
    along."""
    out: Path
    """The data folder to write."""
    n_regions: int = 36
    """The most boxes of an image: 36, or 100 for the files of 10 to 100."""
    dtype: FloatType = "float16"
    """Of the features on disk."""
    images: Path | None = None
    """The folder of the pictures, for `xattn attend` and `xattn search` to draw on; nothing in it is read now."""

    def run(self) -> None:
        """Call `xattn.data.prepare.tsv_folder.write_tsv_folder`."""
        from xattn.data.prepare.captions import captions_from
        from xattn.data.prepare.tsv_folder import write_tsv_folder

        captions = captions_from(self.captions)
        print_lines(write_tsv_folder(self.tsv, captions, self.out, self.n_regions, self.dtype, self.images))


@dataclass(frozen=True)
class Karpathy:
    """Captions, splits and file names of Karpathy's split file, as a captions file for `xattn prepare
    photos`.

    Needs dataset_flickr30k.json or dataset_coco.json, of Karpathy's caption_datasets.zip at
    cs.stanford.edu/people/karpathy/deepimagesent; or the same as parquet, as the hub's yerevann/coco-karpathy has it.
    The other sources also read such files as they are.
    """

    captions: Path
    """The split file; a parquet file, or a folder of them."""
    out: Path
    """The captions file to write, in JSONL."""

    def run(self) -> None:
        """Call `xattn.data.prepare.preparing.prepare_karpathy`."""
        from xattn.data.prepare.preparing import prepare_karpathy

        print_lines(prepare_karpathy(self.captions, self.out))


@dataclass(frozen=True)
class Coco:
    """Captions of COCO with truth: words that name one of its 80 categories get the boxes of the instances. Writes a
    captions file.

    Needs captions_*.json, or dataset_coco.json for the papers' splits, and instances_*.json of the same images, both at
    cocodataset.org: the annotations of 2014 (which dataset_coco.json is about) or of 2017.
    """

    captions: tuple[Path, ...]
    """COCO's captions files, or Karpathy's split file."""
    instances: tuple[Path, ...]
    """COCO's instances files."""
    out: Path
    """The captions file to write, in JSONL, for `xattn prepare photos` or `xattn prepare tsv`."""

    def run(self) -> None:
        """Call `xattn.data.prepare.preparing.prepare_coco`."""
        from xattn.data.prepare.preparing import prepare_coco

        print_lines(prepare_coco(self.captions, self.instances, self.out))


@dataclass(frozen=True)
class Entities:
    """Captions of Flickr30K with truth: each phrase of Flickr30K Entities gets its entity's boxes. Writes a captions
    file.

    Needs the folders Sentences and Annotations, of annotations.zip of BryanPlummer/flickr30k_entities on GitHub, and
    the captions with their splits.
    """

    captions: Path
    """Karpathy's dataset_flickr30k.json, or a captions file."""
    annotations: Path
    """The folder that holds Sentences and Annotations."""
    out: Path
    """The captions file to write, in JSONL, for `xattn prepare photos` or `xattn prepare tsv`."""

    def run(self) -> None:
        """Call `xattn.data.prepare.preparing.prepare_entities`."""
        from xattn.data.prepare.preparing import prepare_entities

        print_lines(prepare_entities(self.captions, self.annotations, self.out))


SOURCES: dict[str, type] = {
    "photos": Photos,
    "archive": Archive,
    "tsv": Tsv,
    "karpathy": Karpathy,
    "coco": Coco,
    "entities": Entities,
}


@dataclass(frozen=True)
class Prepare:
    """Turn photos, or the field's own files, into a data folder, or into captions with truth.

    `xattn prepare SOURCE --help` explains each source.
    """

    source: Annotated[
        Annotated[Photos, tyro.conf.subcommand("photos", prefix_name=False)]
        | Annotated[Archive, tyro.conf.subcommand("archive", prefix_name=False)]
        | Annotated[Tsv, tyro.conf.subcommand("tsv", prefix_name=False)]
        | Annotated[Karpathy, tyro.conf.subcommand("karpathy", prefix_name=False)]
        | Annotated[Coco, tyro.conf.subcommand("coco", prefix_name=False)]
        | Annotated[Entities, tyro.conf.subcommand("entities", prefix_name=False)],
        tyro.conf.arg(name=""),
    ]

    def run(self) -> None:
        """Prepare the source."""
        self.source.run()
