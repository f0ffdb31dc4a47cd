"""Stories: the labels are the exact probabilities of the process; every test names the bug it would catch."""

from collections import Counter, defaultdict
from hashlib import sha256
from itertools import product

import numpy as np
import pytest
from scipy.stats import chisquare

from data_gen.batch import Documents
from data_gen.stories.generator import GRAMMAR, Stories, StoryWriter
from data_gen.stories.grammar import PRONOUNS, Grammar, alternatives
from data_gen.stories.names import NamePools, Pool, draw_cast

# Small enough to list every story there can be, with every sort of choice: synonyms, who acts, scenery, turns of the
# plot, slots mentioned once or twice, pronouns, an object.
TINY = Grammar(
    words={"place": ("wood", "town"), "toy": ("ball", "kite"), "shade": ("red", "blue")},
    objects={"toy": "shade"},
    beats={
        "arrival": ("in a {place} lived {A} . ( here | there ) lived {B} , too . >> wish",),
        "wish": (
            "( {A} | {B} ) was ( very | so | so ) sad . > end",
            "{A} and {A.his} {toy} met {B} . >> turn",
            "they wanted a {toy} . > turn",
        ),
        "turn": (
            "{B} had a {toy} and {A} left {B.him} . > end",
            "back in the {place} , ( {A} ate | {B} slept ) . > end",
        ),
    },
    scenery=("it rained .", "it ( hailed | froze ) ."),
)
POOL = np.zeros((4, 3), bool)
POOL[:, :2] = True
FRESH = np.ones((4, 3), bool)
CASTS = [(0.0, 0.0), (0.3, 0.0), (0.0, 0.4), (0.3, 0.4)]


def stories_of(
    grammar: Grammar, n: int, fresh: float, shared: float, scenery: float = 0.4, spans: bool = True, seed: int = 0
):
    """n stories with names of POOL and FRESH, and the vocabulary with which to read them."""
    rng, writer = np.random.default_rng(seed), StoryWriter(grammar, scenery)
    cast = draw_cast(Pool(POOL), Pool(FRESH), n, 4, rng, fresh, shared)
    cast.pieces[:] += len(writer.compiled_grammar.vocabulary) + np.array([0, 4])
    pieces = (*(f"N{i}" for i in range(4)), *(f"n{i}" for i in range(3)))
    return writer.write(cast, rng, spans), (*writer.compiled_grammar.vocabulary, *pieces)


def read(documents: Documents, vocabulary) -> list[tuple[str, ...]]:
    return [tuple(vocabulary[token] for token in story) for story in np.split(documents.tokens, documents.ends[:-1])]


# --- the slow, obvious reference: list every story with its probability


def names_of(fresh: float, shared: float) -> dict[tuple, float]:
    """Probability of each (A, B), each name a pair (first, second), summed over where they come from."""
    chances: dict[tuple, float] = Counter()
    for members, source in ((POOL, 1 - fresh), (FRESH, fresh)):
        pairs = [tuple(pair) for pair in np.argwhere(members).tolist()]
        for a in pairs:
            similar = [b for b in pairs if b[0] == a[0] and b != a]
            others = [b for b in pairs if b[0] != a[0]]
            for b in pairs:
                chance = shared / len(similar) if b in similar else (1 - shared) / len(others) if b in others else 0
                if source * chance:
                    chances[a, b] += source * chance / len(pairs)
    return chances


def paths_of(grammar: Grammar, scenery: float, beat: str = "arrival", open_: bool = False):
    """Every text there can be from a beat on, as its tokens with slots, and its probability."""
    if beat == "end":
        yield (), 1.0
        return
    scenes = [scene for text in grammar.scenery for scene in alternatives(text)]
    fronts = [(tuple(scene), scenery / len(scenes)) for scene in scenes] if open_ else []
    fronts.append(((), 1 - scenery if open_ else 1.0))
    for passage in grammar.beats[beat]:
        text, following = passage.rsplit(">", 1)
        expansions = list(alternatives(text.rstrip("> ")))
        rests = list(paths_of(grammar, scenery, following.strip(), text.endswith(">")))
        share = 1 / len(expansions) / len(grammar.beats[beat])
        for (front, p), own, (rest, q) in product(fronts, expansions, rests):
            yield (*front, *own, *rest), p * share * q


