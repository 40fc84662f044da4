"""verl's FSDP engine and workers with the head in them; weights out to vLLM and the pool; the CPU as a platform.

May import `objective`, `seg`, `policy`, `packing`, `recipe`. Public: `fsdp` (the engine, ``get_per_tensor_param`` is
the weight sync's side), `workers.SegTrainingWorker`, `workers.SegActorRolloutRefWorker`.
"""
