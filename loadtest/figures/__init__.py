"""What was measured, as numbers without a judgement: the types of a report, and how they are computed from rows."""
