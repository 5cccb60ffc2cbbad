"""A run in shards: which of them a process is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shard:
    """Shard `number`, from 1, of `count` that make one run together."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def rows_of(self, total: int) -> range:
        """Return the places of its share of `total` rows: those of all shards make the whole, in their order."""
        return range(total * (self.number - 1) // self.count, total * self.number // self.count)
