"""The command line: `mtp-lab data | train | evaluate | generate | export | runs | study | zoo`.

Start with `commands`. `runs` holds the commands below `mtp-lab runs`, `parsing` turns words into configs. Not here:
what the commands do, which is the library's business.
"""

from mtp_lab.cli.commands import main

__all__ = ["main"]
