"""What a text model reads of captions, read once and kept: the model stays as it is, and so does what it says."""

from collections.abc import Sequence

import torch
from jaxtyping import Shaped
from torch import Tensor

from xattn.data.batches import WordReader
from xattn.models.text_model import TextModel
from xattn.runtime.progress import ProgressCallback
from xattn.runtime.threads import mapped_on_threads

AT_ONCE = 128
"""Captions, of nearly one length, since they are sorted by it."""
MOST_BYTES = 4 << 30
"""What would take more is not kept, but read anew for every batch."""


class KeptWords:
    """The `WordReader` of captions that a text model has read before.

    What is read together is decided by what the captions hold and not by the batches of the training, so that a run
    that is gone on with sees the same numbers.
    """

    def __init__(self, vectors: Shaped[Tensor, "fragments read"], begins: dict[tuple[str, ...], int]) -> None:
        self._vectors, self._begins = vectors, begins

    @staticmethod
    def of(
        text: TextModel, captions: Sequence[Sequence[str]], progress: ProgressCallback = lambda *_: None
    ) -> WordReader:
        """Read some captions, or give `text` back if what it reads takes more than `MOST_BYTES`."""
        distinct = sorted({tuple(words) for words in captions}, key=lambda words: (len(words), words))
        lengths = [len(words) + 2 for words in distinct]
        like = text.read(distinct[:1])
        if sum(lengths) * text.hidden_size * like.element_size() > MOST_BYTES:
            return text
        ends = torch.tensor(lengths).cumsum(0).tolist()
        begins = {words: end - length for words, end, length in zip(distinct, ends, lengths, strict=True)}
        vectors = like.new_empty(ends[-1], text.hidden_size)

        def read(some: list[tuple[str, ...]]) -> int:
            for words, found in zip(some, text.read(some), strict=True):
                length = len(words) + 2
                vectors[begins[words] : begins[words] + length] = found[:length]
            return len(some)

        done, chunks = 0, [distinct[start : start + AT_ONCE] for start in range(0, len(distinct), AT_ONCE)]
        for n in mapped_on_threads(read, chunks, text.device):
            done += n
            progress("reading captions", done, len(distinct))
        return KeptWords(vectors, begins)

    def read(self, captions: Sequence[Sequence[str]]) -> Shaped[Tensor, "n words read"]:
        """See `WordReader`.

        Raises:
            KeyError: a caption is not among those that were read.
        """
        found = self._vectors.new_zeros(len(captions), max(map(len, captions)) + 2, self._vectors.shape[1])
        for place, words in enumerate(captions):
            begin, length = self._begins[tuple(words)], len(words) + 2
            found[place, :length] = self._vectors[begin : begin + length]
        return found
