"""Feast's registry and what stands beside it in its database: the lock and the ledger."""
