"""What a run needs to go on as if it had never stopped, in one file that is complete or is the one before.

A checkpoint is a safetensors file: tensors, and in its header one JSON object of plain values. Nothing in it is code.
It holds

| in the file | what |
|---|---|
| `model.*` | weights and running averages |
| `temperature.*` | InfoNCE's temperature, where it is learnt |
| `optimiser.*` | Adam's moments and step of each parameter |
| `random.swaps` | the state of the generator that draws random swaps |
| `random.torch.N` | torch's random state in process N, and `random.device.N` that of its accelerator, if it is one |
| `training` in the header | a `TrainingState`, and what the run is of: version, configuration, data, processes |

The order of samples and the learning rate are functions of the seed and the epoch, so that there is no more to keep of
them. Autocast to bfloat16 needs no loss scaling, so that there is no scaler either. Nothing of the package draws from
Python's or NumPy's global state.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

import xattn
from xattn.runtime import atomic
from xattn.runtime.errors import InputError
from xattn.runtime.jsonl import is_finite, is_whole, parse_json, preview

CHECKPOINT = "checkpoint.safetensors"
FORMAT = 1

_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Best:
    """The epoch after which the development numbers were best."""

    epoch: int
    rsum: float


@dataclass
class TrainingState:
    """Where a run is, in plain values."""

    epoch: int = 1
    """The epoch that is going on, or the first that is not any more."""
    step: int = 0
    """How many of its steps are done; all of them, if it has not been measured yet."""
    meters: dict[str, Any] = field(default_factory=dict)
    """Of its steps; see `Meters.as_dict`."""
    seconds: float = 0.0
    """How long its steps took."""
    log: list[dict[str, Any]] = field(default_factory=list)
    """The log's entries of all epochs before."""
    best: Best | None = None
    """Among those, where there are development numbers."""
    collapse: int = 0
    """For how many steps on end the scores have been alike."""

    @property
    def total_seconds(self) -> float:
        """How long all epochs took until now, their measuring included."""
        return self.seconds + sum(entry["seconds"] for entry in self.log)


@dataclass(frozen=True)
class Identity:
    """What a checkpoint is of; another run's is not gone on with."""

    configuration: dict[str, Any]
    data: str
    """See `TrainingData.fingerprint`."""


