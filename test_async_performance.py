#!/usr/bin/env python3
"""Shows how long N users wait who all make the same slow call at the same moment.

A gateway that forwards calls one by one needs N x 3 s for N users of a 3 s avatar call; one that forwards
them together needs 3 s. Run it directly, it is no pytest file: `--help` tells what it can do, and the
folder `performance` beside it has how. Both together need `pip install pyreqwest rich ddsketch`, and
matplotlib for --plot.
"""

import os
import sys

from performance.run import main

if __name__ == "__main__":
    exit_code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: pyreqwest 0.15.1 has a thread at work for a moment after close(); when that one lets
    # go of the GIL in an interpreter that finalizes, the process aborts and the exit code is lost.
    os._exit(exit_code)
