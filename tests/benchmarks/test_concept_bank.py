"""The tables of the concept bank: format, sizes, and that no part knows the other's answers."""

from __future__ import annotations

import csv
from collections import Counter
from itertools import pairwise

import pytest

from benchmarks.concept_bank import ROOT, Concept, Kept, interval, load, same, totals

BANK = [concept for part in ("dev", "final") for concept in load(part)]
PAPER = load("paper")
ids = [f"{concept.part}-{concept.name}" for concept in BANK]


def rows_of(concept: Concept) -> list[dict[str, str]]:
    with concept.path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def positives(concept: Concept) -> set[str]:
    return {row["token"].casefold() for row in rows_of(concept) if float(row["activation"]) > 0}


@pytest.mark.parametrize("concept", BANK, ids=ids)
def test_a_table(concept):
    rows = rows_of(concept)
    assert set(rows[0]) == {"token", "activation", "text"}
    n = sum(float(row["activation"]) > 0 for row in rows)
    assert 15 <= n <= 40
    assert 30 <= len(rows) - n <= 120
    for row in rows:
        assert row["token"] == row["token"].strip() != ""
        assert 0 <= float(row["activation"]) <= 10
        assert row["token"] in (row["text"] or row["token"])
    assert concept.kind in {
        "semantic", "language", "script", "speech", "number", "hierarchy", "multiword", "orthographic", "random",
    }  # fmt: skip
    assert concept.judgeable == bool(concept.labels)
    assert concept.judgeable == (concept.kind not in ("orthographic", "random"))


@pytest.mark.parametrize(
    "concept", [c for c in BANK if c.kind != "random"], ids=lambda c: f"{c.part}-{c.name}"
)
def test_no_word_is_both(concept):
    negatives = {row["token"].casefold() for row in rows_of(concept) if float(row["activation"]) == 0}
    assert not positives(concept) & negatives


PREDICATES = {
    "palindrome": lambda w: w == w[::-1],
    "double_letter": lambda w: any(a == b for a, b in pairwise(w)),
    "third_letter_r": lambda w: w[2:3] == "r",
    "even_length": lambda w: len(w) % 2 == 0,
    "letters_in_order": lambda w: list(w) == sorted(w),
    "five_letters": lambda w: len(w) == 5,
    "ends_with_n": lambda w: w[-1] == "n",
    "second_letter_a": lambda w: w[1:2] == "a",
    "no_letter_e": lambda w: "e" not in w,
    "two_vowels": lambda w: sum(letter in "aeiou" for letter in w) == 2,
    "same_first_last": lambda w: w[0] == w[-1],
    "alternating": lambda w: all(
        (a in "aeiou") != (b in "aeiou") for a, b in pairwise(w)
    ),
}  # fmt: skip


@pytest.mark.parametrize("concept", [c for c in BANK if c.kind == "orthographic"], ids=lambda c: c.name)
def test_orthographic_tables_are_what_they_say(concept):
    rule = PREDICATES[concept.name]
    wrong = [
        row["token"]
        for row in rows_of(concept)
        if rule(row["token"].casefold()) != (float(row["activation"]) > 0)
    ]
    assert wrong == []


def test_the_mix_of_both_parts():
    for part, least in (("dev", 24), ("final", 32)):
        concepts = [concept for concept in BANK if concept.part == part]
        assert len(concepts) >= least
        assert 0.7 <= sum(concept.judgeable for concept in concepts) / len(concepts) <= 0.8
        kinds = Counter(concept.kind for concept in concepts)
        for kind in ("semantic", "language", "speech", "number", "hierarchy", "multiword", "orthographic"):
            assert kinds[kind], (part, kind)
        assert kinds["hierarchy"] >= 2
        with_text = sum(any(row["text"] for row in rows_of(concept)) for concept in concepts)
        assert 0.35 <= with_text / len(concepts) <= 0.65


def test_files_and_indexes_agree():
    for part in ("dev", "final", "paper"):
        files = {path.stem for path in (ROOT / part).glob("*.csv")}
        assert files == {concept.name for concept in load(part)}


