"""`xattn`: which command, and what becomes of a mistake."""

import os
import signal
import sys
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import FrameType
from typing import Any, NoReturn

import tyro

import xattn
from xattn.cli import choices, help_text
from xattn.cli.printing import print_line, print_mistake, print_warning, speaks
from xattn.runtime.errors import InputError, InputWarning
from xattn.runtime.memory import is_refused_memory, refused_memory
from xattn.runtime.nearest import did_you_mean
from xattn.training.signals import STOP_SIGNALS

COMMANDS = {
    "scenes": "xattn.cli.scenes:Scenes",
    "prepare": "xattn.cli.prepare:Prepare",
    "regions": "xattn.cli.prepare:Photos",
    "train": "xattn.cli.train:Train",
    "runs": "xattn.cli.runs:Runs",
    "evaluate": "xattn.cli.evaluate:Evaluate",
    "attend": "xattn.cli.attend:Attend",
    "explore": "xattn.cli.explore:Explore",
    "compare": "xattn.cli.compare:Compare",
    "import": "xattn.cli.import_checkpoint:Import",
    "score": "xattn.cli.score:Score",
    "search": "xattn.cli.search:Search",
    "index": "xattn.cli.index:Index",
    "serve": "xattn.cli.serve:Serve",
    "demo": "xattn.cli.demo:Demo",
    "presets": "xattn.cli.presets:Presets",
}
"""By name, where the dataclass of the command is; it is imported when the command is asked for."""

LESS_MEMORY = {
    "train": "--batch-size or the sizes of --model",
    "compare": "--jobs, or batch_size with --sweep",
    "scenes": "--images",
    "demo": "--images",
}
"""By name of a command, what of its options takes memory."""

INTERRUPTED = "interrupted; no unfinished file is left behind, and what was saved before is kept"


def command(name: str) -> type:
    """The dataclass of a command: its fields are the flags, and `run` does the work."""
    module, _, kind = COMMANDS[name].partition(":")
    return getattr(import_module(module), kind)


def main(arguments: list[str] | None = None) -> None:
    """Run a command; a user's mistake is one sentence on stderr and exit status 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments == ["--version"]:
        print_line(f"xattn {xattn.__version__}")
        return
    for number in STOP_SIGNALS:
        if number != signal.SIGINT and signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` ignores SIGHUP
            signal.signal(number, _interrupt)
    try:
        with help_text.REGISTRY:
            asked = parse(arguments)
        if not isinstance(asked, command("presets")):
            with leaving_at_once():
                import torch  # noqa: F401 - the commands need it; here an interrupt can be handled
            _check_environment()
        with warnings.catch_warnings():
            warnings.filterwarnings("default", category=InputWarning)
            warnings.showwarning = print_warning
            asked.run()
    except BrokenPipeError:  # whoever reads the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except (InputError, OSError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not is_refused_memory(error):
            raise
        if not speaks():
            raise SystemExit(2) from None
        # Not all that a file system refuses is foreseen; whatever it is, it is nothing that a stack trace would help
        # with.
        said = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
        if is_refused_memory(error):
            said = refused_memory(error, LESS_MEMORY.get(arguments[0] if arguments else "", ""))
        print_mistake(said)
        raise SystemExit(2) from None
    except KeyboardInterrupt as interruption:
        if speaks():
            # Work that can be resumed says so.
            print_mistake(str(interruption) or INTERRUPTED)
        raise SystemExit(2) from None


def _check_environment() -> None:
    """Raise `InputError` if `XATTN_FUSED` cannot be followed, before any work is done."""
    from xattn.attention.fused import fewest_similarities  # which needs PyTorch

    try:
        fewest_similarities()
    except ValueError as error:
        raise InputError(str(error)) from error


def parse(arguments: list[str]) -> Any:
    """The command that the arguments name, ready to `run`; leaves with a message and status 2 if they name none.

    Raises:
        InputError: a command, source or preset is misspelt, or the configuration as a whole is refused.
    """
    first = arguments[0] if arguments else ""
    if first in COMMANDS:
        name, rest = first, arguments[1:]
        if name == "train":
            from xattn.cli.train import PRESETS

            _refuse_misspelt(rest, PRESETS, "preset")
            if not {*rest} & {*PRESETS, "-h", "--help"}:
                raise InputError("train needs a preset, such as `xattn train scan-t2i-avg`; `xattn presets` lists them")
        elif name == "prepare":
            from xattn.cli.prepare import SOURCES

            _refuse_misspelt(rest, SOURCES, "source")
        elif name == "index":
            from xattn.cli.index import COMMANDS as INDEX_COMMANDS

            _refuse_misspelt(rest, INDEX_COMMANDS, "command of xattn index")
        settings = (tyro.conf.AvoidSubcommands, tyro.conf.CascadeSubcommandArgs, tyro.conf.SuppressFixed)
        # A completion script is made with tyro's own rules, which list the choices.
        registry = None if any(word.startswith("--tyro-") for word in rest) else choices.REGISTRY
        try:
            return tyro.cli(command(name), args=rest, prog=f"xattn {name}", config=settings, registry=registry)
        except ValueError as error:  # of a configuration as a whole; those of its parts are reported by tyro
            raise InputError(str(error)) from error
    _refuse_misspelt(arguments, COMMANDS, "command")
    # No command, or a flag: the list of commands.
    commands = {name: command(name) for name in COMMANDS}
    description = (xattn.__doc__ or "").partition("\n")[0]
    return tyro.extras.subcommand_cli_from_dict(
        commands, args=arguments, prog="xattn", description=description, sort_subcommands=False
    )


def _refuse_misspelt(arguments: list[str], known: Collection[str], kind: str) -> None:
    """Raise `InputError` with the nearest name if the first argument is no flag and none of the known names."""
    if not arguments or arguments[0].startswith("-") or arguments[0] in known:
        return
    raise InputError(f"there is no {kind} {arguments[0]!r}; {did_you_mean(arguments[0], known)}")


@contextmanager
def leaving_at_once() -> Iterator[None]:
    """Inside, Ctrl-C ends the process: nothing has been started that would have to be cleared away.

    An exception that is raised while a library is being imported may come out as any other, and PyTorch takes a second.
    """
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:  # a shell's background job ignores the signal, and still does
        signal.signal(signal.SIGINT, _leave)
    yield
    signal.signal(signal.SIGINT, handler)


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    os.write(2, b"xattn: interrupted; nothing had been started\n")
    os._exit(2)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
