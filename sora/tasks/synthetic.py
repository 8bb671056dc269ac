"""Three synthetic tasks, for demonstrations and tests on a machine without GLUE. They say nothing about GLUE.

``pair``    does a scene of two clauses entail a hypothesis? Most hypotheses that do not follow have a word
            from outside the scene; the others need clause boundaries, roles, negation, kinds or quantities.
``single``  is a review positive? It holds two opinions, one of which counts; each may be negated and denied.
``graded``  similarity from 0 to 5: how many of agent, action, patient, place and time two sentences share,
            where a synonym is shared and another word of the same category is not.

Labels are exact (no noise) and balanced, no text occurs twice, and the texts depend on the task alone. Only
``random.Random.random`` is drawn from, the one method whose sequence Python promises to keep between
versions.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from sora.config import TaskConfig
from sora.errors import UserError
from sora.tasks.examples import Examples

T = TypeVar("T")
TRIES = 1000  # draws before a text that is not yet taken is given up


def generate(task: TaskConfig) -> dict[str, Examples]:
    """The splits of ``task.sizes``, made by ``task.generator``.

    Raises UserError for more examples than it has distinct texts.
    """
    taken: set[tuple[str, ...]] = set()
    return {split: _split(task, split, taken) for split in sorted(task.sizes)}


def _split(task: TaskConfig, split: str, taken: set[tuple[str, ...]]) -> Examples:
    """One split; its texts are added to ``taken``."""
    make, size = GENERATORS[task.generator], task.sizes[split]
    rng = random.Random(f"{task.generator} {split}")
    levels = len(task.labels) or len(SLOTS) + 1
    rows: list[tuple[tuple[str, ...], int]] = []
    for index in range(size):
        target = index % levels
        for _ in range(TRIES):
            texts = make(rng, target)
            if texts not in taken:
                break
        else:
            raise UserError(
                f"task.sizes.{split}={size}: the generator {task.generator} has not so many distinct "
                "examples; ask for fewer"
            )
        taken.add(texts)
        rows.append((texts, target))
    rows = [row for _, row in sorted((rng.random(), row) for row in rows)]
    columns = tuple([texts[column] for texts, _ in rows] for column in range(len(task.text_columns)))
    labels = np.array([target for _, target in rows], dtype=np.float32 if task.regression else np.int64)
    return Examples(f"{task.name}/{split}", np.arange(size, dtype=np.int64), columns, labels)


def _pick(rng: random.Random, items: Sequence[T]) -> T:
    return items[int(rng.random() * len(items))]


def _draw(rng: random.Random, items: Sequence[T], count: int) -> list[T]:
    """``count`` different items."""
    left = list(items)
    return [left.pop(int(rng.random() * len(left))) for _ in range(count)]


def _coin(rng: random.Random) -> bool:
    return rng.random() < 0.5


def _words(line: str) -> list[str]:
    return line.split(",")


def _pairs(line: str) -> list[tuple[str, str]]:
    """``a/b,c/d`` as pairs."""
    pairs = (pair.split("/") for pair in _words(line))
    return [(first, second) for first, second in pairs]


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


# --- pair ---

PEOPLE = _words(
    "nurse,farmer,pilot,teacher,tailor,sailor,lawyer,baker,painter,clerk,soldier,singer,miner,plumber,judge,waiter"
)
KINDS = {
    "fruits": _words("apples,pears,plums,cherries,melons"),
    "instruments": _words("violins,guitars,flutes,drums,trumpets"),
    "tools": _words("hammers,saws,shovels,wrenches,drills"),
    "birds": _words("robins,owls,geese,parrots,swans"),
    "vehicles": _words("cars,trucks,bicycles,tractors,buses"),
    "garments": _words("coats,shirts,skirts,scarves,gloves"),
    "flowers": _words("roses,tulips,lilies,daisies,orchids"),
    "weapons": _words("swords,rifles,daggers,spears,pistols"),
}
ACTIONS = _pairs(
    "bought/buy,sold/sell,hid/hide,counted/count,stole/steal,found/find,lost/lose,drew/draw,borrowed/borrow,saw/see"
)
MET = _words("thanked,called,followed,helped,hired,blamed,praised,visited,pushed,warned")
PLACES = _words("at the harbour,in the market,near the church,behind the school,in the valley,at the station")
NUMBERS = _words("two,three,four,five,six,seven,eight,nine")


@dataclass(frozen=True)
class Deed:
    """Somebody did something with a number of things of a kind, somewhere; the number "no" negates."""

    agent: str
    verb: tuple[str, str]  # past tense, infinitive
    number: str
    things: str
    kind: str
    place: str

    def clause(self) -> str:
        return f"the {self.agent} {self.verb[0]} {self.number} {self.things} {self.place}"


WORDS = ("agent", "things", "kind", "place")  # rules that comparing words mostly solves
LOGIC = ("roles", "negation", "monotone", "quantity")  # and those for which it does not
RULES = 3 * WORDS + LOGIC
NEW = 0.85  # share of false hypotheses of WORDS and roles that borrow from outside the scene


def _clauses(rng: random.Random, rule: str, a: Deed, b: Deed, other: Deed, holds: bool) -> tuple[str, str]:
    """The clause of the deed ``a``, and a clause that follows from it or does not.

    Args:
        b: the deed next to it.
        other: the deed that a false hypothesis borrows from.
        holds: whether the second follows from the first.
    """
    source, did = a if holds else other, f"the {a.agent} {a.verb[0]}"
    match rule:
        case "agent":  # who did it
            things = a.kind if _coin(rng) else a.things
            return a.clause(), f"the {source.agent} {a.verb[0]} {things} {a.place}"
        case "things":  # what it was done to
            return a.clause(), f"{did} {source.things} {a.place}"
        case "kind":  # a thing is of its kind and of no other
            return a.clause(), f"{did} some {source.kind}"
        case "place":  # where it happened
            return a.clause(), f"{source.place} {did} {a.things}"
        case "roles":  # who did it to whom, in the active or the passive voice
            met = _pick(rng, MET)
            doer, patient = a.agent, b.agent
            if not holds:
                doer, patient = (patient, doer) if other is b else (other.agent, patient)
            claim = f"the {patient} was {met} by the {doer}" if _coin(rng) else f"the {doer} {met} the {patient}"
            return f"the {a.agent} {met} the {b.agent} {a.place}", claim
        case "negation":  # no things against some things
            negative = _coin(rng)
            scene = replace(a, number="no") if negative else a
            claim = f"the {a.agent} did not {a.verb[1]} any" if negative == holds else f"{did} some"
            return scene.clause(), f"{claim} {a.things}"
        case "monotone":  # who bought violins bought instruments, not vice versa; with "no" it is the other way round
            number = "no" if _coin(rng) else a.number
            narrow, wide = replace(a, number=number), replace(a, number=number, things=a.kind)
            premise, wanted = (narrow, wide) if holds == (number != "no") else (wide, narrow)
            return premise.clause(), f"{did} {number} {wanted.things}"
        case "quantity":  # a number against a bound on it, from either side
            there, bound = _draw(rng, range(len(NUMBERS)), 2)
            phrase = "more than" if holds == (there > bound) else "fewer than"
            return replace(a, number=NUMBERS[there]).clause(), f"{did} {phrase} {NUMBERS[bound]} {a.things}"
    raise ValueError(rule)


def _pair(rng: random.Random, target: int) -> tuple[str, str]:
    """A scene and a hypothesis; target 0 = it follows, 1 = it does not."""
    agents, verbs, places = _draw(rng, PEOPLE, 3), _draw(rng, ACTIONS, 3), _draw(rng, PLACES, 3)
    kinds = _draw(rng, list(KINDS), 3)
    a, b, c = (
        Deed(agent, verb, _pick(rng, NUMBERS), _pick(rng, KINDS[kind]), kind, place)
        for agent, verb, kind, place in zip(agents, verbs, kinds, places, strict=True)
    )
    other = c if rng.random() < NEW else b
    first, hypothesis = _clauses(rng, _pick(rng, RULES), a, b, other, target == 0)
    second = b.clause()
    if _coin(rng):
        first, second = second, first
    return _sentence(f"{first}, {_pick(rng, ('and', 'while', 'but'))} {second}"), _sentence(hypothesis)


# --- single ---

ASPECTS = _words(
    "plot,acting,music,dialogue,ending,staging,humour,pacing,food,service,decor,soup,"
    "view,room,staff,tour,guide,sound,lighting,menu"
)
GOOD = _words(
    "brilliant,delightful,charming,superb,wonderful,moving,clever,fresh,pleasant,excellent,"
    "memorable,warm,elegant,inspired,lovely,impressive"
)
BAD = _words(
    "dull,dreadful,clumsy,awful,boring,tedious,shallow,stale,unpleasant,terrible,"
    "forgettable,cold,sloppy,lazy,ugly,disappointing"
)
PLAIN = ("was {}", "was really {}", "seemed {} to me", "was, as everybody said, {}", "turned out to be {}")
NEGATED = (
    "was not {}",
    "was never {}",
    "was anything but {}",
    "was far from {}",
    "did not seem {} to anyone",
    "was hardly {}",
)
AFFIRMED = ("{}", "{}", "{}", "it is true that {}", "I can confirm that {}")
DENIED = ("it is wrong to say that {}", "nobody can claim that {}", "I deny that {}", "it is a myth that {}")
DENIED_SHARE = 0.1
# {0} is the opinion that counts, {1} the one that does not
FRAMES = (
    "although {1}, {0}",
    "{0}, although {1}",
    "{1}, but {0}",
    "{0}, even if {1}",
    "I had heard that {1}, yet {0}",
    "{0}, whatever they say about how {1}",
)


def _opinion(rng: random.Random, aspect: str, positive: bool) -> str:
    """The word's own polarity, turned by a negation (half of the clauses) and by a denial (DENIED_SHARE)."""
    negated, denied = _coin(rng), rng.random() < DENIED_SHARE
    adjective = _pick(rng, GOOD if positive ^ negated ^ denied else BAD)
    clause = f"the {aspect} {_pick(rng, NEGATED if negated else PLAIN).format(adjective)}"
    return _pick(rng, DENIED if denied else AFFIRMED).format(clause)


