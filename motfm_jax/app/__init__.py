"""The app: one page on this machine that samples runs, see `motfm app --help`."""
