"""Every dataset of a run directory and the meaning of its columns.

These are public contracts: other tools read the files without this package. A column is never
renamed or given another meaning; an undefined number is null (the reason stands beside it), never 0.
The reference page of the documentation is generated from this module.
"""

import pyarrow as pa

from autointerp.artifacts.schemas.cached import (
    ACTIVATIONS,
    CONTEXTS,
    LATENTS,
    RESERVOIR,
    VOCABULARY,
)
from autointerp.artifacts.schemas.labelled import (
    EXAMPLES,
    EXPLANATIONS,
    JUDGEMENTS,
    KINDS,
    SCORES,
)
from autointerp.artifacts.schemas.spec import DatasetSpec

DATASETS: dict[str, DatasetSpec] = {
    spec.name: spec
    for spec in (
        VOCABULARY,
        CONTEXTS,
        ACTIVATIONS,
        RESERVOIR,
        LATENTS,
        EXAMPLES,
        EXPLANATIONS,
        JUDGEMENTS,
        SCORES,
    )
}
"""All datasets of a run directory, by name, in the order the stages write them."""


def empty_table(name: str) -> pa.Table:
    """A table of the named dataset with no rows."""
    return DATASETS[name].schema.empty_table()


def table_of(name: str, rows: list[dict[str, object]]) -> pa.Table:
    """Rows as a table of the named dataset; a missing nullable column is null.

    Raises `ValueError` for a column the schema does not have or a null it does not allow.
    """
    schema = DATASETS[name].schema
    names = set(schema.names)
    for row in rows:
        if not names.issuperset(row):
            raise ValueError(f"{name}: no such column: {sorted(set(row) - names)}")
    table = pa.Table.from_pylist(rows, schema=schema)
    for column in schema:
        if not column.nullable and table.column(column.name).null_count:
            raise ValueError(f"{name}.{column.name}: null in a column that allows none")
    return table


__all__ = [
    "ACTIVATIONS",
    "CONTEXTS",
    "DATASETS",
    "EXAMPLES",
    "EXPLANATIONS",
    "JUDGEMENTS",
    "KINDS",
    "LATENTS",
    "RESERVOIR",
    "SCORES",
    "VOCABULARY",
    "DatasetSpec",
    "empty_table",
    "table_of",
]
