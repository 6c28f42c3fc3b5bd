"""The choices that the losses offer, without PyTorch, for the command line."""

from typing import Literal

Reduction = Literal["sum", "mean", "none"]
"""How hinges of queries become a loss; see `xattn.losses.constraints.Hinges.reduce`."""
MarginKind = Literal["absolute", "relative"]
"""Of CCR: a difference of cosines, or so many standard deviations of the relevances; see
`xattn.losses.constraints.relevance_spread`."""
Against = Literal["all", "least"]
"""Of CCR: which keys attended content is compared with, all or the half that is attended least; see
`xattn.losses.constraints.ccr_loss`."""
PartnerSource = Literal["hard", "random", "sentence"]
"""Which pair's fragments are swapped in; see `xattn.losses.swaps.swap_partners`."""
SwapSource = Literal["hard", "random", "sentence", "batch", "substitute"]
"""Where swapped queries come from: a pair; with `batch` all of the batch, see `xattn.losses.swaps`; with
`substitute` the same caption with another word in the query's place, see `xattn.data.substitutes`."""
Negatives = Literal["hardest", "all"]
"""Which negatives the ranking loss compares with; see `xattn.losses.ranking.hinge_ranking_loss`."""
RankingLoss = Literal["hinge", "infonce", "soft_hinge"]
"""How a pair is compared with its negatives; see `xattn.losses.ranking`."""
LEAST_LEARNT_TEMPERATURE = 0.01
"""Below which no learnt temperature falls; see `xattn.losses.temperature`."""
HardestFrom = Literal["epoch", "spread"]
"""What decides when the hinge goes over to the hardest negatives; see `xattn.training.negatives`."""