def encoded_checkpoint(
    state: TrainingState,
    identity: Identity,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    rng_states: Mapping[str, Tensor],
    temperature: nn.Module | None = None,
) -> bytes:
    """The content of a checkpoint.

    Args:
        state: where the run is.
        identity: what it is a run of.
        model: its weights and running averages are saved.
        optimiser: Adam over the parameters of `model` and `temperature`.
        rng_states: random states by their names in the file, without `random.`.
        temperature: of the ranking loss, where it is learnt.
    """
    tensors = _values(model, temperature)
    for name, parameter in _parameters(model, temperature).items():
        for key, value in optimiser.state.get(parameter, {}).items():
            tensors[f"optimiser.{name}.{key}"] = value
    tensors |= {f"random.{name}": random_state for name, random_state in rng_states.items()}
    about = {"format": FORMAT, "xattn": xattn.__version__, "identity": asdict(identity), "state": asdict(state)}
    return save(
        {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, {"training": json.dumps(about)}
    )


def save_checkpoint(path: Path, content: bytes) -> None:
    """Write a checkpoint in place of the one before, which stays until the new one is on disk; nothing of it is left
    after a failure.

    Raises:
        InputError: the disk is full, or the file cannot be written.
    """
    with atomic.replacing(path) as temporary:
        temporary.write_bytes(content)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has been read and whose plain values have been checked; its tensors are checked when they are
    taken.
    """

    path: Path
    state: TrainingState
    identity: Identity
    tensors: dict[str, Tensor]

    @property
    def rng_states(self) -> dict[str, Tensor]:
        """Random states by name, without `random.`."""
        return {
            name.removeprefix("random."): tensor for name, tensor in self.tensors.items() if name.startswith("random.")
        }

    def restore(self, model: nn.Module, optimiser: torch.optim.Optimizer, temperature: nn.Module | None = None) -> None:
        """Give a model, a temperature and their optimiser what they had.

        Raises:
            InputError: the tensors are not those of this model and of Adam over its parameters; nothing has been
                changed then.
        """
        self._refuse_others(model, temperature)
        device = next(model.parameters()).device
        model.load_state_dict(self._part("model."))
        if temperature is not None:
            temperature.load_state_dict(self._part("temperature."))
        moments = self._part("optimiser.")
        for name, parameter in _parameters(model, temperature).items():
            if f"{name}.step" in moments:
                # Copies, as what is read may be memory of the file; steps are counted on the processor.
                of_parameter = {key: moments[f"{name}.{key}"].to(device, copy=True) for key in _MOMENTS}
                optimiser.state[parameter] = {"step": moments[f"{name}.step"].clone(), **of_parameter}

    def _part(self, prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): tensor for name, tensor in self.tensors.items() if name.startswith(prefix)}

    def _refuse_others(self, model: nn.Module, temperature: nn.Module | None) -> None:
        expected = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in _values(model, temperature).items()}
        for name, parameter in _parameters(model, temperature).items():
            if f"optimiser.{name}.step" in self.tensors:
                expected[f"optimiser.{name}.step"] = (), torch.float32
                expected |= {f"optimiser.{name}.{key}": (tuple(parameter.shape), parameter.dtype) for key in _MOMENTS}
        found = {
            name: (tuple(tensor.shape), tensor.dtype)
            for name, tensor in self.tensors.items()
            if not name.startswith("random.")
        }
        for name in [*expected, *found]:
            if expected.get(name) != found.get(name):
                wanted, there = _described(expected.get(name)), _described(found.get(name))
                raise InputError(
                    f"{self.path}: is no checkpoint of the model in config.json: {name} should be {wanted} and is "
                    f"{there}"
                )


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; nothing is unpickled, and every plain value is checked before it is used.

    Raises:
        InputError: no safetensors file, cut or damaged, or its header does not hold what `encoded_checkpoint` writes.
    """
    path = Path(path)
    try:
        with safe_open(path, "pt") as file:
            about = _checked(path, file.metadata())
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dictionary
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: the checkpoint cannot be read ({error})") from error
    return Checkpoint(path, about[0], about[1], tensors)


def read_state(path: Path) -> TrainingState:
    """The plain values of a checkpoint alone, which takes no time.

    Raises:
        InputError: as `read_checkpoint`.
    """
    try:
        with safe_open(path, "pt") as file:
            return _checked(path, file.metadata())[0]
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: the checkpoint cannot be read ({error})") from error


def _values(model: nn.Module, temperature: nn.Module | None) -> dict[str, Tensor]:
    """What was trained, by its names in the file."""
    parts = {"model": model} | ({} if temperature is None else {"temperature": temperature})
    return {f"{part}.{name}": tensor for part, module in parts.items() for name, tensor in module.state_dict().items()}


def _parameters(model: nn.Module, temperature: nn.Module | None) -> dict[str, nn.Parameter]:
    """What the optimiser has moments of, by its names in the file, without `optimiser.`."""
    of_temperature = {} if temperature is None else temperature.named_parameters(prefix="temperature")
    return {**dict(model.named_parameters()), **dict(of_temperature)}


def _described(tensor: tuple[tuple[int, ...], torch.dtype] | None) -> str:
    return "absent" if tensor is None else f"{str(tensor[1]).removeprefix('torch.')} {tensor[0]}"


def _checked(path: Path, header: dict[str, str] | None) -> tuple[TrainingState, Identity]:
    try:
        about = parse_json((header or {})["training"])
    except KeyError as error:
        raise InputError(
            f"{path}: expected a checkpoint, but its header does not say where the training was"
        ) from error
    except ValueError as error:
        raise InputError(f"{path}: expected JSON in the header of the checkpoint, but it is not ({error})") from error
    _require(path, about, {"format", "xattn", "identity", "state"}, "the header")
    if about["format"] != FORMAT:
        raise InputError(f"{path}: expected a checkpoint of format {FORMAT}, found {preview(about['format'])}")
    identity, state = about["identity"], about["state"]
    _require(path, identity, {"configuration", "data"}, "identity")
    _require(path, state, set(TrainingState.__dataclass_fields__), "state")
    _require(
        path, state["meters"], {"pairs", "steps", "measured", "sums"} if state["meters"] else set(), "state.meters"
    )
    if state["best"] is not None:
        _require(path, state["best"], {"epoch", "rsum"}, "state.best")
    whole = {"epoch": state["epoch"], "step": state["step"], "collapse": state["collapse"]}
    whole |= {f"meters.{name}": state["meters"][name] for name in ("pairs", "steps", "measured") if state["meters"]}
    for name, value in whole.items():
        if not is_whole(value) or value < (name == "epoch"):
            raise InputError(
                f"{path}: state.{name} must be a whole number of at least {int(name == 'epoch')}, but it is "
                f"{preview(value)}"
            )
    numbers = {"seconds": state["seconds"], **({"best.rsum": state["best"]["rsum"]} if state["best"] else {})}
    sums = state["meters"]["sums"] if state["meters"] else {}
    if not isinstance(sums, dict):
        raise InputError(f"{path}: state.meters.sums must be an object, but it is {preview(sums)}")
    numbers |= {f"meters.sums.{name}": value for name, value in sums.items()}
    for name, value in numbers.items():
        if not is_finite(value):
            raise InputError(f"{path}: state.{name} must be a finite number, but it is {preview(value)}")
    _check_log(path, state["log"], state["epoch"])
    if state["best"] and not (is_whole(state["best"]["epoch"]) and 1 <= state["best"]["epoch"] <= len(state["log"])):
        raise InputError(
            f"{path}: state.best.epoch must be an epoch of the log, but it is {preview(state['best']['epoch'])}"
        )
    if not isinstance(identity["configuration"], dict) or not isinstance(identity["data"], str):
        raise InputError(
            f"{path}: identity must hold a configuration and a fingerprint of the data, but it is {preview(identity)}"
        )
    best = Best(**state["best"]) if state["best"] else None
    return TrainingState(**(state | {"best": best})), Identity(**identity)


def _require(path: Path, value: object, names: set[str], where: str) -> None:
    if not isinstance(value, dict) or set(value) != names:
        found = sorted(value) if isinstance(value, dict) else preview(value)
        raise InputError(f"{path}: {where} must hold exactly the fields {', '.join(sorted(names))}, but found {found}")


def _check_log(path: Path, log: object, epoch: int) -> None:
    wanted = f"{path}: state.log must hold an entry with epoch and seconds for each of the {epoch - 1} epochs before"
    if not isinstance(log, list) or len(log) != epoch - 1:
        raise InputError(wanted)
    for number, entry in enumerate(log, start=1):
        if not isinstance(entry, dict) or entry.get("epoch") != number or not is_finite(entry.get("seconds")):
            raise InputError(wanted)
        if "dev" in entry and not _is_measured(entry["dev"]):
            raise InputError(
                f"{path}: state.log[{number - 1}].dev must hold rsum, image_to_text.r1 and text_to_image.r1, numbers, "
                f"but it is {preview(entry['dev'])}"
            )
        if _depth(entry) > _DEEPEST_ENTRY:
            raise InputError(f"{path}: state.log[{number - 1}] is nested more than {_DEEPEST_ENTRY} levels deep")


def _is_measured(dev: object) -> bool:
    match dev:
        case {"rsum": rsum, "image_to_text": {"r1": one}, "text_to_image": {"r1": other}}:
            return all(map(is_finite, (rsum, one, other)))
    return False


_DEEPEST_ENTRY = 10


def _depth(value: object, above: int = 0) -> int:
    """How many levels of lists and objects there are, counted until there are more than an entry has."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if above > _DEEPEST_ENTRY or not parts:
        return above
    return max(_depth(part, above + 1) for part in parts)
