"""Loads a target with multiples of its capacity, and checks what it promises to hold under too much."""
