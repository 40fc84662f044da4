"""The oracles as text."""

from __future__ import annotations

from eval.oracles.measure import OracleReport
from eval.oracles.settings import LEAST_GAP
from eval.oracles.twins import RIGHT_TWIN


def oracle_table(report: OracleReport) -> str:
    """J&F by oracle, what a reader tells at each budget, and the verdict."""
    lines = [f"{report.expressions} expressions of {report.clips} clips; J&F in percent, ± one standard error"]
    for name, found in report.oracles.items():
        right = f"right object {100 * found['right']:.0f} %"
        lines.append(f"  {name.replace('_', ' '):24s}{found['jf']:6.1f} ± {found['se']:.1f}   {right}")
    if report.readers:
        lines.append("marks told by a reader trained on legible frames, held-out clips:")
    for name, found in report.readers.items():
        told = (
            f"{100 * found['accuracy']:.0f} ± {100 * found['accuracy_se']:.0f} %, chance {100 * found['chance']:.0f} %"
        )
        lines.append(f"  {name.replace('_', ' '):10s} at {found['units']:g} units: {told} ({found['steps']:g} steps)")
    what = "which of two like objects is drawn" if report.best == RIGHT_TWIN else "exploring"
    verdict = f"{what} pays here" if report.pays else f"below {LEAST_GAP:g}: {what} is not what earns J&F here"
    lines.append(f"{report.best.replace('_', ' ')} to the next best: {report.gap:+.1f} J&F; {verdict}")
    return "\n".join(lines)