def fill_slots(
    tokens: tuple[str, ...], names: dict[str, tuple], gender: dict[str, int], words: dict[str, str]
) -> tuple[str, ...]:
    """The text with its slots filled."""
    out = ["<story>"]
    for token in tokens:
        if not token.startswith("{"):
            out.append(token)
        elif token[1] in "AB":
            who, _, pronoun = token[1:-1].partition(".")
            out += [PRONOUNS[pronoun][gender[who]]] if pronoun else [f"N{names[who][0]}", f"n{names[who][1]}"]
        else:
            out += [words["shade"], words["toy"]] if token == "{toy}" else [words[token[1:-1]]]
    return tuple(out)


def all_stories(fresh: float, shared: float, scenery: float) -> dict[tuple[str, ...], float]:
    chances: dict[tuple[str, ...], float] = Counter()
    values = [dict(zip(TINY.words, chosen, strict=True)) for chosen in product(*TINY.words.values())]
    genders = [{"A": a, "B": b} for a, b in product((0, 1), repeat=2)]
    paths = list(paths_of(TINY, scenery))
    for (a, b), p in names_of(fresh, shared).items():
        for (tokens, q), gender, words in product(paths, genders, values):
            chances[fill_slots(tokens, {"A": a, "B": b}, gender, words)] += p * q / len(genders) / len(values)
    return chances


