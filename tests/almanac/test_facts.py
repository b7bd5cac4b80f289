import pytest

from rlhf.almanac.facts import COLUMNS, TABLES, facts, names, read_table, unknown
from rlhf.errors import DataError


def test_every_final_from_1930_to_2022_is_there():
    years = [int(fact.name) for fact in facts("world_cups")]
    played = [year for year in range(1930, 2023, 4) if year not in (1942, 1946)]
    assert years == played


def test_number_of_wins_of_each_team():
    winners = [fact.values["winner"] for fact in facts("world_cups")]
    assert {team: winners.count(team) for team in sorted(set(winners))} == {
        "Argentina": 3, "Brazil": 5, "England": 1, "France": 2, "Germany": 1, "Italy": 4, "Spain": 1,
        "Uruguay": 2, "West Germany": 3,
    }  # fmt: skip


def test_only_1950_was_decided_without_a_final():
    groups = [fact for fact in facts("world_cups") if fact.values["decided_in"] == "final group"]
    assert [fact.name for fact in groups] == ["1950"]
    assert groups[0].words()["match"] == "deciding match"


def test_the_winner_scored_more_or_won_on_penalties():
    for fact in facts("world_cups"):
        ours, theirs = map(int, fact.values["score"].split("-"))
        assert ours > theirs or fact.values["decided_in"].startswith("penalties ")


def test_winner_and_runner_up_differ():
    assert all(fact.values["winner"] != fact.values["runner_up"] for fact in facts("world_cups"))


@pytest.mark.parametrize(
    ("table", "column"),
    [("capitals", "country"), ("capitals", "capital"), ("elements", "name"), ("elements", "symbol"),
     ("elements", "number"), ("planets", "planet"), ("planets", "position")],
)  # fmt: skip
def test_names_in_questions_are_unique(table: str, column: str):
    values = [fact.values[column] for fact in facts(table)]
    assert len(set(values)) == len(values)


def test_six_continents():
    assert len(names()["continent"]) == 6


def test_elements_are_in_the_order_of_their_numbers():
    numbers = [int(fact.values["number"]) for fact in facts("elements")]
    assert numbers == sorted(numbers)


def test_no_name_belongs_to_two_domains():
    seen: dict[str, str] = {}
    for domain, values in names().items():
        for value in values:
            assert seen.setdefault(value, domain) == domain


def test_unknown_names_are_in_no_table():
    known = {value for table in TABLES for fact in facts(table) for value in fact.values.values()}
    assert not known & {*unknown("country"), *unknown("year")}


def test_at_most_300_facts():
    assert sum(len(facts(table)) for table in TABLES) <= 300


def test_articles_are_added_inside_sentences():
    final = next(fact for fact in facts("world_cups") if fact.name == "2010")
    assert final.words()["runner_up"] == "the Netherlands"


def test_an_empty_cell_is_named_with_file_and_line(tmp_path):
    path = tmp_path / "capitals.csv"
    path.write_text(",".join(COLUMNS["capitals"]) + "\nPeru,Lima,South America\nChile,,South America\n")
    with pytest.raises(DataError, match=r"capitals\.csv:3: column 'capital'"):
        list(read_table("capitals", path))
