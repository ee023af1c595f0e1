"""The files of a run folder: raw rows, from which every figure can be computed again."""
