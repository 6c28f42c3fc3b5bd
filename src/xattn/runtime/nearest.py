"""The known names nearest to one that is not known: the end of an error sentence."""

import difflib
from collections.abc import Collection


def did_you_mean(name: str, known: Collection[str], *, otherwise: str | None = None, cutoff: float = 0.6) -> str:
    """`did you mean a or b?` for up to three known names of similar spelling, whatever the case of their letters.

    Args:
        name: what was asked for.
        known: what there is.
        otherwise: what to say where none is similar; by default all that there is.
        cutoff: how similar the spelling must be, from 0 to 1; see `difflib.get_close_matches`.

    Example:
        >>> did_you_mean("trian", ["train", "runs"])
        'did you mean train?'
        >>> did_you_mean("VAL", ["dev", "test"])
        'there are dev, test'
    """
    spellings = {each.casefold(): each for each in known}
    near = [spellings[each] for each in difflib.get_close_matches(name.casefold(), spellings, n=3, cutoff=cutoff)]
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"there are {', '.join(known)}" if otherwise is None else otherwise
