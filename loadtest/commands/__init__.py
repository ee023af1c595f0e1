"""The commands of `python -m loadtest`, each in the file named as it is typed: its options, and what it prints."""
