"""Settings of all tests: properties are checked on the same examples every time.

`scripts/test --hypothesis-profile=random` draws others, to look for what is not found
yet.
"""

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("random", deadline=None)
settings.load_profile("repeatable")
