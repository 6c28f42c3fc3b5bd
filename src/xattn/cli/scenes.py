"""`xattn scenes`: write the embedded data set."""

from dataclasses import dataclass
from pathlib import Path

from xattn.cli.printing import print_lines


@dataclass(frozen=True)
class Scenes:
    """Render the embedded data set: pictures of shapes with captions, proposal boxes and word-to-box truth, and their
    features.
    """

    out: Path
    """The folder to write: a data folder with train, dev and test, with the pictures beside them."""
    images: int = 1000
    """How many scenes, a tenth each for dev and test."""
    seed: int = 0
    """The same seed renders the same scenes."""

    def run(self) -> None:
        """Call `xattn.data.prepare.scenes.scenes.write_scenes`."""
        from xattn.data.prepare.scenes.scenes import write_scenes

        print_lines(write_scenes(self.out, n_images=self.images, seed=self.seed))
