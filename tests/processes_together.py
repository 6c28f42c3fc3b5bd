"""What several processes do together in the tests, each started here with the environment that `torchrun` would give
it."""

import dataclasses
import multiprocessing
import os
import signal
import socket
import traceback

import numpy as np
import torch

from waiting import LONGEST_WAIT
from xattn.data.batches import epoch_batches, pair_batch, read_regions
from xattn.evaluation.encode import encode_captions, score_all
from xattn.losses.temperature import LearntTemperature
from xattn.models.base import evaluating
from xattn.models.registry import build_model
from xattn.models.text_model import load_text_model
from xattn.runtime.device import launched_process_group, leave_process_group
from xattn.runtime.errors import InputError
from xattn.runtime.process_group import ProcessGroup
from xattn.training import loop
from xattn.training.data import prepare_data
from xattn.training.loss import WordWeights
from xattn.training.resumable import Interrupted, Saving
from xattn.training.step import training_step
from xattn.training.swaps import needed_substitutes
from xattn.training.train import train

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["xattn.training.train"])


def together(count, work, *arguments):
    """Do `work(*arguments)` in `count` processes at a time; what each gave, or what it failed with."""
    queue, processes = _started(count, work, arguments)
    results = dict(queue.get(timeout=LONGEST_WAIT) for _ in processes)
    for process in processes:
        process.join(LONGEST_WAIT)
        assert process.exitcode == 0
    return [results[index] for index in range(count)]


def told_by_the_other(rank, how, *arguments):
    """What the other of two processes gave, where that of a rank is killed or refuses its work in its fourth step."""
    queue, processes = _started(2, failing_run, (rank, how, *arguments))
    results = dict(queue.get(timeout=LONGEST_WAIT) for _ in range(1 if how == "killed" else 2))
    for process in processes:
        process.join(LONGEST_WAIT)
    return [result for index, result in results.items() if index != rank]


def _started(count, work, arguments):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    queue = CONTEXT.Queue()
    processes = [
        CONTEXT.Process(target=_begin, args=(queue, count, index, port, work, arguments)) for index in range(count)
    ]
    for process in processes:
        process.start()
    return queue, processes


def _begin(queue, count, index, port, work, arguments):
    torch.set_num_threads(1)
    if count > 1:
        names = {
            "WORLD_SIZE": count,
            "RANK": index,
            "LOCAL_RANK": index,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        os.environ.update({name: str(value) for name, value in names.items()})
    try:
        assert launched_process_group() == ProcessGroup(count, index), (
            "or each would train by itself, and all would agree"
        )
        queue.put((index, work(*arguments)))
    except Exception:
        queue.put((index, traceback.format_exc()))
    leave_process_group()


@dataclasses.dataclass
class Steps:
    """What some steps gave."""

    losses: list
    terms: list
    first_scores: np.ndarray
    scores: np.ndarray
    weights: dict


def trained_in_double(configs, data, steps):
    """Some steps in float64 of every configuration, and the scores of `dev` before and after them."""
    process_group, results = launched_process_group(), []
    for config in configs:
        prepared = prepare_data(config, data, text=load_text_model(config.words))
        torch.manual_seed(config.seed)
        model = build_model(config.model, prepared.train.feature_size, len(prepared.vocabulary), prepared.text)
        model = model.double().train()
        temperature = None
        if config.matching.learn_temperature:
            temperature = LearntTemperature(config.matching.temperature).double()
        of_temperature = {} if temperature is None else temperature.state_dict()
        trained = [*model.parameters(), *([] if temperature is None else temperature.parameters())]
        optimiser = torch.optim.Adam(trained, lr=config.learning_rate)
        every_word = torch.ones(len(prepared.vocabulary), dtype=torch.float64)
        substitutes = needed_substitutes(model, config, prepared)
        swaps, losses, terms = torch.Generator().manual_seed(1), [], []
        first_scores = _scores(model, prepared, process_group)
        epoch = 0
        while len(losses) < steps:
            epoch += 1
            for rows in epoch_batches(len(prepared.train_captions), config.batch_size, config.seed, epoch):
                share = process_group.share(len(rows)) if 1 < process_group.world_size <= len(rows) else None
                part = pair_batch(prepared.train, prepared.train_captions, rows, share)
                boxes = None if part.images.boxes is None else part.images.boxes.double()
                part = part._replace(images=part.images._replace(features=part.images.features.double(), boxes=boxes))
                words = WordWeights(every_word, every_word, substitutes)
                found = training_step(
                    model,
                    optimiser,
                    [part],
                    config,
                    epoch,
                    words,
                    swaps,
                    measures_gradients=len(losses) % 5 == 0,
                    process_group=process_group,
                    temperature=temperature,
                )
                losses.append(found.loss.item() / len(rows))
                terms.append(found.terms | {f"{name}_gradient": norm for name, norm in found.gradients.items()})
        scores = _scores(model, prepared, process_group)
        weights = {name: value.numpy() for name, value in (model.state_dict() | of_temperature).items()}
        results.append(Steps(losses, terms, first_scores, scores, weights))
    return results


def _scores(model, prepared, process_group):
    """As evaluation has them, of features in float64."""
    with evaluating(model):
        images = read_regions(prepared.dev, np.arange(prepared.dev.n_images))
        boxes = None if images.boxes is None else images.boxes.double()
        encoded = model.encode_images(images.features.double(), images.counts, boxes, images.scores)
        return score_all(
            model, encoded, encode_captions(model, prepared.dev_captions), process_group=process_group
        ).numpy()


def whole_run(config, data, out, options):
    """`train` as it is; the sentence of an `InputError` if there is one."""
    notes = []
    try:
        train(config, data, out, saving=Saving(steps=1), progress=lambda *_: None, on_note=notes.append, **options)
    except InputError as error:
        return f"InputError: {error}"
    return notes


def interrupted_run(config, data, out):
    """`train`, whose second process is told to stop in its fourth step."""
    return _disturbed_run(1, lambda: os.kill(os.getpid(), signal.SIGTERM), config, data, out)


def failing_run(rank, how, config, data, out):
    """`train`, of which one process is killed or refuses the work in its fourth step."""

    def fail():
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise InputError("only here")

    return _disturbed_run(rank, fail, config, data, out)


def _disturbed_run(rank, disturb, config, data, out):
    """`train`, with what one process does before its fourth step; how it ended, in a sentence."""
    steps, original = [], loop.training_step

    def disturbed(*arguments, **options):
        steps.append(None)
        if len(steps) == 4 and os.environ["RANK"] == str(rank):
            disturb()
        return original(*arguments, **options)

    loop.training_step = disturbed
    try:
        train(config, data, out, progress=lambda *_: None, on_note=lambda _: None)
    except Interrupted as interruption:
        return f"Interrupted in epoch {interruption.epoch} after {interruption.step} steps"
    except InputError as error:
        return f"InputError: {error}"
    return "not disturbed"


def failing_on_main():
    """What each process raises where the work of the main one fails in a way that nobody foresaw."""
    try:
        launched_process_group().on_main(lambda: 1 / 0)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"
