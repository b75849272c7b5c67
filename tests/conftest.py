"""What holds for all tests."""

from hypothesis import settings

from tests.processes import heed_interrupts

heed_interrupts()
settings.register_profile("busy", deadline=None)  # other tests run beside: time says nothing about an example
settings.load_profile("busy")
