"""Watching the features: how fresh they are, where NULLs rise, which distributions drift. docs/watching.md says how."""
