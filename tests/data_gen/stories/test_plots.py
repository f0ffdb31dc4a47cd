"""The stories' text: the rules that make every token's probability exact, and what makes a story a story.

The checks expand the text with their own code, so that they do not share a mistake with data_gen.stories.grammar.
To print a random story, run in Python:

    from tests.data_gen.stories.test_plots import *
    print(render(story(np.random.default_rng())))
"""

import re
from collections import defaultdict
from functools import cache
from hashlib import sha256

import numpy as np
import pytest

from data_gen.stories.grammar import Grammar, trees
from data_gen.stories.names import SYLLABLES
from data_gen.stories.plots import BEATS, OBJECTS, SCENERY, WORDS

PRONOUNS = {"he": ("he", "she"), "him": ("him", "her"), "his": ("his", "her"), "himself": ("himself", "herself")}
KINDS = {"A": {"pet"}, "B": {"pal"}, "C": {"neighbour", "stranger"}, "D": {"neighbour", "stranger"}}
Expansion = tuple[str, ...]  # tokens; an object is its two slots: "{shade}", "{toy}"


def expand(text: str) -> list[Expansion]:
    """All expansions of a text, one innermost pair of brackets after the other."""
    if brackets := re.search(r"\( ([^()]*)\)", text):
        before, after = text[: brackets.start()], text[brackets.end() :]
        alternatives = brackets[1].split("|")
        return [expansion for text in alternatives for expansion in expand(before + text + after)]
    for slot, adjective in OBJECTS.items():
        text = text.replace(f"{{{slot}}}", f"{{{adjective}}} {{{slot}}}")
    return [tuple(text.split())]


@cache
def passages(beat: str) -> list[tuple[list[Expansion], bool, str]]:
    """(expansions, whether scenery may follow, next beat) of each of a beat's passages."""
    parts = [re.fullmatch(r"(.*\S) (>>?) (\w+)", passage).groups() for passage in BEATS[beat]]
    return [(expand(text), arrow == ">>", following) for text, arrow, following in parts]


def texts_of(beat: str) -> list[Expansion]:
    return [expansion for expansions, _, _ in passages(beat) for expansion in expansions]


def order() -> list[str]:
    """The beats, each after all that lead to it; a beat on a circle, or led to by none, is missing."""
    entered, done = defaultdict(set), []
    for beat in BEATS:
        for _, _, following in passages(beat):
            entered[following].add(beat)
    while ready := [b for b in BEATS if b not in done and entered[b] <= set(done) and (entered[b] or b == "arrival")]:
        done += ready
    return done


def introduced(expansion: Expansion) -> set[str]:
    return {token for token in expansion if re.fullmatch(r"\{[A-D]\}", token)}


def known() -> dict[str, set[str]]:
    """Beat -> the names that every path has mentioned before it."""
    before: dict[str, set[str]] = {"arrival": set()}
    for beat in order():
        for expansions, _, following in passages(beat):
            for expansion in expansions:
                names = before[beat] | introduced(expansion)
                before[following] = before.get(following, names) & names
    return before


@cache
def span(beat: str, what: str) -> tuple[int, int]:
    """Fewest and most tokens, scenery places or mentions of a slot or name from a beat to the end of the story."""
    if beat == "end":
        return 0, 0
    counts = []
    for expansions, scenery, following in passages(beat):
        low, high = span(following, what)
        own = [amount(expansion, what, scenery) for expansion in expansions]
        counts += [min(own) + low, max(own) + high]
    return min(counts), max(counts)


def amount(expansion: Expansion, what: str, scenery: bool) -> int:
    if what == "tokens":
        return len(expansion) + sum(token in ("{A}", "{B}", "{C}", "{D}") for token in expansion)  # a name is two
    return int(scenery) if what == "scenery" else expansion.count(what)


def plot_span(plot: int, what: str) -> tuple[int, int]:
    """The same for whole stories of one plot, a passage of "wish"."""
    expansions, scenery, following = passages("wish")[plot]
    own = [amount(expansion, what, scenery) for expansion in expansions]
    low, high = span(following, what)
    opening = []
    for beat, to in (("arrival", "friend"), ("friend", "wish")):
        assert {following for _, _, following in passages(beat)} == {to}, "all plots share the opening"
        opening.append([amount(e, what, open_) for all_, open_, _ in passages(beat) for e in all_])
    return min(own) + low + sum(map(min, opening)), max(own) + high + sum(map(max, opening))


PLOTS = range(len(BEATS["wish"]))


