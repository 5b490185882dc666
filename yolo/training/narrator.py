"""What the first rank shows and writes down while a run goes on; every other rank is silent."""

import sys
from pathlib import Path
from typing import Any

from yolo.recipe import ResolvedRecipe
from yolo.training.ranks import Ranks
from yolo.training.recorder import StepLog
from yolo.training.run_directory import RunDirectory
from yolo.training.summary import RunSummary


class Narrator:
    pass
