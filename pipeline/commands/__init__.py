"""The command line and the screen. Feast takes seconds to import: commands import it when they run, not before."""
