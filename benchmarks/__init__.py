"""Benchmarks: commands that measure and print, no tests. Quote medians and ratios of one run."""
