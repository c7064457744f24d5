"""How figures look."""

import pytest
from figures import Level, Stall
from tables import LEVEL_HEAD, level_cells, markdown, number, stall_cells


def level(server: str, concurrency: int, tokens_per_s: float) -> Level:
    return Level(server, concurrency, 8, 10, 20, 1, 2, tokens_per_s, (1, 2), 1, 1, 0.1, 128, 64)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0.00"), (0.516, "0.52"), (0.999, "1.0"), (5.23, "5.2"), (9.96, "10"), (52.4, "52"), (1234.5, "1,234")],
)
def test_numbers_keep_the_figures_that_matter(value: float, shown: str) -> None:
    assert number(value) == shown


def test_levels_are_grouped_by_concurrency_and_compared_with_ours() -> None:
    levels = [level("theirs", 1, 50), level("theirs", 8, 40), level("ours", 1, 100), level("ours", 8, 30)]
    assert [(row[0], row[1], row[-1]) for row in level_cells(levels, "ours")] == [
        ("1", "ours", ""),
        ("1", "theirs", "2.0×"),
        ("8", "ours", ""),
        ("8", "theirs", "0.75×"),
    ]


def test_without_ours_nothing_is_compared() -> None:
    assert [row[-1] for row in level_cells([level("theirs", 1, 50)], "ours")] == [""]


def test_a_stall_is_compared_the_other_way_round() -> None:
    one_at_a_time = Stall("one at a time", 1, 1, 2, 500)
    cells = stall_cells([Stall("ours", 4, 1, 10, 5), Stall("theirs", 4, 1, 40, 5), one_at_a_time], "ours")
    assert [row[-1] for row in cells] == ["", "4.0×", ""]


def test_markdown_lines_have_one_width_and_say_how_columns_are_set() -> None:
    lines = markdown(LEVEL_HEAD, level_cells([level("ours", 32, 50)], "ours")).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert [cell.strip()[-1] for cell in lines[1].strip("|").split("|")] == [":", "-", *":" * 6]
