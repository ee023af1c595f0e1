"""Percentiles, intervals and resampling of numbers. Knows no plan, no request and no report."""