def story(rng: np.random.Generator, scenery: float = 0.3) -> list[str]:
    """The tokens of a random story, names in one piece: for reading."""
    pick = {slot: words[rng.integers(len(words))] for slot, words in WORDS.items()}
    names = dict(zip("ABCD", rng.permuted(["Bora", "Timu", "Lezo", "Kapi", "Nuda", "Samo"]).tolist(), strict=False))
    gender = {name: int(rng.integers(2)) for name in names}

    def spoken(token: str) -> str:
        if not (slot := re.fullmatch(r"\{(\w+)(?:\.(\w+))?\}", token)):
            return token
        what, pronoun = slot.groups()
        return PRONOUNS[pronoun][gender[what]] if pronoun else names.get(what) or pick[what]

    tokens, beat = [], "arrival"
    while beat != "end":
        expansions, open_, beat = passages(beat)[rng.integers(len(passages(beat)))]
        tokens += map(spoken, expansions[rng.integers(len(expansions))])
        if open_ and rng.random() < scenery:
            tokens += SCENERY[rng.integers(len(SCENERY))].split()
    return tokens


def render(tokens: list[str]) -> str:
    """Tokens as a text: sentences begin with a capital, except for the "said" after a quotation."""
    text = re.sub(r" (?=[.,!?]|'s)", "", re.sub(r'" (.*?) "', r'"\1"', " ".join(tokens)))
    text = re.sub(r"\bi\b", "I", text)
    return re.sub(r'(?:^|(?<=[.!?] )|(?<=\." )|")[a-z]', lambda first: first[0].upper(), text)


# --- the graph of beats


def test_every_beat_is_reached_and_every_path_comes_to_an_end():
    """A misspelt heading would cut off a part of the text, a circle would give a story without end."""
    assert sorted(order()) == sorted(BEATS)
    assert {following for beat in BEATS for _, _, following in passages(beat)} <= {*BEATS, "end"}


def test_there_are_many_plots_and_each_has_trouble_help_and_an_ending():
    starts = [following for _, _, following in passages("wish")]
    assert len(set(starts)) == len(starts) >= 12, "each wish leads to a plot of its own"
    for start in starts:
        for _, _, help_ in passages(start):
            for _, _, ending in passages(help_):
                assert {following for _, _, following in passages(ending)} == {"end"}, "trouble, help, ending"
    assert all(2 <= len(passages(beat)) <= 4 for beat in BEATS if beat != "wish")


# --- exact probabilities


@pytest.mark.parametrize("beat", BEATS)
def test_alternatives_differ_in_their_first_token(beat):
    """A slot or a pronoun that competes might equal a word, and a name that is new could be any."""
    sure = known()[beat]
    open_ = any(open_ and following == beat for other in BEATS for _, open_, following in passages(other))
    scenery = [tuple(sentence.split()) for sentence in SCENERY if open_]
    ways = texts_of(beat)
    assert len(set(ways)) == len(ways), "the same text twice"
    waiting = [((), ways + [scene + way for scene in scenery for way in ways])]
    while waiting:
        prefix, group = waiting.pop()
        following = defaultdict(list)
        for way in group:
            assert len(way) > len(prefix), f"{' '.join(prefix)!r} ends where another passage goes on"
            following[way[len(prefix)]].append(way)
        for token in following if len(following) > 1 else ():
            literal = not token.startswith("{")
            assert literal or token in sure | introduced(prefix), f"{token} competes after {' '.join(prefix)!r}"
        waiting += [(prefix + (token,), rest) for token, rest in following.items() if len(rest) > 1]


def test_the_engine_compiles_the_text():
    """The checks above are on their own: the compiler has to agree."""
    assert {beat for beat, _ in trees(Grammar(WORDS, OBJECTS, BEATS, SCENERY), 0.3)} == set(BEATS)


def test_no_word_can_be_mistaken_for_another():
    """A word in two lists, or in a list and in the text, would have a probability of two parts."""
    words = [word for words in WORDS.values() for word in words]
    assert len(set(words)) == len(words)
    assert not set(words) & literals()
    assert not set(words) & set(SYLLABLES)


def literals() -> set[str]:
    texts = [way for beat in BEATS for way in texts_of(beat)] + [sentence.split() for sentence in SCENERY]
    return {token for text in texts for token in text if not token.startswith("{")}


def test_slots_are_known_and_no_list_is_idle():
    """A misspelt slot would appear as it is written."""
    used = {token[1:-1] for beat in BEATS for way in texts_of(beat) for token in way if re.fullmatch(r"\{\w+\}", token)}
    assert used - set("ABCD") == set(WORDS)
    assert set(OBJECTS) | set(OBJECTS.values()) <= set(WORDS) and len(set(OBJECTS.values())) == len(OBJECTS) <= 3


@pytest.mark.parametrize("plot", PLOTS)
def test_stories_have_80_to_160_tokens_and_at_most_four_places_for_scenery(plot):
    low, high = plot_span(plot, "tokens")
    assert 80 <= low <= high <= 160
    assert plot_span(plot, "scenery")[1] <= 4
    assert all(6 <= len(sentence.split()) <= 10 for sentence in SCENERY)


