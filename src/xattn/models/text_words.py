"""Words as a text model knows them: its states of a caption's words, through one linear layer, as unit vectors."""

from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from xattn.models.encoders import RegionEncoder, WordEncoder
from xattn.models.text_model import TextModel
from xattn.models.word_states import word_states


class TextWords(nn.Module):
    """What a text model reads of words to unit vectors: `l2(W s_i + b)`, `s_i` the mean of its last states over the
    sub-words of word `i`.

    `W` and `b` start as those of `RegionEncoder`. The weights of a text model that is fine-tuned are part of this
    module; of one that is not, the states come from outside, and it is no part of any model.

    Args:
        text: what reads.
        dim: size of the vectors.
        dropout: the share of the states' numbers that is dropped in training, in [0, 1).
    """

    def __init__(self, text: TextModel, dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.network = text.network if text.fine_tuned else None
        self.dropout = nn.Dropout(dropout)
        self.unit = RegionEncoder(text.hidden_size, dim)
        self._read_as = text.longest, text.pad, text.fills

    def forward(
        self,
        tokens: Int[Tensor, "n words"],
        mask: Bool[Tensor, "n words"],
        words: Shaped[Tensor, "n words read"] | None = None,
    ) -> Float[Tensor, "n words dim"]:
        """Unit vectors at valid tokens, zero vectors at padding.

        Args:
            tokens: ids, which are not asked for.
            mask: true on a prefix of each row.
            words: of `TextModel.read`.

        Raises:
            ValueError: `words` are missing.
        """
        if words is None:
            raise ValueError(
                "the words of this model are read by a text model: encode_captions takes, beside tokens and lengths, "
                "the words of a CaptionBatch of Run.encoded"
            )
        states = words if self.network is None else word_states(self.network, words, *self._read_as)
        return self.unit(self.dropout(states.to(self.unit.fc.weight.dtype)), mask)


def word_encoder(
    text: TextModel | None, vocabulary_size: int, word_dim: int, dim: int, dropout: float = 0.0
) -> WordEncoder | TextWords:
    """What makes vectors of words: a text model's states if there is one, else `WordEncoder`."""
    return WordEncoder(vocabulary_size, word_dim, dim, dropout) if text is None else TextWords(text, dim, dropout)
