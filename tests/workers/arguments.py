"""What the launcher and a test hand to a worker."""

import argparse
from pathlib import Path


def worker_arguments() -> argparse.ArgumentParser:
    """The rank that the launcher adds, and `--out`, the file that the first rank writes its JSON into."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--local_rank")
    parser.add_argument("--out", type=Path)
    return parser