@pytest.mark.parametrize("fresh, shared", CASTS)
def test_probabilities_are_those_of_the_list_of_all_stories(fresh, shared):
    """P(token | all before it), entropy and n_choices are those counted from a list of all possible stories.

    Catches: a choice counted when it is drawn instead of at its first mention, a name's pool forgotten or known too
    early, names with the same first piece distinguished too early.
    """
    every = all_stories(fresh, shared, 0.4)
    assert sum(every.values()) == pytest.approx(1)
    documents, vocabulary = stories_of(TINY, 150, fresh, shared)
    stories = read(documents, vocabulary)
    prefixes = {story[:t] for story in stories for t in range(1, len(story))}
    following: dict[tuple, dict[str, float]] = defaultdict(Counter)
    for story, chance in every.items():
        for t in range(1, len(story)):
            if story[:t] not in prefixes:
                break
            following[story[:t]][story[t]] += chance
    expected = {"probability": [], "entropy": [], "n_choices": []}
    for story in stories:
        assert story in every
        for t in range(len(story)):
            chances = following[story[:t]] if t else {"<story>": 1.0}
            p = np.array(list(chances.values())) / sum(chances.values())
            expected["probability"].append(chances[story[t]] / sum(chances.values()))
            expected["entropy"].append(-(p * np.log(p)).sum())
            expected["n_choices"].append(len(p))
    for name, values in expected.items():
        np.testing.assert_allclose(documents.labels[name], values, rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_choice_is_consequential_when_a_later_token_of_the_story_depends_on_it():
    documents, vocabulary = stories_of(TINY, 400, 0.0, 0.0)
    labels_of = defaultdict(set)
    label = np.split(documents.labels["consequential"], documents.ends[:-1])
    for story, consequential in zip(read(documents, vocabulary), label, strict=True):
        for t, token in enumerate(story):
            labels_of[token, story.count(token) > 1].add(bool(consequential[t]))
    assert labels_of["very", False] == labels_of["hailed", False] == labels_of["here", False] == {False}, "synonyms"
    assert labels_of["wood", False] == {False} and True in labels_of["wood", True], "mentioned again or not"
    assert labels_of["they", False] == {True}, "the turn of the plot"
    assert labels_of["red", False] == {False} and True in labels_of["red", True]


@pytest.mark.parametrize("scenery", [0.0, 0.4, 1.0])
def test_the_longest_story_is_the_longest_of_all(scenery):
    """`longest` is the length of a possible story, and none is longer: all paths are listed one by one.
    Catches: a passage that is one token too short, a missing sentence of scenery, or one too many, objects and names
    counted as one token."""
    names, gender = {"A": (0, 0), "B": (1, 1)}, {"A": 0, "B": 0}
    words = {slot: choices[0] for slot, choices in TINY.words.items()}
    lengths = [len(fill_slots(tokens, names, gender, words)) for tokens, chance in paths_of(TINY, scenery) if chance]
    assert StoryWriter(TINY, scenery).compiled_grammar.longest() == max(lengths) > min(lengths)


# --- the real text


def test_no_story_is_longer_than_the_longest():
    """And many are not much shorter. Catches: rows that the longest story does not fit, or that waste a third."""
    for scenery in (0.0, 0.5, 1.0):
        world = Stories(scenery=scenery)
        lengths = world.documents(20_000, np.random.default_rng(3)).lengths
        assert 0.85 * world.longest < lengths.max() <= world.longest
        with pytest.raises(ValueError, match=f"seq={world.longest - 1} must be at least {world.longest}, the longest"):
            world.sample(1, world.longest - 1, np.random.default_rng(0))


def test_among_100_000_stories_frequencies_after_every_common_beginning_are_as_stated():
    """One word per slot, so that beginnings that reach into the plot are common; chi-square after each of them."""
    grammar = Grammar({slot: words[:1] for slot, words in GRAMMAR.words.items()}, GRAMMAR.objects, GRAMMAR.beats, ())
    documents, _ = stories_of(grammar, 100_000, 0.3, 0.4)
    begins = documents.ends - documents.lengths
    length = 48
    tokens = documents.tokens[begins[:, None] + np.arange(length)]  # (stories, length)
    stated = documents.labels["probability"][begins[:, None] + np.arange(length)]
    group = np.zeros(len(tokens), np.int64)  # stories with the same beginning so far
    tests = 0
    for t in range(1, length):
        _, first, together, counts = np.unique(
            group * 2000 + tokens[:, t], return_index=True, return_inverse=True, return_counts=True
        )
        seen, parents = np.bincount(group), group[first]
        for parent in np.flatnonzero(seen >= 1000):
            counted, chances = counts[parents == parent], stated[first[parents == parent], t].astype(float)
            assert chances.sum() < 1 + 1e-5
            expected = seen[parent] * chances
            if len(counted) > 1 and chances.sum() > 1 - 1e-5 and expected.min() >= 5:
                assert chisquare(counted, expected * counted.sum() / expected.sum()).pvalue > 1e-6
                tests += 1
        group = together
    assert tests > 50


@pytest.mark.parametrize("settings", [{}, {"fresh": 0.3, "shared_first": 0.5}, {"repeat_spans": False, "scenery": 1.0}])
def test_mean_surprisal_is_the_mean_entropy(settings):
    """The mean of -log p equals the mean entropy, over all tokens, over choices, and by n_choices."""
    labels = Stories(**settings).documents(20_000, np.random.default_rng(5)).labels
    surplus = -np.log(labels["probability"].astype(float)) - labels["entropy"]
    for chosen in (labels["n_choices"] > 1, labels["n_choices"] == 2, labels["n_choices"] > 2, labels["consequential"]):
        assert abs(surplus[chosen].mean()) < 5 * surplus[chosen].std() / np.sqrt(chosen.sum())
    assert (labels["probability"][labels["n_choices"] == 1] == 1).all() and (labels["entropy"] >= -1e-6).all()


def test_mentions_are_counted_name_by_name():
    """Labels follow from the tokens alone: the entity, the number of the mention, the piece."""
    world = Stories(scenery=0.3)
    documents = world.documents(300, np.random.default_rng(1))
    names, first = world.token_names, len(world.token_names) - 64
    story_labels = {name: np.split(label, documents.ends[:-1]) for name, label in documents.labels.items()}
    for i, story in enumerate(np.split(documents.tokens, documents.ends[:-1])):
        labels = {name: label[i] for name, label in story_labels.items()}
        character = (labels["entity"] >= 0) & (labels["entity"] < 4)
        assert (character == (story >= first)).all()
        assert (labels["first_piece"][:-1] == labels["second_piece"][1:]).all(), "pieces come in pairs"
        assert (labels["induction"] == (labels["second_piece"] & (labels["mention"] > 1))).all()
        seen: dict[float, list] = defaultdict(list)
        for t in np.flatnonzero(labels["first_piece"]):
            seen[labels["entity"][t]].append((names[story[t]], names[story[t + 1]]))
            assert labels["mention"][t] == labels["mention"][t + 1] == len(seen[labels["entity"][t]])
        assert all(len(set(spoken)) == 1 for spoken in seen.values()), "one entity, one name"
        people = [spoken for entity, spoken in seen.items() if entity < 4]
        assert 2 <= len(people) <= 4 and len({spoken[0] for spoken in people}) == len(people)
        assert all(4 <= len(spoken) <= 10 for spoken in people) and 80 <= len(story) <= 200


def test_splits_have_the_same_stories_with_other_names():
    world = Stories(names=NamePools(names=96, held_out=32), fresh=0.5)
    names = {}
    for split in ("train", "validation", "test"):
        documents = world.of(split).documents(3000, np.random.default_rng(2))
        first = np.flatnonzero(documents.labels["first_piece"] & (documents.labels["entity"] < 4))
        names[split] = set(zip(documents.tokens[first].tolist(), documents.tokens[first + 1].tolist(), strict=True))
    assert not names["train"] & (names["validation"] | names["test"]) and not names["validation"] & names["test"]
    assert len(names["validation"]) == 32 and len(names["train"]) > 96


def test_an_adjective_is_mentioned_once_if_spans_are_not_repeated():
    """Leaving it out changes no other token, and no probability."""
    whole, vocabulary = stories_of(TINY, 300, 0.0, 0.0)
    short, _ = stories_of(TINY, 300, 0.0, 0.0, spans=False)
    keep = ~(whole.labels["first_piece"] & (whole.labels["entity"] == 4) & (whole.labels["mention"] > 1))
    assert not keep.all()
    assert (whole.tokens[keep] == short.tokens).all()
    assert (whole.labels["probability"][keep] == short.labels["probability"]).all()
    assert short.lengths.sum() == len(short.tokens)


def test_text_reads_as_text():
    world = Stories()
    token = {name: i for i, name in reversed([*enumerate(world.token_names)])}
    first = world.vocab_size - 64
    spoken = '<story> in a wood lived NAME . " i do n\'t know ! " said NAME . " who ? " NAME \'s ball , too .'
    tokens = [t for word in spoken.split() for t in ([first, first + 32] if word == "NAME" else [token.get(word, -1)])]
    tokens = [t for t in tokens if t >= 0]  # words that the plots do not use
    text = world.render(tokens)
    assert text.startswith("In a") and '. "' in text and " ," not in text and " ." not in text and " i " not in text
    assert "Baba" in text and world.render([]) == ""


def test_the_same_seed_gives_the_same_stories_everywhere():
    batch = Stories(fresh=0.2, shared_first=0.2).sample(64, 256, np.random.default_rng(7))
    assert batch.tokens.shape == (64, 256)
    digest = sha256(batch.tokens.tobytes() + batch.documents.tobytes())
    assert digest.hexdigest()[:16] == "e150d06f9f8f8d42"


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"fresh": 1.5}, "fresh=1.5 must be a share from 0 to 1"),
        ({"split": "dev"}, "split='dev' must be one of train, validation, test"),
        ({"split": "test", "fresh": 0.1}, "use fresh=0 with split='test'"),
        ({"names": NamePools(names=2, first_pieces=2, held_out=2)}, "use more first_pieces"),
        ({"names": NamePools(names=32), "shared_first": 0.1}, "shared_first=0.1 needs two names for every first piece"),
    ],
)
def test_impossible_stories_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Stories(**settings)
