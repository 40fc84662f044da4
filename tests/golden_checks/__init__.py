"""One module per golden file: how its cases are computed with this package."""

from tests.golden_checks import jf_davis, o3_rewards, revos_scores, seg_calibration, totals, veason_rewards
from tests.golden_checks.report import Check

CHECKS: dict[str, Check] = {
    check.file: check
    for check in (
        o3_rewards.CHECK,
        veason_rewards.CHECK,
        seg_calibration.CHECK,
        jf_davis.CHECK,
        revos_scores.CHECK,
        *totals.CHECKS,
    )
}
