"""One log line format for all processes."""

import logging
import sys


def setup(process: str, level: str = "INFO") -> None:
    """Send this process's log to stderr, each line named by its process (`broker`, `worker 0`, `front 1`)."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"%(asctime)s {process:<9} %(levelname)-7s %(message)s", "%H:%M:%S"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