def _single(rng: random.Random, target: int) -> tuple[str]:
    """A review; target 1 = the opinion that counts is positive. The other opinion is independent of it."""
    counts, other = _draw(rng, ASPECTS, 2)
    frame = _pick(rng, FRAMES)
    return (_sentence(frame.format(_opinion(rng, counts, target == 1), _opinion(rng, other, _coin(rng)))),)


# --- graded ---


PERSONS = _pairs(
    "doctor/physician,child/kid,thief/robber,soldier/trooper,author/writer,attorney/lawyer,"
    "policeman/police officer,instructor/teacher,seaman/sailor,monarch/king"
)
SLOTS = (
    PERSONS,
    _pairs(
        "called/phoned,cured/healed,deceived/tricked,found/located,frightened/scared,followed/pursued,"
        "helped/assisted,fought/battled,hit/struck,praised/commended"
    ),
    PERSONS,
    _pairs(
        "in the forest/in the woods,at the shop/at the store,on the street/on the road,"
        "in the garden/in the yard,near the sea/near the ocean,by the river/by the stream,"
        "at the airport/at the airfield,in the cellar/in the basement"
    ),
    _pairs(
        "at dawn/at sunrise,at dusk/at sunset,in autumn/in the fall,at noon/at midday,last year/a year ago,"
        "on Christmas/on the 25th of December,last week/a week ago,at night/after dark"
    ),
)
SWAPPED = 0.6  # share of the pairs with other agent and patient in which the two have changed places


