"""What all benchmarks stand on: servers, subjects, alternation, figures, tables."""
