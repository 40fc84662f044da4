"""Everything that plugs into verl: recipes, the policy and its engine, objective, trainer, command line.

Importing this package is cheap; torch, verl, vLLM and Ray are imported by the modules that need them.
"""
