"""A recipe as a job of a cluster: what is rendered, submitted, asked for its state, and stopped.

One file a kind of cluster (`local`, `ray_job`, `slurm`, `kuberay`), each a `scheduler.Scheduler`; `node` runs on the
machines of a Slurm job. May import the rooms below. Public: `jobs`.
"""
