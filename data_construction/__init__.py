"""Everything that makes or reads data: readers, synthetic clips, traces, checks.

Import what you need from the sub-packages (``readers``, ``synthetic``, ``cot``, ``check``); none imports torch.
"""
