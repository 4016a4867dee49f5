"""Benchmarks: one script per question. All competitors of a question are measured in the same run. See README.md."""
