"""What is raised where a loop cannot become a kernel."""


class UnsplitError(Exception):
    """A loop that this backend cannot make a kernel of; it runs step by step, and the message says why."""
