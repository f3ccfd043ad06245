"""What a person runs, as `python -m commands.NAME`: each translates a command line, no more."""
