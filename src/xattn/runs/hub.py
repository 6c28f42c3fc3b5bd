"""Runs shared through a model hub: pushed with a card that their own numbers write, and loaded as carefully as any
other run folder.

Needs the extra `hub`; nothing else of the package imports this.
"""

import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import ModelHubMixin, constants, snapshot_download

from xattn.runs.config import WhichWeights
from xattn.runs.folder import ABOUT, BEST, LOG, WEIGHTS, Run, load_run, run_file
from xattn.runs.model_card import model_card
from xattn.runtime.device import best_device
from xattn.runtime.errors import InputError
from xattn.runtime.files import resolved

FILES = ("config.json", "model.json", "vocabulary.json", WEIGHTS, ABOUT)
OPTIONAL_FILES = (BEST, LOG)


class SharedRun(ModelHubMixin, library_name="xattn"):
    """A run with `save_pretrained`, `push_to_hub` and `from_pretrained` of huggingface_hub's mixin.

    Example, for a run folder `runs/both`:

        SharedRun(load_run("runs/both")).push_to_hub("owner/name")
        run = SharedRun.from_pretrained("owner/name").run
    """

    def __init__(self, run: Run) -> None:
        self.run = run

    def _save_pretrained(self, save_directory: Path) -> None:
        """Copy the run folder's files and write its card as `README.md`; the folder itself stays as it is.

        Raises:
            InputError: the directory is the run folder itself, or a file is missing or leads out of it.
        """
        folder = self.run.folder
        card = model_card(self.run)
        for name in FILES + OPTIONAL_FILES:
            path = run_file(folder, name)
            if path.is_file():
                shutil.copyfile(path, save_directory / name)
            elif name in FILES:
                raise InputError(f"{path}: is missing, and a run is shared whole")
        (save_directory / "README.md").write_text(card, encoding="utf-8")

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """As the mixin does it; see `_save_pretrained` for what is written."""
        if resolved(Path(save_directory)) == resolved(self.run.folder):
            raise InputError(f"{save_directory}: is the run folder itself; choose another directory to save a copy in")
        return super().save_pretrained(save_directory, **options)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        which: WhichWeights = "last",
        **_: Any,
    ) -> "SharedRun":
        """Load a directory or, if there is none of that name, download the files of a run and load them.

        Raises:
            InputError: as `load_run`.
        """
        folder = Path(model_id)
        if not folder.is_dir():
            # Into a folder of real files: those of the cache are links, and a run folder's files do not lead out of it.
            local = (
                Path(cache_dir or constants.HF_HUB_CACHE) / "xattn" / model_id.replace("/", "--") / (revision or "main")
            )
            folder = Path(
                snapshot_download(
                    model_id,
                    revision=revision,
                    local_dir=local,
                    force_download=force_download,
                    local_files_only=local_files_only,
                    token=token,
                    allow_patterns=[*FILES, *OPTIONAL_FILES],
                )
            )
        return cls(load_run(folder, best_device(), which))
