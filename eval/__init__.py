"""Evaluation: metrics, benchmarks, inference, scores, submissions and reports."""
