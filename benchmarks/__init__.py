"""Benchmarks: one script a question, all competitors in one run. See README.md."""
