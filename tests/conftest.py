"""Test settings for every file."""

from hypothesis import settings

# A busy machine takes its time now and then; how long an example takes is no property under test.
settings.register_profile("gonbuild", deadline=None)
settings.load_profile("gonbuild")
