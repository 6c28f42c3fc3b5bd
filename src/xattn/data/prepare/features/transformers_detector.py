"""Detectors of the library transformers: DETR, RT-DETR, YOLOS and their like, and OWL-ViT and OWLv2, asked in words."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from xattn.data.prepare.features.detector import Detections, unique_names
from xattn.data.prepare.features.images import as_pixels
from xattn.runtime.device import best_device
from xattn.runtime.errors import InputError
from xattn.runtime.pretrained import loading, weights_digest

LEAST_SCORE = 0.01
"""Detections of a lower score are not looked at; there are always more that are surely nothing."""
_ASKED_IN_WORDS = ("owlvit", "owlv2")


class TransformersDetector:
    """An object detection model of transformers with its own image processor.

    Args:
        name: of a model on the hub, or a folder that `save_pretrained` wrote.
        queries: what to look for, for models that are asked in words; their labels are these.

    Raises:
        InputError: transformers is missing, there is no such model, or queries are missing or without meaning.
    """

    def __init__(self, name: str, queries: Sequence[str] = ()) -> None:
        with loading("transformers", name, "transformers"):
            import transformers

            config: Any = transformers.AutoConfig.from_pretrained(name)
            self._is_asked = config.model_type in _ASKED_IN_WORDS
            kind = "AutoModelForZeroShotObjectDetection" if self._is_asked else "AutoModelForObjectDetection"
            model: Any = getattr(transformers, kind).from_pretrained(name)
            processor_kind = transformers.AutoProcessor if self._is_asked else transformers.AutoImageProcessor
            self._processor: Any = processor_kind.from_pretrained(name)
        if self._is_asked != bool(queries):
            wanted = "is asked in words; say what to look for with --queries" if self._is_asked else "takes no queries"
            raise InputError(f"transformers:{name} {wanted}")
        self._queries = list(queries)
        self._model = model.eval().to(best_device())
        labels = [config.id2label[number] for number in sorted(config.id2label)]
        self.label_names = unique_names(self._queries or labels)
        self.identity = f"transformers {config.model_type}, weights {weights_digest(self._model)}" + (
            f", asked for {', '.join(self._queries)}" if queries else ""
        )

    def detect(self, image: Float[Tensor, "3 height width"]) -> Detections:
        """All detections of an image from `LEAST_SCORE` on; see `Detector.detect`."""
        asked = {"text": [self._queries]} if self._is_asked else {}
        inputs = self._processor(images=[as_pixels(image)], return_tensors="pt", **asked).to(self._model.device)
        with torch.inference_mode():
            outputs = self._model(**inputs)
        name = "post_process_grounded_object_detection" if self._is_asked else "post_process_object_detection"
        sizes = torch.tensor([image.shape[1:]])
        (found,) = getattr(self._processor, name)(outputs, threshold=LEAST_SCORE, target_sizes=sizes)
        return Detections(*(found[each].cpu() for each in ("boxes", "scores", "labels")))
