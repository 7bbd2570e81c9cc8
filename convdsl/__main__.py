"""Lets `python -m convdsl` be the `convdsl` command."""

import sys

from convdsl.cli import main

sys.exit(main())
