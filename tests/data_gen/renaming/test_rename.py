"""Renamed stories: which words are names, what a new name may be, and the labels of its two tokens."""

import re
from functools import cache
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from data_gen.renaming.mentions import find_mentions, find_names
from data_gen.renaming.rename import TwoTokenNames, read_documents, rename, rename_characters, sample_tales

TRUE_NAMES = {  # of every sample tale, read by eye; beside them stand London, Thistledown, the Moon, the Saucepan ...
    "Pip was": ["Pip", "Bramble", "Fox"],
    "Lily had": ["Lily", "Tom", "Anna", "Ann", "Ben"],
    "Little Owl": ["Little Owl", "Oliver", "Wren"],
    "It was the week": ["Hope", "Mark", "Biscuit"],
    "Amir had": ["Amir", "Zoe", "Captain", "Grace"],
    "On the island": ["Zuri", "Kofi", "Teodora"],
    "James and": ["James", "Nia", "Barnaby"],
    "Behind the school": ["Rose", "Will", "Okoro"],
}
WORDS_LIKE_NAMES = ["Will it ever open?", "Will you remember", "Will you come", "Mark my words"]  # the tales' only ones


def byte_bpe(texts: list[str], size: int) -> Tokenizer:
    """GPT-2's kind: a token begins with the space before its word."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def unigram(texts: list[str], size: int) -> Tokenizer:
    """SentencePiece's kind: ▁ stands for a space, and punctuation may share a token with letters."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=size, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def word_piece(texts: list[str], size: int, uncased: bool = False) -> Tokenizer:
    """BERT's kind: spaces are no part of tokens, and ## opens a piece that goes on."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if uncased:
        tokenizer.normalizer = normalizers.Lowercase()
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=["[UNK]"], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def of_pieces(pieces: list[str], use_regex: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE that joins just these pieces, for tests that must not depend on how one is trained."""
    merges = dict.fromkeys((piece[:i], piece[i]) for piece in pieces for i in range(1, len(piece)))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = dict.fromkeys(alphabet + [a + b for a, b in merges])
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@cache
def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    kinds = {
        "byte BPE": lambda: byte_bpe(sample_tales(), 900),
        "Unigram": lambda: unigram(sample_tales(), 600),
        "WordPiece": lambda: word_piece(sample_tales(), 900),
        "uncased WordPiece": lambda: word_piece(sample_tales(), 900, uncased=True),
    }
    return PreTrainedTokenizerFast(tokenizer_object=kinds[kind](), unk_token="<unk>")


every_tokenizer = pytest.mark.parametrize("kind", ["byte BPE", "Unigram", "WordPiece", "uncased WordPiece"])


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- reading


def test_the_sample_is_eight_short_tales():
    """A tale that packaging leaves out, or one cut short, would go unnoticed until a study has no data."""
    tales = sample_tales()
    assert [sum(tale.startswith(opening) for tale in tales) for opening in TRUE_NAMES] == [1] * 8 == [1] * len(tales)
    assert all(150 <= len(tale.split()) <= 350 for tale in tales)


def test_stories_are_cut_at_the_separator_and_read_in_order(tmp_path):
    """A separator left in a story would be learned as a word; the last one may open no further story."""
    (tmp_path / "b.txt").write_text("One.\n<|endoftext|>\n\nTwo.\n\nStill two.\n<|endoftext|>\n")
    (tmp_path / "a.txt").write_bytes("\ufeffThree: Zoë.\r\nEnd.".encode())
    (tmp_path / "notes.md").write_text("none")
    assert read_documents(tmp_path / "b.txt") == ["One.", "Two.\n\nStill two."]
    assert read_documents(str(tmp_path)) == ["Three: Zoë.\nEnd.", "One.", "Two.\n\nStill two."]


