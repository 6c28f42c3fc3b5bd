"""`xattn`: which command, and what becomes of a mistake."""

import signal
import sys
from typing import Any

import tyro
from rich.console import Console
from rich.markup import escape

import xattn
from xattn.cli.attend import Attend
from xattn.cli.compare import Compare
from xattn.cli.demo import Demo
from xattn.cli.evaluate import Evaluate
from xattn.cli.imported import Import
from xattn.cli.prepare import Prepare
from xattn.cli.presets import Presets
from xattn.cli.printing import speaks
from xattn.cli.regions import Regions
from xattn.cli.runs import Runs
from xattn.cli.scenes import Scenes
from xattn.cli.score import Score
from xattn.cli.search import Search
from xattn.cli.train import Train, preset_defaults
from xattn.runtime.errors import InputError

COMMANDS = {
    "scenes": Scenes,
    "prepare": Prepare,
    "regions": Regions,
    "train": Train,
    "runs": Runs,
    "evaluate": Evaluate,
    "attend": Attend,
    "compare": Compare,
    "import": Import,
    "score": Score,
    "search": Search,
    "demo": Demo,
    "presets": Presets,
}


def main(arguments: list[str] | None = None) -> None:
    """Run a command; a user's mistake is one sentence on stderr and exit status 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments == ["--version"]:
        print(f"xattn {xattn.__version__}")
        return
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        parse(arguments).run()
    except (InputError, OSError) as error:
        if not speaks():
            raise SystemExit(2) from None
        # Not all that a file system refuses is foreseen; whatever it is, it is nothing that a stack trace would help
        # with.
        said = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
        Console(stderr=True, soft_wrap=True, highlight=False, emoji=False).print(f"[bold red]xattn:[/] {escape(said)}")
        raise SystemExit(2) from None
    except KeyboardInterrupt as interruption:
        if speaks():
            # Work that can be taken up again says so.
            print(
                f"xattn: {str(interruption) or 'interrupted; what was half written has been removed'}", file=sys.stderr
            )
        raise SystemExit(2) from None


def parse(arguments: list[str]) -> Any:
    """The command that the arguments name, ready to `run`; leaves with a message and status 2 if they name none."""
    if not arguments or arguments[0] not in COMMANDS:
        # No command: the list of commands, and what is wrong with this one.
        return tyro.extras.subcommand_cli_from_dict(COMMANDS, args=arguments, prog="xattn", description=xattn.__doc__)
    name, rest = arguments[0], arguments[1:]
    default = {"default": preset_defaults(rest)} if name == "train" else {}
    try:
        return tyro.cli(
            COMMANDS[name], args=rest, prog=f"xattn {name}", config=(tyro.conf.AvoidSubcommands,), **default
        )
    except ValueError as error:  # of a configuration as a whole; those of its parts are told by tyro
        raise InputError(str(error)) from error


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
