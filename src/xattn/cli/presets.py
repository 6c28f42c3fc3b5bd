"""`xattn presets`: list the presets."""

from dataclasses import dataclass

from xattn.runs.presets import DEPARTURES, DESCRIPTIONS


@dataclass(frozen=True)
class Presets:
    """List the presets, a line each, and what departs from the papers."""

    def run(self) -> None:
        """Print `xattn.runs.presets.DESCRIPTIONS` and `DEPARTURES`."""
        for name, description in DESCRIPTIONS.items():
            print(f"{name:14}  {description}")
        print(
            "\nWith --settings f30k or coco the rest is as published; --settings small, the default, has dimension 256 "
            "and 15 epochs."
        )
        print("What departs from the papers, and how to bring it back:")
        for departure in DEPARTURES:
            print(f"  {departure}")
