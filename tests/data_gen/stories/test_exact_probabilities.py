"""The reader of stories: every horizon's probabilities are those counted from a list of all possible stories."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
from scipy.stats import chisquare

from data_gen.batch import Batch, Documents
from data_gen.stories.exact_probabilities import StoryReader
from data_gen.stories.generator import GRAMMAR, Stories, story_writer
from data_gen.stories.grammar import PRONOUNS, Grammar, alternatives
from data_gen.stories.name_probabilities import CastReader
from data_gen.stories.names import Pool, draw_cast

N = 8
# Every sort of choice, all within reach of eight tokens: who acts, scenery, turns of the plot, slots mentioned
# once or twice, pronouns, an object, a word that a slot can hold, too, and D before C.
TINY = Grammar(
    words={"place": ("wood", "town"), "toy": ("ball", "kite"), "shade": ("red", "blue")},
    objects={"toy": "shade"},
    beats={
        "arrival": ("in a {place} lived {A} and {B} . >> wish",),
        "wish": (
            "( {A} | {B} ) was ( sad | mad | mad ) . > end",
            "( {A} hid | wood ) . > end",
            "they had a {toy} and {A.his} {toy} broke . > turn",
            "here came {D} and {C} . {D} saw {C.him} . > end",
        ),
        "turn": ("then {B} slept . > end", "{A} found the {toy} in the {place} . > end"),
    },
    scenery=("it ( hailed | froze ) .",),
)
SCENERY = 0.4
POOL = np.array([[1, 1, 0], [1, 1, 1], [0, 1, 1], [1, 0, 1]], bool)  # uneven: which name was drawn first matters
FRESH = np.ones((4, 3), bool)
CASTS = [(0.0, 0.0, True), (0.0, 0.4, False), (0.3, 0.4, True), (1.0, 1.0, True)]


# --- the slow, obvious reference: list every cast, every path, every story


def casts(fresh: float, shared: float) -> dict[tuple, float]:
    """Probability of the names of A to D, each a pair (first, second), summed over where they come from."""
    chances: dict[tuple, float] = Counter()
    for members, source in ((POOL, 1 - fresh), (FRESH, fresh)):
        names = [tuple(name) for name in np.argwhere(members).tolist()]

        def draw(cast: tuple, chance: float, names=names) -> None:
            if len(cast) == 4:
                chances[cast] += chance
                return
            different = [name for name in names if name[0] not in {first for first, _ in cast}]
            again = shared if len(cast) == 1 else 0
            similar = [name for name in names if again and name[0] == cast[0][0] and name != cast[0]]
            for group, share in ((different, 1 - again), (similar, again)):
                for name in group if share else ():
                    draw((*cast, name), chance * share / len(group))

        if source:
            draw((), source)
    return chances


def paths(beat: str = "arrival", open_: bool = False) -> Iterator[tuple[tuple[str, ...], float]]:
    """Every text of TINY from a beat on, as its tokens with slots, and its probability."""
    if beat == "end":
        yield (), 1.0
        return
    scenes = [tuple(scene) for text in TINY.scenery for scene in alternatives(text)]
    fronts = [*((scene, SCENERY / len(scenes)) for scene in scenes), ((), 1 - SCENERY)] if open_ else [((), 1.0)]
    for passage in TINY.beats[beat]:
        text, following = passage.rsplit(">", 1)
        expansions = list(alternatives(text.rstrip("> ")))
        share = 1 / len(expansions) / len(TINY.beats[beat])
        rests = list(paths(following.strip(), text.endswith(">")))
        for (front, p), own, (rest, q) in product(fronts, expansions, rests):
            yield (*front, *own, *rest), p * share * q


def write(path: tuple[str, ...], cast: tuple, drawn: dict[str, int], spans: bool) -> tuple[str, ...]:
    out, met = ["<story>"], False
    for token in path:
        if token == "{toy}":
            out += [TINY.words["shade"][drawn["shade"]]] * (spans or not met) + [TINY.words["toy"][drawn["toy"]]]
            met = True
        elif token[0] == "{" and token[1] in "ABCD":
            who, _, pronoun = token[1:-1].partition(".")
            first, second = cast["ABCD".index(who)]
            out += [PRONOUNS[pronoun][drawn[who]]] if pronoun else [f"N{first}", f"n{second}"]
        else:
            out.append(TINY.words[token[1:-1]][drawn[token[1:-1]]] if token[0] == "{" else token)
    return tuple(out)


def all_stories(fresh: float, shared: float, spans: bool) -> dict[tuple[str, ...], float]:
    chances: dict[tuple[str, ...], float] = Counter()
    everyone = casts(fresh, shared)
    a_and_b: dict[tuple, float] = Counter()  # for stories without C and D
    for (a, b, _, _), p in everyone.items():
        a_and_b[a, b, None, None] += p
    for path, p in paths():
        text = " ".join(path)
        used = [slot for slot in ("place", "toy") if f"{{{slot}}}" in text]
        used += ["shade"] * ("toy" in used) + [who for who in "AC" if f"{{{who}." in text]
        values = [dict(zip(used, drawn, strict=True)) for drawn in product((0, 1), repeat=len(used))]
        for (cast, q), drawn in product((everyone if "{C}" in text else a_and_b).items(), values):
            chances[write(path, cast, drawn, spans)] += p * q / len(values)
    return chances


def sample(grammar: Grammar, n: int, fresh: float, shared: float, scenery: float, spans: bool = True, seed: int = 0):
    """n stories with names of POOL and FRESH, their vocabulary, and the ideal predictor."""
    rng, writer = np.random.default_rng(seed), story_writer(grammar, scenery)
    cast = draw_cast(Pool(POOL), Pool(FRESH), n, 4, rng, fresh, shared)
    cast.pieces[:] += len(writer.compiled_grammar.vocabulary) + np.array([0, 4])
    pieces = (*(f"N{i}" for i in range(4)), *(f"n{i}" for i in range(3)))
    reader = StoryReader(grammar, scenery, CastReader(Pool(POOL), Pool(FRESH), fresh, shared), spans)
    return writer.write(cast, rng, spans), (*writer.compiled_grammar.vocabulary, *pieces), reader


def entropy_of(chances: dict) -> float:
    p = np.array(list(chances.values())) / sum(chances.values())
    return -(p * np.log(p)).sum()


@pytest.mark.parametrize("fresh, shared, spans", CASTS)
def test_all_horizons_are_those_of_the_list_of_all_stories(fresh, shared, spans):
    """Losses, entropies and information of eight horizons, by Bayes' rule on all possible stories.

    Catches: a path's weight left out, scenery not crossed, a slot known too early or forgotten, names of characters in
    between taken as known, an end of the story that counts as a token.
    """
    every = all_stories(fresh, shared, spans)
    assert sum(every.values()) == pytest.approx(1)
    documents, vocabulary, reader = sample(TINY, 20, fresh, shared, SCENERY, spans)
    words = [vocabulary[token] for token in documents.tokens]
    stories = [tuple(words[end - length : end]) for end, length in zip(documents.ends, documents.lengths, strict=True)]
    prefixes = {story[:t] for story in stories for t in range(1, len(story))}
    pairs = defaultdict(lambda: [Counter() for _ in range(N)])  # x_<s -> j -> chance of (x_s, x_{s+j})
    for story, chance in every.items():
        for s in range(1, len(story)):
            if story[:s] not in prefixes:
                break
            for j, later in enumerate(story[s : s + N]):
                pairs[story[:s]][j][story[s], later] += chance
    batch = documents.pack(40)  # rows of several stories
    foresight = reader.foresee(batch, N)
    at = [np.argwhere(batch.documents == i) for i in range(len(stories))]
    expected = {name: np.full(foresight.nll.shape, np.nan) for name in ("nll", "entropy", "information")}
    for story, places in zip(stories, at, strict=True):
        for s in range(1, len(story)):
            for j in range(min(N, len(story) - s)):
                pair, later, own = pairs[story[:s]][j], Counter(), Counter()
                for (x, y), chance in pair.items():
                    own[x] += chance
                    later[y] += chance
                row, target = places[s + j]
                expected["nll"][j, row, target] = -np.log(later[story[s + j]] / sum(later.values()))
                expected["entropy"][j, row, target] = entropy_of(later)
                expected["information"][j, row, places[s][1]] = entropy_of(own) + entropy_of(later) - entropy_of(pair)
    for name, values in expected.items():
        np.testing.assert_allclose(getattr(foresight, name), values, rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("fresh, shared, _", CASTS)
def test_pieces_of_names_are_expected_as_the_list_of_all_casts_has_them(fresh, shared, _):
    """Given any pieces of any characters, whether or not those in between are known."""
    every = casts(fresh, shared)
    rng, cases = np.random.default_rng(0), list(every)
    reader = CastReader(Pool(POOL), Pool(FRESH), fresh, shared)
    for _ in range(60):
        cast = cases[rng.integers(len(cases))]
        known = tuple(name[:k] for name, k in zip(cast, rng.integers(0, 3, 4), strict=True))
        possible = {c: p for c, p in every.items() if all(a[: len(b)] == b for a, b in zip(c, known, strict=True))}
        for character, name in enumerate(known):
            for second in range(len(name), 2):
                expected = np.zeros(3 if second else 4)
                for possible_cast, chance in possible.items():
                    expected[possible_cast[character][second]] += chance / sum(possible.values())
                np.testing.assert_allclose(reader.expected(known, character, second), expected, atol=1e-12)


# --- the real text

WORLDS = [
    Stories(),
    Stories(scenery=0.0).of("validation"),
    Stories(fresh=0.3, shared_first=0.5),
    Stories(repeat_spans=False, scenery=1.0, shared_first=1.0).of("test"),
]


def first_mention(batch: Batch, entity: int) -> np.ndarray:
    """(documents,) where in its row a character is first named; seq where it never is."""
    named = (batch.labels["entity"] == entity) & (batch.labels["mention"] == 1) & batch.labels["first_piece"]
    place = np.full(batch.documents.max() + 1, batch.seq)
    row, at = np.nonzero(named)
    place[batch.documents[row, at]] = at
    return place


@pytest.mark.parametrize("world", WORLDS, ids=range(len(WORLDS)))
def test_horizon_1_agrees_with_the_labels(world):
    """All horizons have the layout of a model's. Labels take C's name as known before D's: where D comes first, the two
    are swapped, and their product is the same."""
    batch = world.sample(12, 200, np.random.default_rng(3))
    labels, foresight = batch.labels, StoryReader.of(world).foresee(batch, 3)
    predicted = ~np.isnan(foresight.nll[0])
    real = batch.documents >= 0
    assert (predicted == (real & (np.roll(batch.documents, 1, axis=1) == batch.documents))).all()
    assert (np.isnan(foresight.nll) == np.isnan(foresight.entropy)).all() and predicted.sum() > 1500
    for i in (2, 3):
        same = batch.documents[:, i:] == batch.documents[:, :-i]
        assert (~np.isnan(foresight.nll[i - 1, :, i:]) == (same & real[:, i:])).all()
    early = np.append(first_mention(batch, 3) < first_mention(batch, 2), False)[batch.documents]  # (rows, seq)
    swapped = early & (labels["entity"] >= 2) & (labels["entity"] < 4) & (labels["mention"] == 1)
    chosen = predicted & ~swapped
    np.testing.assert_allclose(foresight.nll[0][chosen], -np.log(labels["probability"][chosen]), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(foresight.entropy[0][chosen], labels["entropy"][chosen], rtol=1e-5, atol=1e-5)
    assert foresight.nll[0][swapped].sum() == pytest.approx(-np.log(labels["probability"][swapped]).sum(), rel=1e-4)
    np.testing.assert_allclose(foresight.information[0], foresight.entropy[0], atol=1e-12)


@pytest.mark.parametrize("world", WORLDS[1:], ids=range(1, len(WORLDS)))
def test_information_is_between_zero_and_the_entropy(world):
    """0 <= I(x_{s+j}; x_s) <= H(x_s), and the mean loss is the mean entropy at every horizon."""
    foresight = StoryReader.of(world).foresee(world.sample(12, 200, np.random.default_rng(4)), N)
    information, real = foresight.information, ~np.isnan(foresight.information)
    assert information[real].min() > -1e-9
    assert (information - information[:1])[real].max() < 1e-9 and information[0][real[0]].max() > 1
    surplus = foresight.nll - foresight.entropy
    for horizon_surplus in surplus:
        values = horizon_surplus[~np.isnan(horizon_surplus)]
        # tokens of one story are not independent: three times the error of the mean is a bound that holds
        assert abs(values.mean()) < 3 * values.std() / np.sqrt(len(values) / N)
    means = np.nanmean(np.where(np.isnan(foresight.nll[-1]), np.nan, foresight.entropy), axis=(1, 2))
    assert (np.diff(means) > 0.02).all(), "the same targets, from further away"


def test_among_many_stories_frequencies_some_tokens_after_a_common_beginning_are_as_expected():
    """One word per slot, so that beginnings that reach into the plot are common; chi-square, 2 to 8 tokens ahead."""
    grammar = Grammar(
        {slot: words[:1] for slot, words in GRAMMAR.words.items()}, GRAMMAR.objects, GRAMMAR.beats, GRAMMAR.scenery[:2]
    )
    documents, _, reader = sample(grammar, 20_000, 0.3, 0.4, 0.3)
    length = 48
    begins = documents.ends - documents.lengths
    tokens = documents.tokens[begins[:, None] + np.arange(length + N)]  # (stories, length + N)
    tests = 0
    for story in tokens[:12]:
        reading, same_so_far = reader.start(), np.ones(len(tokens), bool)
        for t, token in enumerate(story[:length]):
            reading, same_so_far = reader.read(reading, token), same_so_far & (tokens[:, t] == token)
            for i in (2, 5, 8) if same_so_far.sum() >= 200 and t % 3 == 0 else ():
                expected = same_so_far.sum() * reader.ahead(reading, i)
                counted = np.bincount(tokens[same_so_far, t + i], minlength=len(expected))
                assert expected.sum() == pytest.approx(same_so_far.sum()) and not counted[expected == 0].any()
                often = expected >= 5
                if often.sum() > 1 and expected[often].sum() > 0.8 * same_so_far.sum():
                    sizes = expected[often] * counted[often].sum() / expected[often].sum()
                    assert chisquare(counted[often], sizes).pvalue > 1e-6
                    tests += 1
    assert tests > 30


def test_what_cannot_be_read_is_named():
    reader = StoryReader.of(Stories())
    with pytest.raises(ValueError, match="token 5 cannot follow here"):
        reader.read(reader.start(), 5)
    batch = Documents(np.zeros(1, np.int32), np.array([1])).pack(4)
    with pytest.raises(ValueError, match="n=0 must be at least 1"):
        reader.foresee(batch, 0)
    assert np.isnan(reader.foresee(batch, 2).nll).all()
    cast = CastReader(Pool(POOL), Pool(FRESH))
    with pytest.raises(ValueError, match="piece 0 of character 0 is known"):
        cast.expected(((1,),), 0, False)
    with pytest.raises(ValueError, match="no story has the names"):
        cast.expected(((0, 2),), 1, False)
