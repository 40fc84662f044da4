"""Rollouts: verl's agent loop around an environment, what is changed inside vLLM's workers, dialogues that failed.

May import `recipe` and `run`. Public: `agent_loop.VideosegAgentLoop`, `vllm_worker.register_replica`,
`vllm_worker.WorkerExtension`, `failures`; `seg_hidden`, which the worker and the server share with the agent loop.
"""