def test_final_shares_nothing_with_development():
    dev, final = ([c for c in BANK if c.part == part] for part in ("dev", "final"))
    assert not {c.name for c in dev} & {c.name for c in final}
    assert not {label for c in dev for label in c.labels} & {label for c in final for label in c.labels}
    words = [set().union(*(positives(c) for c in part if c.judgeable)) for part in (dev, final)]
    assert len(words[0] & words[1]) <= 0.03 * len(words[0])
    texts = [{row["text"] for c in part for row in rows_of(c) if row["text"]} for part in (dev, final)]
    assert not texts[0] & texts[1]


@pytest.mark.parametrize(
    ("name", "n", "n_positive"),
    [
        ("animals", 241, 31),
        ("mammals", 241, 20),
        ("mammals_words", 110, 22),
        ("numbers", 352, 21),
        ("chinese", 72, 37),
        ("palindromes", 1146, 87),
    ],
)
def test_sets_of_the_paper(name, n, n_positive):
    rows = rows_of(next(c for c in PAPER if c.name == name))
    assert len(rows) == n
    assert sum(row["activation"] == "1" for row in rows) == n_positive


def test_non_mammals_among_the_animals_of_the_paper():
    animals, mammals = (rows_of(next(c for c in PAPER if c.name == n)) for n in ("animals", "mammals"))
    pairs = [(a["activation"], m["activation"]) for a, m in zip(animals, mammals, strict=True)]
    assert Counter(pairs) == {("0", "0"): 210, ("1", "1"): 20, ("1", "0"): 11}


def test_what_counts_as_right():
    concept = next(c for c in BANK if c.name == "mammal")
    assert concept.is_right(" Mammals", "ok")
    assert not concept.is_right("animal", "ok")
    assert not concept.is_right("mammal", "undetermined")
    assert not concept.is_right(None, "undetermined")
    assert concept.has_parent(["animal", "mammal"])
    assert not concept.has_parent(["mammal"])
    assert not concept.has_parent(["food", "mammal"])
    random = next(c for c in BANK if c.kind == "random")
    assert random.is_right(None, "undetermined")
    assert not random.is_right("thing", "ok")
    assert not random.is_right(None, "failed")


def test_same_label():
    assert same("the Vegetables", ["vegetable"])
    assert same("woman's name", ["woman's names"])
    assert same("中文", ["中文"])
    assert not same("class", ["clas"])
    assert not same("", ["vegetable"])


def test_results_are_kept_and_a_torn_line_is_forgotten(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.concept_bank.KEPT", tmp_path)
    Kept("some").add({"key": "a", "right": True})
    with (tmp_path / "some.jsonl").open("a") as file:
        file.write('{"key": "b", "ri')
    assert Kept("some").rows == {"a": {"key": "a", "right": True}}
    assert Kept("some", fresh=True).rows == {}


def test_totals():
    def row(judgeable, right, status, seconds):
        return {
            "concept": f"{judgeable}{seconds}",
            "judgeable": judgeable,
            "right": right,
            "seconds": seconds,
            "cpu_seconds": seconds / 2,
            "result": {"status": status},
        }

    found = totals(
        [
            row(True, True, "ok", 1.0),
            row(True, False, "ok", 2.0),
            row(True, False, "undetermined", 3.0),
            row(False, True, "undetermined", 6.0),
        ]
    )
    assert (found["right"], found["judgeable"], found["undetermined"], found["unjudgeable"]) == (1, 3, 1, 1)
    assert found["right_of_those_labelled"] == 0.5
    assert (found["seconds_mean"], found["seconds_max"]) == (3.0, 6.0)
    assert found["right_interval"] == [round(x, 4) for x in interval(1, 3)]
    twice = [row(True, True, "ok", 1.0), row(True, False, "ok", 1.0)]
    assert totals(twice * 5)["right_interval"] == [round(x, 4) for x in interval(0.5, 1)]
    low, high = interval(6, 47)
    assert (round(low, 3), round(high, 3)) == (0.060, 0.252)
