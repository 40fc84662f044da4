"""Environments, one file each; found by `rollout.environment`."""
