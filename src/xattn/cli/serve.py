"""`xattn serve`: a local web page to search an index of photos."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from xattn.cli.printing import print_line
from xattn.runtime.errors import InputWarning


@dataclass(frozen=True)
class Serve:
    """Serve a web page on which people search an index of photos, and `/api/search` for programs, until Ctrl-C.

    The page is for this machine alone, unless --host says otherwise.
    """

    index: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="INDEX")]
    """The index, made with `xattn index create`."""
    host: str = "127.0.0.1"
    """The address to serve at. Any but a loopback one shows all photos of the index to everybody who reaches this
    machine there: there is no password."""
    port: int = 8765
    """The port; 0 for any that is free."""

    def run(self) -> None:
        """Call `xattn.serve.serving.serve`."""
        from xattn.serve.serving import is_loopback, serve

        if not is_loopback(self.host):
            said = f"everybody who reaches this machine at {self.host} can see all photos of {self.index}"
            warnings.warn(f"{said}: there is no password", InputWarning, stacklevel=1)
        serve(self.index, self.host, self.port, lambda address: print_line(f"{self.index}: {address} (Ctrl-C ends it)"))
