"""Measuring validation, beside what others need for the same and what the machine could do."""
