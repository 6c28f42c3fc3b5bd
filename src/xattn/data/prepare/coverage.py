"""How much of the truth the proposals can reach: a phrase that no region overlaps cannot be attended to, whatever the
model.
"""

from dataclasses import dataclass

import numpy as np

from xattn.data.boxes import iou as box_iou
from xattn.data.split import Split


@dataclass(frozen=True)
class Coverage:
    """Counts over the annotated captions of a split; printed, one line.

    Args:
        captions: how many have a phrase with boxes.
        of_captions: out of how many.
        tokens: how many tokens lie in such a phrase, each once.
        phrases: how many phrases have boxes.
        covered: how many of these have a region with an IoU at or above `iou` with one of their boxes.
    """

    captions: int
    of_captions: int
    tokens: int
    phrases: int
    covered: int
    iou: float

    def __str__(self) -> str:
        share = f" ({100 * self.covered / self.phrases:.1f}%)" if self.phrases else ""
        return (
            f"{self.captions} of {self.of_captions} captions have truth, for {self.tokens} tokens in {self.phrases} "
            "phrases; "
            f"{self.covered} phrases{share} have a region at IoU {self.iou:g}, which bounds the recall of any attention"
        )


def coverage(split: Split, iou: float = 0.5) -> Coverage:
    """The coverage of a split that has truth and boxes x1 y1 x2 y2.

    Example: a phrase whose only box is half of the nearest region is covered at an IoU of 0.5 and not at 0.6.
    """
    assert split.truth is not None
    assert split.boxes is not None
    captions = tokens = phrases = covered = 0
    for row, spans in split.truth.items():
        image = int(split.caption_image[row])
        regions = np.asarray(split.boxes[image][: int(split.counts[image])], dtype=np.float64)
        named = [span for span in spans if span.boxes]
        captions += bool(named)
        tokens += len({token for span in named for token in range(span.start, span.end)})
        phrases += len(named)
        covered += sum(
            bool((box_iou(np.asarray(span.boxes, dtype=np.float64), regions) >= iou).any()) for span in named
        )
    return Coverage(captions, split.n_captions, tokens, phrases, covered, iou)
