"""What a process leaves to be told in case it is killed, which nothing can be done about within it.

A process of its own waits for the end of what it is sent. It writes the last of it to the standard
error that it shares, which a launcher goes on reading while somebody has it open.
"""

from __future__ import annotations

import subprocess
import sys

TELLER = """
import sys
last = ""
for line in sys.stdin:
    last = line
sys.stderr.write(last[:-1].replace("\\0", "\\n"))
"""


class LastWords:
    """Words that are told on standard error when this process ends without having closed them.

    The process that tells them has a session of its own, for launchers end that of a rank.
    """

    def __init__(self) -> None:
        self._teller = subprocess.Popen(
            [sys.executable, "-I", "-S", "-X", "utf8", "-c", TELLER],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    def leave(self, words: str) -> None:
        """Put these lines in place of the words before."""
        assert self._teller.stdin is not None
        try:
            self._teller.stdin.write(words.replace("\n", "\0").encode() + b"\n")
            self._teller.stdin.flush()
        except OSError:  # somebody ended the teller
            pass

    def close(self) -> None:
        """Nothing has to be told any more."""
        self.leave("")
        self._teller.communicate()
