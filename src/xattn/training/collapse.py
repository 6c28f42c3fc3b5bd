"""The collapse that hardest negatives can bring: every score alike, and a ranking loss that stays at twice the margin.

If all pairs score the same, the hinge of each pair is the margin in both directions, `2 margin` a pair. The hardest
negative of every pair is then a matter of rounding, its gradient says nothing, and training seldom finds out. Faghri et
al. (VSE++, BMVC 2018) report it of hardest negatives and slow starts; ranking against all negatives at first is the
known cure.
"""

from xattn.losses.options import Negatives
from xattn.runs.config import MatchingConfig

NEAR = 0.02
"""How near to twice the margin the loss of a pair must be, as a share of it."""
STEPS = 100
"""For how many steps on end."""


def collapsed_steps(before: int, match: float, pairs: int, matching: MatchingConfig, kind: Negatives) -> int:
    """For how many steps on end, this one included, the ranking loss has been that of equal scores.

    Args:
        before: what this gave for the step before.
        match: the ranking loss of the step, a sum over its pairs.
        pairs: how many pairs it has.
        matching: the margin.
        kind: the negatives that the step ranked against; only the hardest collapse.
    """
    collapsed = 2 * matching.margin
    is_near = kind == "hardest" and collapsed > 0 and abs(match / pairs - collapsed) <= NEAR * collapsed
    return before + 1 if is_near else 0


def advice(epoch: int, matching: MatchingConfig) -> str:
    """What to tell the person who waits."""
    longer = matching.all_negatives_epochs + 1
    return (
        f"epoch {epoch}: the ranking loss has stayed at twice the margin ({2 * matching.margin:g} a pair) for {STEPS} "
        "steps, as it does "
        f"when all scores are alike and hardest negatives teach nothing; if it does not fall soon, start again with "
        f"--matching.all-negatives-epochs {longer}, or with a lower --learning-rate"
    )