def test_a_file_that_holds_no_story_is_named(tmp_path):
    (tmp_path / "empty.txt").write_text(" <|endoftext|>\n")
    with pytest.raises(ValueError, match="no story in .*; give a text file that is not empty"):
        read_documents(tmp_path)
    (tmp_path / "latin.txt").write_bytes("Zoë".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin.txt' is not UTF-8 \(.* at byte 2\); convert it"):
        read_documents(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_documents(tmp_path / "missing.txt")


# --- finding names


@pytest.mark.parametrize("hint", ["first names", "no hint"])
def test_the_names_of_the_sample_tales_are_found_and_nothing_else(hint):
    """Precision and recall 1: a day, a place or "Will you ..." taken for a character would get a new name too."""
    found = {}
    for tale in sample_tales():
        (opening,) = (opening for opening in TRUE_NAMES if tale.startswith(opening))
        found[opening] = find_names(tale) if hint == "first names" else find_names(tale, hint=())
    assert found == {opening: found[opening] for opening in TRUE_NAMES}
    wrong = {opening: set(found[opening]) ^ set(names) for opening, names in TRUE_NAMES.items()}
    assert not any(wrong.values()), wrong


def test_names_come_in_the_order_of_their_first_mention():
    """Entity 0 would otherwise be another character with every change of the word lists."""
    assert find_names("So Tom and Lily met Ann. Then Lily and Tom left, and Ann ran.") == ["Tom", "Lily", "Ann"]


@pytest.mark.parametrize(
    "text, names",
    [
        ("We saw Zog. Then Zog ran, and Zog fell.", ["Zog"]),
        ("Zog ran. Zog fell. Zog slept.", []),  # every capital is explained, and nothing says that Zog is a name
        ("Tom ran. Tom fell.", ["Tom"]),  # ... but the list of first names does
        ("He saw Tom.", []),  # once is less than `least`
        ("Will you come? Will it rain? I will.", []),
        ("Will you come? We asked Will. Will ran.", ["Will"]),
        ("We met in May. Was it in May?", []),
        ("We met May. In winter May ran.", ["May"]),
        ("They lived in Zog and died in Zog, and came from Zog to Zog to Zog.", []),
        ("We saw the Zog, and the Zog saw us.", []),
        ("On Monday we met, and then on Monday again; what Monday was, Monday is.", []),
        ("See, Mom came. So Mom left, and Mom and Dad and Dad.", []),
        ("And he said YES, he said YES, and said YES.", []),
        ("Then Mr. Zog said: so Mr. Zog sleeps.", ["Zog"]),
        ("There King Rolf ate, and Rolf sang with King Rolf.", ["Rolf"]),
        ("So Peter Piper sang, and then Peter Piper ran, and Peter sat.", ["Peter"]),
        ("So Old Zog sang, and then Old Zog ran.", ["Old Zog"]),
        ("There O'Brien met Ann-Marie, and O'Brien saw Ann-Marie.", ["O'Brien", "Ann-Marie"]),
        ("", []),
    ],
)
def test_what_makes_a_word_a_name(text, names):
    assert find_names(text) == names


def test_a_word_mostly_written_small_is_no_name_without_a_hint():
    """Emphasis ("the Great Fire") would make characters of adjectives."""
    text = "A fire, and a Fire, and fire and fire, and yet Fire and Fire."
    assert find_names(text) == []
    assert find_names(text, hint=["Fire"]) == ["Fire"]


def test_least_is_the_number_of_mentions():
    text = "Then Zog saw Tom and Zog and Ann and Ann and Zog."
    assert [find_names(text, least=n) for n in (1, 2, 3, 4)] == [["Zog", "Tom", "Ann"], ["Zog", "Ann"], ["Zog"], []]
    with pytest.raises(ValueError, match="least=0 must be 1 or more"):
        find_names(text, least=0)


# --- finding mentions


def test_every_mention_in_the_sample_tales_is_found_and_no_word_is_taken_for_one():
    """A mention missed leaves the old name beside the new: one character more. Counted by the plain letters."""
    for tale in sample_tales():
        (names,) = (names for opening, names in TRUE_NAMES.items() if tale.startswith(opening))
        plain = re.sub("|".join(map(re.escape, WORDS_LIKE_NAMES)), "", tale)
        for name in names:
            expected = len(re.findall(rf"\b(?:{name}|{name.upper()})\b", plain))
            assert sum(mention.name == name for mention in find_mentions(tale, names)) == expected > 1, name


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["Ann", "ANN", "Ann|'s", "Ann|’s", "Ann|s'", "Ann|-like", "Tom", "Peter Piper"])
            | st.sampled_from(["=Anna", "=Ann-Marie", "=Mary-Ann", "=Anns", "=annex", "=Peter", "=and", "=Tomcat"]),
            st.sampled_from([" ", ", ", ". ", "! ", "\n", "\n\n", ' "', '" ', "--", " ("]),
        )
    )
)
@settings(max_examples=200, deadline=None)
def test_mentions_are_whole_words_with_their_exact_span(pieces):
    """The spans are known by construction: "Ann" in "Anna" would leave "Bora" + "a", a wrong end would eat the 's."""
    text, expected = "", []
    for piece, between in pieces:
        word, _, rest = piece.removeprefix("=").partition("|")
        if not piece.startswith("="):
            expected.append((len(text), len(text) + len(word)))
        text += word + rest + between
    mentions = find_mentions(text, ["Ann", "Tom", "Peter Piper", "Piper"])
    assert [(mention.start, mention.end) for mention in mentions] == expected
    assert all(text[m.start : m.end] == (m.name.upper() if m.shouted else m.name) for m in mentions)


