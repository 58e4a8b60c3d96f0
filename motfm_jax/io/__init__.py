"""Run directories, checkpoints, exports and pictures."""
