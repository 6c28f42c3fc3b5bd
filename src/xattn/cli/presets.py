"""`xattn presets`: list the presets."""

from dataclasses import dataclass

from xattn.cli.printing import print_line
from xattn.runs.presets import DEPARTURES, DESCRIPTIONS


@dataclass(frozen=True)
class Presets:
    """List the presets, a line each, and what departs from the papers."""

    def run(self) -> None:
        """Print `xattn.runs.presets.DESCRIPTIONS` and `DEPARTURES`."""
        for name, description in DESCRIPTIONS.items():
            print_line(f"{name:14}  {description}")
        print_line("")
        print_line(
            "These are for small data: dimension 256 and 15 epochs. With -f30k or -coco at the end of the name "
            "(sgraf-sgr-f30k) all settings are those of the papers for Flickr30K or MS-COCO."
        )
        print_line("What departs from the papers, and how to bring it back:")
        for departure in DEPARTURES:
            print_line(f"  {departure}")
