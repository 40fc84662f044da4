"""What is minimised: verl's policy loss with calibrated ratios, the supervised loss, group advantages.

May import `seg` and what lies below it. Public: `rl_loss.rl_loss`, `sft_loss.supervised_loss`, `advantage`.
"""
