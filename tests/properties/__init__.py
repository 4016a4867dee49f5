"""Settings of property tests: the same examples in every run, and few enough to be fast."""

from hypothesis import settings

PROPERTY = settings(derandomize=True, max_examples=40, deadline=None, database=None)
