"""The one exception whose text is for the person who runs the command."""


class PipelineError(Exception):
    """Something that a person can put right. The text is one line: what failed, where, and what to do next."""