def _graded(rng: random.Random, target: int) -> tuple[str, str]:
    """Two sentences that share the content of ``target`` slots, in other words about half the time."""
    shared = set(_draw(rng, range(len(SLOTS)), target))
    agents = _draw(rng, PERSONS, 4)
    drawn = [_draw(rng, meanings, 2) for meanings in SLOTS]
    drawn[0], drawn[2] = agents[:2], agents[2:]
    if not shared & {0, 2} and rng.random() < SWAPPED:
        drawn[0], drawn[2] = [agents[0], agents[2]], [agents[2], agents[0]]
    first = [_pick(rng, here) for here, _ in drawn]
    second = [_pick(rng, drawn[slot][slot not in shared]) for slot in range(len(SLOTS))]
    return _phrased(rng, first), _phrased(rng, second)


def _phrased(rng: random.Random, words: list[str]) -> str:
    """Agent, action, patient, place and time as a sentence, active or passive, in one of three orders."""
    agent, action, patient, place, time = words
    passive, active = f"the {patient} was {action} by the {agent}", f"the {agent} {action} the {patient}"
    core = passive if _coin(rng) else active
    orders = (f"{core} {place} {time}", f"{time} {core} {place}", f"{place} {core} {time}")
    return _sentence(_pick(rng, orders))


GENERATORS: dict[str, Callable[[random.Random, int], tuple[str, ...]]] = {
    "pair": _pair,
    "single": _single,
    "graded": _graded,
}
