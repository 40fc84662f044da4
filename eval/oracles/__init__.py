"""What a world is worth before anything is trained in it: masks of answers that see more or less than a policy does.

Public: `measure_oracles` (all of them, with a reader trained on what is really shown), `OracleSettings`.
"""

from eval.oracles.measure import OracleReport, measure_oracles
from eval.oracles.settings import OracleSettings

__all__ = ["OracleReport", "OracleSettings", "measure_oracles"]