@pytest.mark.parametrize(
    "text, mentions",
    [
        ("Will ran. Will you? Will!", [0, 20]),
        ("Will quickly ate. Will the cat eat? We asked Will.", [0, 45]),
        ("Hope's hat. Hope for rain. Hope and Tom sat. Hope, come!", [0, 27, 45]),
        ('"Mark my words," said Mark. "Mark, come!"', [22, 29]),
        ("The Hope sank. The ship, the Hope, sank with Hope.", [45]),
        ("I WILL go. I WILL! WILL! Oh, WILL! YOU WILL SEE!", [19, 29]),
        ("We asked Will\n\nWill! Will\n\nyou", [9, 15]),  # an empty line opens a sentence
        ("Mr. Will ran, and Dr. Will you see.", [4, 22]),  # the full stop of a title opens no sentence
        ("Rose petals fell. Rose needed air. Rose", [18, 35]),
    ],
)
def test_a_name_that_is_also_a_word_is_a_name_only_in_its_place(text, mentions):
    """ "Bora you come?" is no English; the words are those that ALSO_WORDS holds."""
    assert [mention.start for mention in find_mentions(text, ["Will", "Hope", "Mark", "Rose"])] == mentions


def test_a_name_that_the_text_writes_small_is_doubted_too():
    text = "A pip fell. Pip pip! Pip ran. Pip pips fell."
    assert [mention.start for mention in find_mentions(text, ["Pip"])] == [21]
    assert len(find_mentions(text.replace("pip", "bit"), ["Pip"])) == 3


def test_of_two_names_that_fit_the_longer_one_stands():
    text = "Then Peter Piper met Peter. Mr. Piper met Peter Piper-Smith."
    names = ["Peter", "Piper", "Peter Piper", "Mr. Piper"]
    assert [m.name for m in find_mentions(text, names)] == ["Peter Piper", "Peter", "Mr. Piper", "Peter"]
    assert [m.name for m in find_mentions("So said Peter. Piper ran.", names)] == ["Peter", "Piper"]


@pytest.mark.parametrize("name", ["lily", "", "42", "'s"])
def test_a_name_without_a_capital_is_refused(name):
    """Given "lily", every flower would become a character."""
    with pytest.raises(ValueError, match=re.escape(f"name {name!r} must begin with a capital letter")):
        find_mentions("A lily.", [name])


# --- replacing


