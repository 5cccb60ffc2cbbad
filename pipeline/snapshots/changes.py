"""Two computations of one snapshot, value by value: what the databases told once, and what they tell now."""

import pyarrow as pa
import pyarrow.compute as pc


def with_first_created(table: pa.Table, held: pa.Table) -> pa.Table:
    """Return the snapshot `table` with the `created` that `held` has for rows that are the same there.

    A row is the same if all its values are, so `created` is when these values were computed first. Where `held` has
    other columns no row is the same.
    """
    if held.schema.remove_metadata() != table.schema.remove_metadata():
        return table
    at = pc.index_in(table["asset_id"], value_set=held["asset_id"].combine_chunks())
    is_same = at.is_valid()
    for name in table.column_names:
        if name != "created":
            is_same = pc.and_(is_same, is_equal(table[name], held[name].take(at)))
    first = pc.if_else(is_same, held["created"].take(at), table["created"])
    return table.set_column(table.column_names.index("created"), table.schema.field("created"), first)


def is_equal(one: pa.ChunkedArray, other: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return where two columns have the same value, or none both."""
    return pc.or_(pc.fill_null(pc.equal(one, other), False), pc.and_(one.is_null(), other.is_null()))
