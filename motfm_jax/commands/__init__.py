"""The commands of `motfm`: each module has a `main(arguments)`, which the scripts call too."""
