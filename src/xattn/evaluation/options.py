"""What can be asked of an evaluation; without PyTorch, for the command line."""

from dataclasses import dataclass
from typing import Literal

from xattn.runs.config import Precision
from xattn.runtime.errors import InputError

ProtocolName = Literal["f30k-1k", "coco-1k", "coco-5k"]
"""The papers' protocols; see `xattn.evaluation.protocols`."""


@dataclass(frozen=True)
class EvaluationOptions:
    """What is measured, and how.

    Raises:
        InputError: an IoU is not above 0 and at most 1, or there is none.
    """

    iou: tuple[float, ...] = (0.5,)
    """How much a region must overlap an annotated box to be relevant to its words; of several values the first is the
    one that all attention figures but `Evaluation.attention_by_iou` are at."""
    precision: Precision = "fp32"
    """Of the products of fragments with fragments; `bf16` is faster where the processor has it and rounds scores."""
    protocol: ProtocolName | None = None
    """One of the papers' protocols: the right split, in the right folds, or a refusal."""
    by_type: bool = False
    """Whether attention is measured for each type of phrase too."""
    eccv: bool = False
    """Whether ECCV Caption and CxC are measured too, on COCO's 5,000 test images."""
    prior: float | None = None
    """The power of the regions' scores that words' attention takes as its prior, in place of the one that a run was
    trained with; None: that one."""
    prior_area: float | None = None
    """The power of the regions' areas in that prior, in place of the one of the run; None: that one."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "iou", tuple(dict.fromkeys(self.iou)))  # each once
        for each in self.iou:
            if not 0 < each <= 1:
                raise InputError(f"iou must be above 0 and at most 1, but it is {each}")
        if not self.iou:
            raise InputError("iou needs at least one value")
