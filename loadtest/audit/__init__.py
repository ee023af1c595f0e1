"""The auditor: checks the figures of a stress report by arithmetic, ours or another's.

    report.json, _stats.csv, YAML table → table → rules → findings → terminal, Markdown, JSON

It measures nothing: a rule needs only the printed figures, and allows for their rounding, for chance and for the ends
of the run, so that an honest report has no findings.
"""
