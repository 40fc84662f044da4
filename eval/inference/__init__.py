"""Dialogues at scale: policy workers with vLLM, the fleet that feeds and replaces them, the stream to a results file.

May import `results` and `scores`; what it needs of the policy comes as a `backend.PolicyBackend`. Public:
`run.infer`, `run.evaluate`, `run.start_cluster`, `dialogue.InferenceSettings`, `onlooker.WatchedWorker`.
"""
