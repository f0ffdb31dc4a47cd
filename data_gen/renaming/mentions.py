"""The characters of an English story: which capitalised words are their names, and where they are mentioned.

Rules and short word lists, no model, so that the same text gives the same names everywhere. On the sample tales they
find every name and nothing else (tests/test_renaming.py measures it), but the rules were made with those tales in
view: on other stories look at the result, or give the names. Left out: pronouns, and names that share a character
("Tom" and "Thomas" are two).
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Container, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


FIRST_NAMES = _set(
    """Abby Adam Alex Alice Amelia Amir Amy Andy Ann Anna Annie Anne Arthur Ava Bella Ben Benny Beth Betty Bill Billy
    Bob Bobby Brian Charlie Chloe Chris Clara Daisy Dan Daniel Danny Dave David Dora Eddie Ella Ellie Emily Emma Eric
    Ethan Eva Faith Finn Fred Freddy George Grace Hannah Harry Helen Henry Hope Hugo Ivy Jack Jake James Jane
    Jason Jen Jenny Jerry Jill Jim Jimmy Joe Joey John Johnny Josh Joy Julia June Kate Katie Kevin Kim Kitty Laura
    Leo Liam Lila Lily Lisa Liz Lola Lucas Lucy Luke Maggie Mandy Maria Mark Martha Mary Matt Max May Maya Megan
    Mia Michael Mike Millie Milo Molly Nancy Nick Nina Noah Nora Oliver Olivia Oscar Pat Paul Penny Peter Polly
    Poppy Rachel Ray Rob Robin Ron Rose Rosie Ruby Ruth Sally Sam Sammy Sandy Sara Sarah Sophia Sophie Spot Sue
    Susan Susie Ted Teddy Theo Tim Timmy Tina Toby Tom Tommy Tony Violet Walter Wendy Will William Zoe"""
)
ALSO_WORDS = _set(  # names that open sentences as ordinary words too
    "April Art August Bill Chase Chip Dawn Dot Drew Faith Frank Grace Hope Joy June Mark May Pat Patch Penny Poppy Ray "
    "Rich Rob Rose Spot Sue Summer Sunny Ted Violet Will"
)
TITLES = _set("Mr Mrs Ms Dr St Miss")
NOT_NAMES = TITLES | _set(  # capitalised inside sentences, and no characters
    """Monday Tuesday Wednesday Thursday Friday Saturday Sunday Mondays Tuesdays Wednesdays Thursdays Fridays Saturdays
    Sundays January February March July September October November December Christmas Easter Halloween
    Thanksgiving Hanukkah Ramadan Diwali London Paris Rome Berlin York Chicago Boston England Scotland Ireland
    Wales Britain Europe America Africa Asia Australia Canada India China Japan France Germany Italy Spain Russia
    Egypt Norway English French German Spanish Italian Russian Chinese Japanese Indian American British Mom Mommy
    Mum Mummy Mama Mother Dad Daddy Papa Father Grandma Grandpa Granny Grandmother Grandfather Nana Aunt Auntie
    Uncle Sir Madam God Lord TV OK"""
)
ARTICLES = _set("a an the this these those his her its my your our their every each")
AGAINST = ARTICLES | _set("in into on near around across through outside during last next until since")
NEUTRAL = _set("to from at by of")  # before characters and before places and days alike
VERBS = _set(  # what follows a name that opens a sentence, besides words in -ed and -ly
    """is was has had does did can could would should might must says said told asked went ran came saw felt heard knew
    thought took gave got made put let found left kept began sat stood held ate drank fell flew sang slept spoke
    swam threw woke wore won wrote grew hid lost met rode rose shook sent bent built brought caught bought drew
    drove cut hit set led paid read shut and or never always just also then still soon who"""
)
WORD = re.compile(r"[DLO]['’][A-Z]\w+|[^\W\d_a-z]\w*(?:-[^\W\d_a-z]\w*)+|\w+")  # O'Brien, Ann-Marie, word
OPENS = re.compile(r"[.!?…:]|\n\s*\n|[\"“‘'(]$")  # between two words: the second opens a sentence or a quotation
FOLLOWS = re.compile(r"(['’]\w*|[^\w\s]*)\s*(\w*)")  # after a word: what is glued to it, and the next word
SET_OFF = ("'", "’", ",", ".", "!", "?", ";", ":", "…", "—", "--", '"', "”")


def find_names(text: str, hint: Collection[str] = FIRST_NAMES, least: int = 2) -> list[str]:
    """The characters' names in an English text, in the order of their first mention.

    A name is a word that is mentioned `least` times (`find_mentions`) and is capitalised inside sentences, where no
    full stop or quotation mark explains the capital: at least `least` times, more often than the word is written
    small, and more often than after an article or a preposition of place or time ("the Moon", "in Thistledown", "on
    Friday"). "to" and its like speak neither for nor against. A word of `hint` needs one such place, or none where
    it cannot be another word. Days, holidays, well-known places, titles and "Mom" are never names (NOT_NAMES).

    Words that stand side by side: one that occurs only beside a name ("Oliver *Mole*", "*King* Rolf") is no name of
    its own and stays; words that all occur only together are one name ("Little Owl").

    Raises:
        ValueError: for least < 1.
    """
    if least < 1:
        raise ValueError(f"least={least} must be 1 or more: the mentions that make a word a name")
    words = _words(text)
    small = Counter(word.form for word in words if word.form.islower())
    capitalised = [
        word for word in words if word.form[0].isupper() and not word.form.isupper() and word.form not in NOT_NAMES
    ]
    doubtful = _doubtful({word.form for word in capitalised}, words)
    inside = [word for word in capitalised if not word.opens]
    against = Counter(word.form for word in inside if word.before in AGAINST)
    for_it = Counter(word.form for word in inside if word.before not in AGAINST | NEUTRAL)
    mentions = Counter(word.form for word in capitalised if _is_name_here(word, word.form, doubtful))

    def is_name(form: str) -> bool:
        if form in hint:
            return form not in doubtful or for_it[form] > against[form]
        return for_it[form] >= least and for_it[form] > max(against[form], small[form.lower()])

    return _joined(words, {form for form, n in mentions.items() if n >= least and is_name(form)}, doubtful)


class Mention(NamedTuple):
    """A name at text[start:end], without its possessive."""

    start: int
    end: int
    name: str
    shouted: bool
    """In capitals: LILY."""


def find_mentions(text: str, names: Collection[str]) -> list[Mention]:
    """Where the names stand in the text, as whole words, in order; of two that fit, the longer.

    "Ann" is not in "Anna", nor in "Ann-Marie" or "Mary-Ann", but it is in "Ann's", "Anns'", "ANN" and "Ann-like". A
    name of several words ("Peter Rabbit") stands where all of them do. A name that the text also writes small, or
    that is in ALSO_WORDS, is a name inside sentences unless an article comes before; where it opens one, only before
    an apostrophe, a punctuation mark or a verb in the past ("Will ran.", "Will!", not "Will you come?", "Mark my
    words"); in capitals, only where it stands for itself ("ROSE!").

    Raises:
        ValueError: for a name that does not begin with a capital letter.
    """
    words = _words(text)
    parts = {name: WORD.findall(name) for name in names}
    for name, part in parts.items():
        if not part or not name[0].isupper():
            raise ValueError(f"name {name!r} must begin with a capital letter, such as 'Lily' or 'Peter Rabbit'")
    doubtful = _doubtful(names, words)
    starting = defaultdict(list)  # first word in capitals -> names that begin with it, longest first
    for name in sorted(names, key=lambda name: (-len(parts[name]), name)):
        starting[parts[name][0].upper()].append(name)
    mentions, i = [], 0
    while i < len(words):
        stem = words[i].form[:-1] if words[i].plural else words[i].form
        for name in starting.get(words[i].form.upper()) or starting.get(stem.upper()) or ():
            found = _mention(words[i : i + len(parts[name])], name, parts[name], doubtful)
            if found:
                mentions.append(found)
                i += len(parts[name]) - 1
                break
        i += 1
    return mentions


@dataclass(frozen=True)
class _Word:
    """A word of a text, text[start:end], and what stands around it."""

    form: str
    start: int
    end: int
    before: str
    """The word before, written small, where only white space is between and no sentence opens here."""
    opens: bool
    """It begins a sentence or a quotation, which explains a capital."""
    glued: str
    """What follows without a space: "'s", "," or "."."""
    after: str
    """The next word, where no more than `glued` is between."""

    @property
    def plural(self) -> bool:
        """Lilys': the name is what comes before the s."""
        return self.form.endswith("s") and self.glued in ("'", "’")


def _words(text: str) -> list[_Word]:
    words, last, form = [], 0, ""
    for match in WORD.finditer(text):
        gap = text[last : match.start()]
        title = form in TITLES and gap.startswith(".")
        opens = not last or (not title and OPENS.search(gap) is not None)
        glued, after = FOLLOWS.match(text, match.end()).groups()
        before = form.lower() if gap.isspace() and not opens else ""
        words.append(_Word(match[0], match.start(), match.end(), before, opens, glued, after))
        last, form = match.end(), match[0]
    return words


def _doubtful(names: Iterable[str], words: list[_Word]) -> set[str]:
    """The names that may be ordinary words in this text."""
    small = {word.form for word in words if word.form.islower()}
    return {name for name in names if name in ALSO_WORDS or name.lower() in small}


def _is_name_here(word: _Word, name: str, doubtful: Container[str]) -> bool:
    """Whether a capitalised word that can be a name is one where it stands; the rule is in `find_mentions`."""
    if name not in doubtful:
        return True
    shouted = word.form.isupper()
    if not (word.opens or shouted):
        return word.before not in ARTICLES
    if word.glued:
        return word.glued.startswith(SET_OFF) and not word.before
    return not shouted and (
        not word.after or word.after in VERBS or re.fullmatch(r"\w+[^e]ed|\w+ly", word.after) is not None
    )


def _mention(words: list[_Word], name: str, parts: list[str], doubtful: Container[str]) -> Mention | None:
    """The mention of a name of these parts that begins at words[0], if there is one."""
    if len(words) < len(parts) or not all(_joins(*pair) for pair in pairwise(words)):
        return None
    forms = [word.form for word in words]
    plural = words[-1].plural and forms[-1][:-1] in (parts[-1], parts[-1].upper())
    if plural:
        forms[-1] = forms[-1][:-1]
    shouted = forms != parts
    if shouted and (forms != [part.upper() for part in parts] or len(name) < 2):
        return None
    if not _is_name_here(words[0], name, doubtful):
        return None
    return Mention(words[0].start, words[-1].end - plural, name, shouted)


def _joins(one: _Word, other: _Word) -> bool:
    """Whether nothing but a space, or the full stop of a title, is between them."""
    return bool(other.before) or (one.form in TITLES and one.glued == ".")


def _joined(words: list[_Word], names: set[str], doubtful: Container[str]) -> list[str]:
    """Single names, and names of several words, from the words that can be names; the rule is in `find_names`."""
    runs, run = [], []
    for word in words:
        if run and not (word.form in names and word.before):
            runs.append(run)
            run = []
        if word.form in names and (run or _is_name_here(word, word.form, doubtful)):
            run.append(word)
    runs.append(run)
    alone = {run[0].form for run in runs if len(run) == 1}
    found = []  # in the order of the text
    for run in runs:
        own = [word.form for word in run if word.form in alone]
        found += own or [" ".join(word.form for word in run)]
    return list(dict.fromkeys(filter(None, found)))
