"""`xattn runs`: list run folders."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from xattn.cli.printing import print_line
from xattn.runtime.printable import printable


@dataclass(frozen=True)
class Runs:
    """List run folders, a line each: preset, constraints, state, and the best numbers on dev."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[FOLDER ...]")] = (Path("runs"),)
    """Run folders, or folders that hold some."""

    def run(self) -> None:
        """Call `xattn.runs.listing.list_runs`."""
        from xattn.runs.folder import CONSTRAINTS_NAMES
        from xattn.runs.listing import list_runs

        runs = list_runs(self.folders)
        names = [printable(run.folder) for run in runs]
        wide = max([*map(len, names), 3])
        print_line(
            f"{'run':{wide}}  {'preset':14}  {'constraints':11}  {'dev R@1 i2t':>11}  {'t2i':>5}  {'rsum':>5}  "
            f"{'epoch':>5}  state"
        )
        for name, run in zip(names, runs, strict=True):
            preset, constraints = (
                (printable(run.config.preset), CONSTRAINTS_NAMES[run.config.constraints]) if run.config else ("-", "-")
            )
            best = run.best
            numbers = (
                f"{best.image_to_text_r1:11.1f}  {best.text_to_image_r1:5.1f}  {best.rsum:5.1f}  {best.epoch:5}"
                if best
                else " " * 32
            )
            print_line(f"{name:{wide}}  {preset:14}  {constraints:11}  {numbers}  {run.state}")
