"""Lets the tests of this folder import two_layers.py, as the processes they start do."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