def test_possessives_capitals_and_words_stay_right():
    text = "Lily's \"LILY!\" The Lilys' lilies, Mr. Fox and Lilyan. “Lily”—Fox’s. Foxes. Lily-like FOX'S LILY."
    expected = "Bo's \"BO!\" The Bos' lilies, Mr. Ka and Lilyan. “Bo”—Ka’s. Foxes. Bo-like KA'S BO."
    assert rename(text, {"Lily": "Bo", "Fox": "Ka"}) == expected


def test_two_characters_may_swap_their_names():
    """Replacing one name after the other would make both the same."""
    assert rename("Tom hit Ann. Ann hit Tom.", {"Tom": "Ann", "Ann": "Tom"}) == "Ann hit Tom. Tom hit Ann."


def test_new_names_that_would_merge_characters_are_refused():
    with pytest.raises(ValueError, match="must give each character a name of its own"):
        rename("Tom hit Ann.", {"Tom": "Bo", "Ann": "Bo"})
    with pytest.raises(ValueError, match="the new name 'Ann' occurs in the text already; use one that does not"):
        rename("Tom hit Ann.", {"Tom": "Ann"})


# --- names of two tokens


def pieces_of(tokenizer, text: str, word: str) -> list[list[str]]:
    """The parts in which the tokenizer cuts each occurrence of a word (one of the text's), character by character."""
    offsets = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)["offset_mapping"]
    found = []
    for match in re.finditer(rf"(?<![^\W_]){word}(?=(?:s['’])?(?![^\W_]))", text):
        tokens = [(a, b) for a, b in offsets if any(a <= i < b for i in range(*match.span()))]
        found.append([text[a:b].lstrip() for a, b in tokens])
    return found


@every_tokenizer
@pytest.mark.parametrize("seed", range(4))
def test_every_mention_of_a_new_name_is_exactly_two_tokens(kind, seed):
    """Three tokens, or a token that eats the quotation mark, would be another task; cut by plain loops here."""
    tokenizer = tokenizer_of(kind)
    result = rename_characters(sample_tales(), tokenizer, rng(seed))
    for text, renaming in zip(result.texts, result.renamings, strict=True):
        for new in renaming.values():
            pieces = pieces_of(tokenizer, text, new)
            assert len(pieces) > 1 and len(set(map(tuple, pieces))) == 1
            assert len(pieces[0]) == 2 and "".join(pieces[0]) == new and pieces[0][1].islower()


@every_tokenizer
def test_the_text_outside_the_mentions_is_the_same_byte_for_byte(kind):
    """Undone by plain replacement: pronouns, spaces, quotation marks and the words that look like names all stay."""
    tales = sample_tales()
    result = rename_characters(tales, tokenizer_of(kind), rng(1))
    for tale, text, renaming in zip(tales, result.texts, result.renamings, strict=True):
        assert text != tale
        for old, new in renaming.items():
            text = text.replace(new, old).replace(new.upper(), old.upper())
        assert text == tale


@every_tokenizer
def test_new_names_and_their_pieces_are_new_to_the_document(kind):
    """A first piece that is a word of the story ("So" + "vik") or of two characters leaves open what comes next."""
    tales = sample_tales()
    result = rename_characters(tales, tokenizer_of(kind), rng(2))
    for tale, text, renaming in zip(tales, result.texts, result.renamings, strict=True):
        words = set(re.findall(r"\w+", tale.lower()))
        cut = [pieces_of(tokenizer_of(kind), text, new)[0] for new in renaming.values()]
        pieces = [piece.lower() for pair in cut for piece in pair] + [new.lower() for new in renaming.values()]
        assert len(set(pieces)) == 3 * len(renaming)
        assert not words & set(pieces)


