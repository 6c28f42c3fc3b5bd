"""One step of the optimiser: the loss of a batch, its gradient over all processes, and nothing done if they are not
finite.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from xattn.data.batches import PairBatch
from xattn.losses.options import Negatives
from xattn.losses.temperature import LearntTemperature
from xattn.models.base import MatchingModel, evaluating
from xattn.models.fragments import Fragments
from xattn.runs.config import RunConfig
from xattn.runtime.errors import InputError
from xattn.runtime.process_group import SINGLE_PROCESS, ProcessGroup
from xattn.training.loss import BatchLoss, WordWeights, batch_loss

_TERM_NAMES = {"match": "matching", "ccr": "CCR", "ccs": "CCS"}


def training_step(
    model: MatchingModel,
    optimiser: torch.optim.Optimizer,
    parts: Sequence[PairBatch],
    config: RunConfig,
    epoch: int,
    word_weights: WordWeights,
    swaps: torch.Generator,
    step: int = 1,
    measures_gradients: bool = False,
    process_group: ProcessGroup = SINGLE_PROCESS,
    kind: Negatives | None = None,
    temperature: LearntTemperature | None = None,
) -> BatchLoss:
    """One step of the optimiser; the loss and its terms are those of the whole batch, on every process.

    Args:
        model: what is trained.
        optimiser: of its parameters, and of a temperature.
        parts: of the batch, one after another; of each, the pairs of this process. Negatives come from a pair's own
            part.
        config: margins, weights, precision, clipping.
        epoch: from 1.
        word_weights: how much each word counts as a query.
        swaps: the source of chance for drawn negatives and random swaps.
        step: of the epoch, from 1; for the message.
        measures_gradients: of each term on the fragments, see `batch_loss`.
        process_group: the processes that train together, each on its pairs of the parts.
        kind: which negatives the hinge ranks against; by default what the number of the epoch says.
        temperature: of InfoNCE, where it is learnt. Its gradient has no part in the norm that is clipped: Adam's step
            does not depend on its scale.

    Raises:
        InputError: the loss or its gradient is not finite; the terms and the captions are named, and nothing is
            updated.
    """
    optimiser.zero_grad(set_to_none=True)
    parts_computed = [
        _add_gradient(
            model, part, config, epoch, word_weights, swaps, measures_gradients, process_group, kind, temperature
        )
        for part in parts
    ]
    of_temperature = [] if temperature is None else [*temperature.parameters()]
    process_group.all_reduce_gradients([*model.parameters(), *of_temperature])
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
    computed = _together(parts_computed)
    if not bool(torch.isfinite(computed.loss) & torch.isfinite(norm)):
        raise InputError(_not_finite(model, parts, computed, config, f"epoch {epoch}, step {step}", process_group))
    optimiser.step()
    if temperature is not None:
        temperature.clip_()
    return computed


def _add_gradient(
    model: MatchingModel,
    part: PairBatch,
    config: RunConfig,
    epoch: int,
    word_weights: WordWeights,
    swaps: torch.Generator,
    measures_gradients: bool,
    process_group: ProcessGroup,
    kind: Negatives | None,
    temperature: LearntTemperature | None,
) -> BatchLoss:
    """Differentiate the loss of a part, adding to the gradients that there are.

    A part of fewer pairs than there are processes, the last of an epoch, cannot be shared out: each process has all of
    it, and a share of its gradient counts.
    """
    together = process_group if part.is_shared else SINGLE_PROCESS
    images, captions = _encoded(model, part, config, together)
    tokens, image_ids = part.captions.tokens, part.image_ids
    computed = batch_loss(
        model,
        images,
        captions,
        tokens,
        image_ids,
        config,
        epoch,
        word_weights,
        swaps,
        measures_gradients,
        together,
        kind,
        temperature,
    )
    (computed.loss if part.is_shared else computed.loss / process_group.world_size).backward()
    if not part.is_shared:
        process_group.broadcast_(model.buffers())  # dropout has made statistics differ
    return computed._replace(loss=computed.loss.detach())


def _encoded(
    model: MatchingModel, part: PairBatch, config: RunConfig, process_group: ProcessGroup
) -> tuple[Fragments, Fragments]:
    """Encoders multiply in bfloat16 if asked to; norms, softmaxes and all that follows are float32."""
    with torch.autocast(part.image_ids.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        images = model.encode_images(*part.images, process_group=process_group)
        return images, model.encode_captions(*part.captions.arguments)


def _together(parts_computed: list[BatchLoss]) -> BatchLoss:
    """Terms and spreads are sums over pairs and add up; shares are means over the parts; gradients on different
    fragments add up in squares.
    """
    if len(parts_computed) == 1:
        return parts_computed[0]
    terms = {name: math.fsum(computed.terms[name] for computed in parts_computed) for name in parts_computed[0].terms}
    shares = {name: value / len(parts_computed) for name, value in terms.items() if name.endswith("_active")}
    gradients = {
        name: math.hypot(*(computed.gradients[name] for computed in parts_computed))
        for name in parts_computed[0].gradients
    }
    loss = torch.stack([computed.loss for computed in parts_computed]).sum()
    return BatchLoss(loss, terms | shares, gradients, math.fsum(computed.spread for computed in parts_computed))


def _not_finite(
    model: MatchingModel,
    parts: Sequence[PairBatch],
    computed: BatchLoss,
    config: RunConfig,
    when: str,
    process_group: ProcessGroup,
) -> str:
    """The sentence that names the terms, and the captions and images that they fail on."""
    wrong = [name for name, value in computed.terms.items() if not math.isfinite(value)]
    what = f"the {' and '.join(_TERM_NAMES[name.split('_')[0]] for name in wrong)} loss" if wrong else "the gradient"
    terms = ", ".join(f"{name} {value:.4g}" for name, value in computed.terms.items() if not name.endswith("_active"))
    captions, images = [], []
    for part in parts:
        culprits = _culprits(model, part, config)
        captions += part.caption_ids[culprits].tolist()
        images += part.image_ids[culprits].tolist()
    everywhere = process_group.all_of([captions, images])
    captions, images = (sorted({row for of_one in everywhere for row in of_one[kind]}) for kind in (0, 1))
    return (
        f"{when}: {what} is no longer finite ({terms}) with the training captions {captions} of the images {images}, "
        "counted from 0; "
        "try a lower --learning-rate"
    )


def _culprits(model: MatchingModel, part: PairBatch, config: RunConfig) -> Tensor:
    """The pairs whose own image or caption is not finite, or else all of them."""
    with evaluating(model):  # statistics over a batch would make all of them alike
        images, captions = (
            fragments.vectors.isfinite().flatten(1).all(1)
            for fragments in _encoded(model, part, config, SINGLE_PROCESS)
        )
    wrong = ~(images & captions)
    return wrong if bool(wrong.any()) else torch.ones_like(wrong)
