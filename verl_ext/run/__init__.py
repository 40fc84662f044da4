"""What every run has: its folder and files, supervision, checkpoints and what may continue them, phases, its report.

May import `recipe` and what lies below ``verl_ext``. Public: `prepare.prepare_run`, `supervise.supervise`,
`checkpoints` (``check_continues``: what a resumed run must share), `verl_config`, `run_files`, `training_report`.
"""
