"""Runs with another prior over regions than the one that they were trained with."""

import math
from collections.abc import Sequence
from dataclasses import replace

from xattn.models.config import attention_directions
from xattn.models.prior import RegionPrior
from xattn.runs.folder import Run
from xattn.runtime.errors import InputError


def with_prior(runs: Sequence[Run], power: float | None = None, area_power: float | None = None) -> list[Run]:
    """The runs with a fixed power of the regions' scores as the prior of their words' attention; weights are shared.

    Runs in which regions alone attend stay as they are.

    Args:
        runs: trained with any prior or none.
        power: `beta` of `xattn.models.prior`, at least 0; 0 takes a prior away; None is that of each run.
        area_power: `gamma` of `xattn.models.prior`, at least 0; None is that of each run. With neither of the two given
            the runs are returned as they are.

    Raises:
        InputError: a power is below 0 or not finite, in none of the runs do words attend to regions, or areas are to
            count in a run without a prior.
    """
    given = {"prior": power, "prior_area": area_power}
    for name, value in given.items():
        if value is not None and not 0 <= value < math.inf:
            raise InputError(f"{name} must be at least 0 and finite, but it is {value}")
    if all(value is None for value in given.values()):
        return list(runs)
    attends = ["t2i" in attention_directions(run.config.model) for run in runs]
    if not any(attends):
        raise InputError(
            f"{' and '.join(str(run.folder) for run in runs)}: regions attend to words there, so no prior over "
            "regions can be taken"
        )
    return [
        _with_prior(run, power, area_power) if has_words else run for run, has_words in zip(runs, attends, strict=True)
    ]


def _with_prior(run: Run, power: float | None, area_power: float | None) -> Run:
    own = run.config.model
    power = run.model.prior_power if power is None else power
    area_power = own.prior_area if area_power is None else area_power
    config = replace(own, prior=power, learn_prior=False, prior_area=area_power if power or not own.prior else 0.0)
    return replace(run, config=replace(run.config, model=config), model=run.model.with_prior(RegionPrior(config)))