@pytest.mark.parametrize("plot", PLOTS)
def test_characters_are_mentioned_4_to_10_times_and_objects_2_to_5_times_on_every_path(plot):
    """Fewer mentions leave nothing to induce from; a character on some paths only would change the cast mid-plot."""
    spans = {what: plot_span(plot, what) for what in ("{A}", "{B}", "{C}", "{D}", *(f"{{{o}}}" for o in OBJECTS))}
    for name in "ABCD":
        low, high = spans[f"{{{name}}}"]
        assert high == 0 and name in "CD" or 4 <= low <= high <= 10, name
    assert spans["{C}"] != (0, 0) or spans["{D}"] == (0, 0), "no D without a C"
    for slot in OBJECTS:
        low, high = spans[f"{{{slot}}}"]
        assert high == 0 or 2 <= low <= high <= 5, slot


def test_some_plots_have_two_characters_some_three_some_four():
    casts = [2 + (plot_span(plot, "{C}")[1] > 0) + (plot_span(plot, "{D}")[1] > 0) for plot in PLOTS]
    assert {2, 3, 4} == set(casts)


def test_a_character_is_introduced_with_what_it_is_and_not_before_the_plot_needs_it():
    """A name without a word on who that is would read as a mistake; so would a heron beside another heron."""
    before = known()
    for beat in BEATS:
        newcomers = []
        for way in texts_of(beat):
            new = introduced(way) - before[beat]
            slots = {token[1:-1] for token in way}
            assert all(slots & KINDS[name[1]] for name in new), (beat, way)
            newcomers.append(new)
        assert all(new == newcomers[0] for new in newcomers), f"{beat}: on some paths only"
    assert before["friend"] == {"{A}"} and before["wish"] == {"{A}", "{B}"}
    assert all(plot_span(plot, kind)[1] <= 1 for plot in PLOTS for kind in ("{neighbour}", "{stranger}"))


def test_pronouns_follow_their_character_and_nothing_else_shows_gender():
    """A "he" without a name before it has no meaning. A literal "she" would be wrong for half of the casts."""
    before = known()
    for beat in BEATS:
        for way in texts_of(beat):
            for i, token in enumerate(way):
                if pronoun := re.fullmatch(r"\{([A-D])\.(\w+)\}", token):
                    assert pronoun[2] in PRONOUNS
                    assert f"{{{pronoun[1]}}}" in before[beat] | introduced(way[:i]), (beat, token)
    gendered = "he she him her his hers himself herself boy girl mother father brother sister king queen man woman"
    assert not set(gendered.split()) & (literals() | {word for words in WORDS.values() for word in words})


@pytest.mark.parametrize("beat", BEATS)
def test_passages_are_whole_sentences_of_single_tokens(beat):
    """An open quotation would swallow the next beat, and a capital or a glued comma would be a token of its own."""
    for way in texts_of(beat):
        assert way[-1] in (".", "!", "?", '"') and way.count('"') % 2 == 0, way
        assert all(re.fullmatch(r"[a-z]+|'s|n't|[.,!?\"]|\{\w+(\.\w+)?\}", token) for token in way), way
        articles = [(one, two) for one, two in zip(way, way[1:], strict=False) if one in ("a", "an")]
        for article, following in articles:
            for word in WORDS[following[1:-1]] if following.startswith("{") else [following]:
                assert (article == "an") == (word[0] in "aeiou"), (article, word)
    assert max(len(expansions) for expansions, _, _ in passages(beat)) <= 64


def test_words_are_single_and_plain():
    assert all(re.fullmatch("[a-z]+", word) for words in WORDS.values() for word in words)
    assert all(re.fullmatch(r"([a-z]+|'s|,) ", token + " ") for text in SCENERY for token in text.split()[:-1])
    assert all(text.endswith(" .") for text in SCENERY)
    assert 900 <= len(literals()) + sum(map(len, WORDS.values())) <= 1200


def test_choices_are_of_several_sorts():
    """Synonyms that change nothing, who acts, and how the plot turns: results are split by them."""
    turns = [beat for beat in BEATS if beat != "wish" and len({following for _, _, following in passages(beat)}) > 1]
    text = " ".join(passage for passages_ in BEATS.values() for passage in passages_)
    assert len(turns) >= 5
    assert text.count("( {A} | {B} )") >= 3
    assert len(re.findall(r"\( [a-z]+ \| [a-z]+ \)", text)) >= 50


def test_random_stories_read_as_texts():
    """The rules above, seen from the end: whole stories have no slot left, and 80 to 200 tokens with scenery."""
    rng = np.random.default_rng(0)
    vocabulary = literals() | {word for words in WORDS.values() for word in words} | {"he", "she", "him", "her", "his"}
    for _ in range(200):
        tokens = story(rng, scenery=1.0)
        names = [token for token in tokens if token[0].isupper()]
        assert 80 <= len(tokens) + len(names) <= 200
        assert set(tokens) <= vocabulary | set(names)
        assert not re.search(r'[{}|<>]| [.,!?]|" "', render(tokens))


def test_the_text_stays_as_it_is():
    """Results belong to a text: an edit of a story starts a new series of results."""
    text = repr((WORDS, OBJECTS, SCENERY, BEATS))
    assert sha256(text.encode()).hexdigest() == "4d09a4e8f666bbdfe0c3db24efd2908a4de6a9f57f272d4b8243409c4dea51a8"
