"""Which negatives the hinge ranks against in an epoch: all of them while it begins, and then the hardest.

Against the hardest negatives from the first step, training may collapse (`xattn.training.collapse`). When they begin to
teach is not a matter of epochs, of which one may have twenty steps or a thousand, but of how far pairs stand off their
negatives already.
"""

from collections.abc import Sequence
from typing import Any

from xattn.losses.options import Negatives
from xattn.runs.config import MatchingConfig

READY = 0.25
"""From which spread of an epoch on hardest negatives teach, as a share of the margin."""


def negatives_in_epoch(matching: MatchingConfig, epoch: int, log: Sequence[dict[str, Any]] = ()) -> Negatives:
    """The negatives of an epoch; a soft loss ranks against all of them in every epoch.

    A function of what is in a checkpoint and alike on all processes, so that a run that goes on decides the same.

    Args:
        matching: the loss and its options.
        epoch: from 1.
        log: the entries of the epochs before, with the mean `spread` of each.
    """
    if matching.loss != "hinge" or epoch <= matching.all_negatives_epochs:
        return "all"
    if matching.hardest_from == "spread":
        before = [entry["spread"] for entry in log[: epoch - 1]]
        if max(before, default=0.0) < READY * matching.margin:
            return "all"
    return matching.negatives
