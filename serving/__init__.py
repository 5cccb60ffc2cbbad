"""A faster online store for stock Feast."""
