"""The online store: publishing a snapshot, removing what left, comparing both."""
