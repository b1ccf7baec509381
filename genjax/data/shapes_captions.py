"""The grammar of captions of the data set `shapes`: from what is said to how it is said.

caption  = ["a picture of "] sentence
sentence = things | things relation things | things relation things " and " things
         | things " and " things relation things
         | things relation things ", with " things [relation things] relation "them"
things   = ("a" | "an" | "one" | "two" | "three" | "four") [size] [texture] colour shape["s"]
relation = ["to the "] "left of" | ["to the "] "right of" | "above" | "over" | "below" | "under"
"""

from collections.abc import Callable

from genjax.core.scenes import Group, Statement

WORDINGS = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
NUMBERS = ("one", "two", "three", "four")
_PREFIXES = ("", "", "a picture of ")


def caption(statement: Statement, coin: Callable[[], float]) -> str:
    """Returns a wording of the statement; `coin() -> [0, 1)` chooses among the synonyms."""
    things = [noun_phrase(g, coin) for g in statement.groups]
    words = [_pick(WORDINGS[name], coin) for _, name, _ in statement.relations]
    text = _pick(_PREFIXES, coin) + things[0]
    pairs = [(a, b) for a, _, b in statement.relations]
    if pairs == [(0, 1)]:
        text += f" {words[0]} {things[1]}"
    elif pairs == [(0, 1), (0, 2)]:  # the first, of both others
        text += f" {words[0]} {things[1]} and {things[2]}"
    elif pairs == [(0, 2), (1, 2)]:  # both first, of the last
        text += f" and {things[1]} {words[0]} {things[2]}"
    elif pairs == [(0, 1), (2, 0), (2, 1)]:  # a pair, and a third by it
        text += f" {words[0]} {things[1]}, with {things[2]} {words[1]} them"
    elif pairs == [(0, 1), (2, 3), (2, 0), (2, 1), (3, 0), (3, 1)]:  # a pair by a pair
        text += f" {words[0]} {things[1]}, with {things[2]} {words[1]} {things[3]} {words[2]} them"
    elif pairs:
        raise ValueError(f"the grammar has no sentence for the relations {statement.relations}")
    return text


def noun_phrase(group: Group, coin: Callable[[], float]) -> str:
    """Returns such as "two large striped red circles"."""
    words = [w for w in (group.size, group.texture, group.colour) if w] + [group.shape]
    if group.count > 1:
        words[-1] += "es" if group.shape == "cross" else "s"
        first = NUMBERS[group.count - 1]
    else:
        first = "an" if words[0][0] in "aeiou" else "a"
        first = "one" if coin() < 0.1 else first
    return " ".join([first, *words])


def _pick(options: tuple[str, ...], coin: Callable[[], float]) -> str:
    return options[int(coin() * len(options))]
