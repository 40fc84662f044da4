"""Forward passes over rows of whole groups: every prompt and its pictures once, however many rollouts began with it.

Below `policy`; imports nothing of ``verl_ext``. ``docs/design.md`` has the picture. Public: `dialogue.Dialogue`,
`deal.deal_rows`, `row.lay_out`, `forward.RowForward`, `prepare.use_rows`, `work.operations`.
"""
