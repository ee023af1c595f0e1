"""Measures the cells of a plan: starts targets, drives Locust, samples, and writes the run folder."""
