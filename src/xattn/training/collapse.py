"""The collapse to equal scores, known from how far pairs stand off their negatives.

If all pairs score the same, the hardest negative of every pair is a matter of rounding, its gradient says nothing, and
training seldom finds out. Faghri et al. (VSE++, BMVC 2018) report it of hardest negatives and slow starts; ranking
against all negatives at first, or a loss in which all of them have a share, is the known cure.

The sign is the spread of the scores (`xattn.losses.ranking.score_spread`), which is near 0 then and in no other case
for long. The loss itself is a later and a weaker sign: it creeps towards that of equal scores, `2 margin` a pair with
the hinge, for hundreds of steps.
"""

from xattn.losses.options import Negatives
from xattn.runs.config import MatchingConfig

NEAR = 0.05
"""Up to which spread scores are alike, as a share of the loss's own scale: the margin, or InfoNCE's temperature."""
STEPS = 30
"""For how many steps on end."""


def collapsed_steps(before: int, spread: float, matching: MatchingConfig, kind: Negatives) -> int:
    """For how many steps on end, this one included, the scores of a batch have been alike.

    Args:
        before: what this gave for the step before.
        spread: of the step, the mean over its pairs.
        matching: the loss, and its margin or temperature.
        kind: the negatives that the step ranked against; a hinge against all of them is a slow start and no collapse.
    """
    teaches = matching.loss == "hinge" and kind == "all"
    return before + 1 if not teaches and spread < NEAR * loss_scale(matching) else 0


def loss_scale(matching: MatchingConfig) -> float:
    """The difference of scores that the ranking loss takes for a large one."""
    return matching.temperature if matching.loss == "infonce" else matching.margin


def advice(epoch: int, matching: MatchingConfig) -> str:
    """What to tell the person who waits."""
    remedy = "start again with a lower --learning-rate"
    if matching.loss == "hinge":
        longer = matching.all_negatives_epochs + 1
        remedy = (
            f"start again with --matching.all-negatives-epochs {longer}, with --matching.loss infonce, or with a lower "
            "--learning-rate"
        )
    bound = NEAR * loss_scale(matching)
    return (
        f"epoch {epoch}: for {STEPS} steps pairs have scored less than {bound:g} above the mean of their negatives: "
        f"all scores are alike, and training has probably collapsed; if the loss does not fall soon, {remedy}"
    )
