"""From results and ground truth to scores: in memory or clip by clip in processes, on disk and on the screen.

May import `results`, `metrics`, `scorers`, `benchmarks`. Public: `benchmark.score_benchmark`,
`in_memory.score_results`, `files`.
"""
