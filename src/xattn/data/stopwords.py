"""Words that hold a sentence together and name nothing that a picture could show.

Which words are asked what they attend to is a choice: a `the` or an `of` has no region of its own, and a constraint on
its attention has nothing to push towards. The list covers articles and other determiners, pronouns, prepositions
(spatial ones too: `on`, `behind`, and the `of` of `left of`, but not `left`), conjunctions, auxiliary verbs, the
existential `there`, negation, degree words, and the pieces that the tokeniser cuts off contractions. Numbers are no
function words: `two` can be seen.
"""

from collections.abc import Sequence

_DETERMINERS = """
a an the this that these those some any each every either neither no all both half such much many more most several few
fewer less least enough another other others own same
"""
_PRONOUNS = """
i me my mine myself you your yours yourself yourselves he him his himself she her hers herself it its itself we us our
ours ourselves they them their theirs themselves who whom whose which what whoever whatever someone somebody something
anyone anybody anything everyone everybody everything nobody nothing none
"""
_PREPOSITIONS = """
about above across after against along alongside amid amidst among amongst around as at atop away before behind below
beneath beside besides between beyond by despite down during except for from in inside into like near nearby of off on
onto opposite out outside over past per since through throughout till to together toward towards under underneath until
unto up upon upside versus via while with within without
"""
_CONJUNCTIONS = """
and but or nor so yet if because although though unless whereas whether when whenever where wherever than then why how
"""
_AUXILIARIES = """
be am is are was were been being do does did doing done have has had having can could may might must shall should will
would ought cannot
"""
_OTHERS = """there here not very too also just only even still quite rather really almost again"""
_CONTRACTIONS = """'s 'm 're 've 'd 'll n't ca wo"""

FUNCTION_WORDS: frozenset[str] = frozenset(
    " ".join((_DETERMINERS, _PRONOUNS, _PREPOSITIONS, _CONJUNCTIONS, _AUXILIARIES, _OTHERS, _CONTRACTIONS)).split()
)
"""The function words of English as tokens, in lower case; punctuation is none of them, see `is_content`."""

_SPECIALS = frozenset(("<pad>", "<start>", "<end>", "<unk>"))


def is_content(word: str) -> bool:
    """Whether a token may name something to see: no function word, no punctuation, no special token such as `<start>`.

    >>> [word for word in ["a", "dog", "on", "two", "chairs", "."] if is_content(word)]
    ['dog', 'two', 'chairs']
    """
    return word.lower() not in FUNCTION_WORDS and word not in _SPECIALS and any(letter.isalnum() for letter in word)


def drawn_places(words: Sequence[str]) -> list[int]:
    """The places of the words of a sentence that a picture shows: those of content words, or all where there are none.

    >>> drawn_places(["a", "dog", "runs"]), drawn_places(["on", "it"])
    ([1, 2], [0, 1])
    """
    return [place for place, word in enumerate(words) if is_content(word)] or list(range(len(words)))
