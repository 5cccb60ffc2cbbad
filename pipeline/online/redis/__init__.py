"""Redis' own bytes: layout of a row, scripts, writer."""
