"""What the emulator raises."""


class EmulationError(AssertionError):
    """A kernel does what is undefined, or wrong on some GPU; the message says what and where."""
