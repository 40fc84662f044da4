"""The benchmarks of both papers and your own: one YAML stanza each in ``stanzas/``, no code.

May import `results`, `scorers`, `packagers`.
"""

from eval.benchmarks.benchmark import Benchmark
from eval.benchmarks.load import benchmark_names, load_benchmark

__all__ = ["Benchmark", "benchmark_names", "load_benchmark"]
