"""What a log says of an epoch: sums of the loss and its terms, and their means."""

from typing import Any

from xattn.training.loss import BatchLoss


class Meters:
    """Sums of the loss and its terms over an epoch, and their means."""

    def __init__(self, pairs: int = 0, steps: int = 0, measured: int = 0, sums: dict[str, float] | None = None) -> None:
        self.pairs = pairs
        self.steps = steps
        self.measured = measured
        self.sums: dict[str, float] = dict(sums or {})

    @classmethod
    def of(cls, computed: BatchLoss, pairs: int) -> "Meters":
        """Of one step."""
        meters = cls()
        meters.add(computed, pairs)
        return meters

    def add(self, computed: BatchLoss, pairs: int) -> None:
        """Add a step: terms and spreads are sums over its pairs, shares and norms of gradients are the step's own; not
        every step measures these.
        """
        self.pairs += pairs
        self.steps += 1
        self.measured += bool(computed.gradients)
        gradients = {f"{name}_gradient": norm for name, norm in computed.gradients.items()}
        values = {"loss": computed.loss.item(), **computed.terms, **gradients, "spread": computed.spread}
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        """Terms for each pair, shares for each step, norms of gradients for each step that measured them."""
        return {name: round(total / max(self._count(name), 1), 6) for name, total in self.sums.items()}

    def summary(self) -> str:
        """The loss for each pair and its terms, in a few characters."""
        others = ("_active", "_gradient", "spread")
        means = {name: value for name, value in self.means().items() if not name.endswith(others)}
        return " ".join(f"{name} {value:.3f}" for name, value in means.items() if name != "match" or len(means) > 2)

    def as_dict(self) -> dict[str, Any]:
        """Plain values that `Meters(**values)` is made of again."""
        return {"pairs": self.pairs, "steps": self.steps, "measured": self.measured, "sums": dict(self.sums)}

    def _count(self, name: str) -> int:
        if name.endswith("_gradient"):
            return self.measured
        return self.steps if name.endswith("_active") else self.pairs
