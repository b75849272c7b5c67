"""What holds for all tests."""

from hypothesis import settings

settings.register_profile("busy", deadline=None)  # other tests run beside: time says nothing about an example
settings.load_profile("busy")
