"""Mean, standard deviation and paired difference over seeds, with a confidence interval."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from scipy.special import stdtrit

from xattn.runtime.errors import InputError

CONFIDENCE = 0.95
ROUNDING = 2e-6
"""Records have six digits after the point: a value is off by up to 5e-7, so two differences that are truly equal may be
2e-6 apart."""
Verdict = Literal["better", "worse", "rescue", ""]


@dataclass(frozen=True)
class Summary:
    """Of the values of one figure, one value per seed."""

    mean: float
    deviation: float | None
    """The sample's standard deviation, with `n - 1`; None for a single value."""
    n: int


def summary(values: Sequence[float]) -> Summary:
    """Mean and standard deviation.

    Raises:
        InputError: there is no value.

    Example:
        >>> summary([1.0, 2.0, 3.0])
        Summary(mean=2.0, deviation=1.0, n=3)
    """
    if not values:
        raise InputError("there is no value to take the mean of")
    return Summary(fmean(values), stdev(values) if len(values) > 1 else None, len(values))


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences, with its confidence interval."""

    mean: float
    low: float | None
    """The interval's lower end; None where there is no interval: of one pair, or of pairs that all differ by the
    same, up to `ROUNDING`."""
    high: float | None
    n: int
    """Pairs."""
    is_rescue: bool = False
    """Whether some base of its pairs is of a run that has not learned: whatever the interval, this is no gain."""

    @property
    def verdict(self) -> Verdict:
        """`better` or `worse` only where the interval excludes zero; `rescue` whatever it says."""
        if self.is_rescue:
            return "rescue"
        if self.low is None or self.high is None:
            return ""
        return "better" if self.low > 0 else "worse" if self.high < 0 else ""


def paired_difference(
    values: Mapping[int, float],
    base: Mapping[int, float],
    confidence: float = CONFIDENCE,
    is_rescue: bool = False,
) -> Difference | None:
    """The mean of `values - base` over the seeds that both have, with its interval by Student's t.

    With `d_s` the difference of seed `s`, `n` seeds, and `t` the `(1 + confidence) / 2` quantile of Student's
    distribution with `n - 1` degrees of freedom, the interval is `mean(d) -+ t sd(d) / sqrt(n)`. It supposes that the
    differences are drawn independently from a normal distribution, the seeds being what is drawn: it says nothing of
    other data. Where all pairs differ by the same, up to `ROUNDING`, the spread
    is not zero but unseen (recalls move in steps of one query), and there is no interval.

    Args:
        values: by seed.
        base: by seed.
        confidence: above 0 and below 1.
        is_rescue: whether some base is of a run that has not learned, see `Difference`.

    Returns:
        None where no seed is common.

    Example:
        >>> difference = paired_difference({0: 5.5, 1: 5.0, 2: 6.3}, {0: 0.0, 1: 0.0, 2: 0.0})
        >>> round(difference.mean, 2), round(difference.low, 2), round(difference.high, 2), difference.verdict
        (5.6, 3.97, 7.23, 'better')
    """
    if not 0 < confidence < 1:
        raise InputError(f"a confidence must be above 0 and below 1, but it is {confidence}")
    differences = [value - base[seed] for seed, value in values.items() if seed in base]
    if not differences:
        return None
    n, mean = len(differences), fmean(differences)
    slack = ROUNDING + 1e-9 * max(map(abs, differences))  # 1e-9: the rounding of the subtraction
    if max(differences) - min(differences) <= slack:
        return Difference(mean, None, None, n, is_rescue)
    half = float(stdtrit(n - 1, (1 + confidence) / 2)) * stdev(differences) / math.sqrt(n)
    return Difference(mean, mean - half, mean + half, n, is_rescue)
