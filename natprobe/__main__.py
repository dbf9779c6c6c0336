"""``python -m natprobe``: the command line."""

from natprobe.cli import main

main()
