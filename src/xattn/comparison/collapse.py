"""Whether the run of a record has collapsed: its scores were alike when the training ended."""

from xattn.comparison.records import Record

NEAR = 0.05
"""How near the hinge's loss must be to that of equal scores, as a share of it."""


def has_collapsed(record: Record) -> bool | None:
    """What the record says, or, where it is of a version that measured no spread of scores, what its loss says.

    If all pairs score the same, the hinge with hardest negatives is `2 margin` a pair, one `margin` for each side. A
    run whose ranking loss in its last epoch is within 5% of that, or above it, counts as collapsed. Some that have just
    begun to leave the collapse do so, too: neither is a model that has learned.

    Returns:
        None where neither tells: of a model of somebody else's, say.
    """
    if record.collapsed is not None:
        return record.collapsed
    matching, losses = record.configuration.get("matching"), record.log.get("match")
    if not isinstance(matching, dict) or not losses or losses[-1] is None:
        return None
    margin = matching.get("margin")
    is_hinge = matching.get("loss", "hinge") == "hinge" and matching.get("negatives") == "hardest"
    if not is_hinge or not isinstance(margin, (int, float)):
        return None
    return losses[-1] >= (1 - NEAR) * 2 * margin
