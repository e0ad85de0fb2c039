"""What measures the project itself: benchmarks, baselines, references, ablations."""
