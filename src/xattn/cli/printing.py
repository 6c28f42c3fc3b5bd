"""What commands print while they work."""

import os
from typing import Any


class EpochPrinter:
    """Prints a line for each epoch: the loss and its terms for each pair, and the development numbers."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def __call__(self, entry: dict[str, Any]) -> None:
        """Print the line of an entry of the log."""
        terms = "  ".join(
            f"{name} {value:.3f}"
            for name, value in entry.items()
            if name.startswith(("loss", "match", "ccr", "ccs")) and not name.endswith(("_active", "_gradient"))
        )
        line = f"epoch {entry['epoch']:2}/{self.epochs}  {terms}"
        if "dev" in entry:
            dev = entry["dev"]
            line += (
                f"  dev R@1 {dev['image_to_text']['r1']:.1f} i2t {dev['text_to_image']['r1']:.1f} t2i  rsum "
                f"{dev['rsum']:.1f}"
            )
        print(f"{line}  {entry['seconds']:.1f} s", flush=True)


def speaks() -> bool:
    """Whether this process prints: of those that `accelerate launch` or `torchrun` started together, the first."""
    return os.environ.get("RANK", "0") == "0"


def print_now(what: str) -> None:
    """Print a line that is seen at once, also through a pipe."""
    print(what, flush=True)
