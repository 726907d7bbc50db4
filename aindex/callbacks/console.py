"""A run's results as text for a terminal."""

from aindex.evaluation.measures import RETRIEVAL_FILE, Cell, measures_of
from aindex.evaluation.summary import Series, attack_number, measure_table
from aindex.evaluation.table import Table, plain


def results_text(series: Series) -> str:
    """The table per edit, then every other number; passive and active beside each other where both are known."""
    per_attack = [measure.key for measure in measures_of(RETRIEVAL_FILE)]
    others = measure_table(series, left_out=[*per_attack, "r@1_without_screenshot"])
    return f"{plain(answers_table(series))}\n\n{plain(others)}"


def answers_table(series: Series) -> Table:
    """R@k and AP per edit with the 95 % intervals of shares; passive → active where both are known."""
    means = [results.means for results in series.values()]
    measures = [measure for measure in measures_of(RETRIEVAL_FILE) if measure.key in means[-1]]
    arrow = " passive → active" if len(means) > 1 else ""
    header = ["attack", "n"]
    for measure in measures:
        header += [measure.name + arrow, *(["95 %"] if measure.is_share else [])]
    rows: list[list[Cell]] = []
    for attack, n in means[-1]["images"].items():
        cells: list[Cell] = [str(attack), str(n)]
        for measure in measures:
            numbers = [attack_number(table, str(attack), measure) for table in means]
            cells.append(" → ".join(number.text for number in numbers))
            if measure.is_share:
                cells.append(
                    " → ".join(number.interval.text if number.interval else "" for number in numbers)
                )
        rows.append(cells)
    return Table(header, rows)