def test_the_drawn_names_cover_the_grid_of_pieces_evenly():
    """A bias to some pieces makes them guessable; 6 x 5 pieces, so each of 30 names is drawn about 50 times."""
    firsts, seconds = ["Bor", "Kam", "Dil", "Fen", "Gup", "Hox"], ["vik", "zat", "que", "mip", "low"]
    tokenizer = of_pieces([label + first for first in firsts for label in ("Ġ", "")] + seconds)
    maker = TwoTokenNames(tokenizer)
    maker.firsts, maker.seconds = tuple(firsts), tuple(seconds)  # without the "Bo" and "vi" that BPE passes through
    generator = rng()
    drawn = [maker.draw(1, generator)[0] for _ in range(1500)]
    counts = np.array([drawn.count((first, second)) for first in firsts for second in seconds])
    assert counts.sum() == 1500 and ((counts - 50) ** 2 / 50).sum() < 58.3  # chi-squared, 29 d.f., p = .001


@pytest.mark.parametrize(
    "joined, text, fitting",
    [
        ("ra?", "So Lily ran. Is it Lily? So, Lily.", {"Boli", "Kali"}),
        ("(Bo", "So Lily ran. (Lily fell.) So, Lily.", {"Kara", "Kali"}),
    ],
)
def test_a_name_that_fails_in_its_document_is_drawn_anew(joined, text, fitting):
    """Where "ra?" is one token, "Bora" will not do for a name in which a question ends, though it does elsewhere."""
    tokenizer = of_pieces([joined, "Bo", "ĠBo", "Ka", "ĠKa", "ra", "li"], use_regex=False)

    def drawn(text: str) -> set[str]:
        return {rename_characters([text], tokenizer, rng(seed)).renamings[0]["Lily"] for seed in range(30)}

    assert drawn(text) == fitting
    assert drawn("So Lily ran. So, Lily.") == {"Bora", "Boli", "Kara", "Kali"}


