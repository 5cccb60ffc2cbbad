"""Servers that only the tests of deployments need: each module starts its own, on free loopback ports."""