def test_tokenizers_without_such_names_are_told_why():
    for tokenizer, reason in (
        (
            of_pieces([]),
            "0 pieces of two to four letters that can begin a name and 0 that can end it .*; use a subword",
        ),
        (ByT5Tokenizer(), "ByT5Tokenizer gives no offsets .*; use a fast tokenizer"),
    ):
        with pytest.raises(ValueError, match=reason):
            TwoTokenNames(tokenizer)
    words = Tokenizer(models.WordLevel({"<unk>": 0, "Bor": 1, "vik": 2, "So": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(ValueError, match=r"document 1: only 0 of 1 names .* \(does it know only whole words\?\)"):
        documents = ["No name.", "So Lily ran. So Lily sat."]
        rename_characters(documents, PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>"), rng())


@pytest.mark.parametrize(
    "documents, reason",
    [
        (["So Lily ran.", ""], "document 1: it has no tokens; leave it out"),
        ([], "no documents to rename; give at least one text"),
        ("So Lily ran.", r"documents must be a list of texts, got a single one; use \[text\]"),
    ],
)
def test_documents_that_cannot_be_renamed_are_named(documents, reason):
    with pytest.raises(ValueError, match=reason):
        rename_characters(documents, tokenizer_of("byte BPE"), rng())


# --- labels


def slow_labels(tokenizer, text: str, new_names: list[str]) -> dict[str, list]:
    """By the definitions, mention by mention and token by token."""
    encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    labels = {name: [-1.0] * len(ids) for name in ("entity", "mention")}
    labels |= {name: [False] * len(ids) for name in ("first_piece", "second_piece", "induction")}
    for entity, new in enumerate(new_names):
        shown = set()
        for n, match in enumerate(re.finditer(f"{new}|{new.upper()}", text), start=1):
            tokens = [t for t, (a, b) in enumerate(offsets) if a < match.end() and b > match.start()]
            for t in tokens:
                labels["entity"][t], labels["mention"][t] = entity, n
            parts = [text[slice(*offsets[t])].strip() for t in tokens]
            if len(parts) == 2 and "".join(parts) == match[0] and [*map(len, parts)] == cut(tokenizer, new):
                first, second = tokens
                labels["first_piece"][first] = labels["second_piece"][second] = True
                labels["induction"][second] = ids[second] in shown
                shown.add(ids[second])
    return labels


def cut(tokenizer, new: str) -> list[int]:
    return [len(piece) for piece in pieces_of(tokenizer, f"{new} ran", new)[0]]


@every_tokenizer
def test_marks_agree_with_their_definitions(kind):
    """Off by one token, a count that goes on over documents, or a first mention called induction."""
    tokenizer = tokenizer_of(kind)
    result = rename_characters(sample_tales() + ["No names here."], tokenizer, rng(3))
    documents = result.documents
    assert documents.tokens.dtype == np.int32 and documents.labels["entity"].dtype == np.float32
    for i, (text, renaming) in enumerate(zip(result.texts, result.renamings, strict=True)):
        document = documents[i : i + 1]
        assert document.tokens.tolist() == tokenizer.encode(text, add_special_tokens=False)
        assert {name: label.tolist() for name, label in document.labels.items()} == slow_labels(
            tokenizer, text, list(renaming.values())
        )
    mentions = sum(len(find_mentions(tale, find_names(tale))) for tale in sample_tales())
    shouted = 0 if kind == "uncased WordPiece" else 4  # PIP, LILY, TOM, NIA
    assert documents.labels["second_piece"].sum() == mentions - shouted
    assert documents.pack(1024).labels["induction"].sum() == documents.labels["induction"].sum() > 150


@pytest.mark.parametrize("capitals, whole", [([], [2, 3]), (["BOR", "VIK"], [1, 2, 3])])
def test_a_mention_in_capitals_counts_but_shows_no_piece(capitals, whole):
    """After "LILY!" alone the second piece of the new name has never been seen: success there is no induction."""
    tokenizer = of_pieces(["Bor", "ĠBor", "vik", *capitals])
    result = rename_characters(["LILY! Lily ran to Lily."], tokenizer, rng(), names=["Lily"])
    assert result.texts == ("BORVIK! Borvik ran to Borvik.",)
    labels = result.documents.labels
    assert labels["mention"][labels["first_piece"]].tolist() == whole
    assert labels["mention"][labels["induction"]].tolist() == [3]
    assert (labels["mention"] == 1).sum() == len(tokenizer.encode("BORVIK"))


def test_given_names_are_those_replaced():
    """The finder must not add its own; a name that a document lacks is no entity of it."""
    texts = ["So Tom met Mom. Tom and Mom sat.", "So Mom sat."]
    result = rename_characters(texts, tokenizer_of("byte BPE"), rng(), names=["Mom", "Lily"])
    assert [list(renaming) for renaming in result.renamings] == [["Mom"], ["Mom"]]
    assert result.texts[0].startswith("So Tom met ") and "Mom" not in "".join(result.texts)


def test_the_same_seed_gives_the_same_stories_and_another_one_others():
    """Vocabularies list their pieces in another order in every process; the names must not depend on it."""
    tokenizer = of_pieces(
        [label + first for first in ("Bor", "Kam", "Dil", "Fen") for label in ("Ġ", "")] + ["vik", "zat"]
    )
    texts = [
        rename_characters(sample_tales()[:1], tokenizer, rng(seed), names=["Pip", "Fox"]).texts[0] for seed in (5, 5, 6)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_the_output_of_a_seed_is_pinned():
    """A change of what is drawn would make published numbers those of other stories."""
    firsts, seconds = ["Bor", "Kam", "Dil", "Fen", "Gup", "Hox", "Jat"], ["vik", "zat", "que", "mip", "low", "rud"]
    tokenizer = of_pieces([label + first for first in firsts for label in ("Ġ", "")] + seconds)
    result = rename_characters(sample_tales(), tokenizer, rng(0))
    digest = sha256("\0".join(result.texts).encode())
    for array in (result.documents.tokens, *result.documents.labels.values()):
        digest.update(array.tobytes())
    assert digest.hexdigest() == "f21c9576c80e7e8e659c24aa7f0282b63a4a330bf0246e62cb467996916080f2"
