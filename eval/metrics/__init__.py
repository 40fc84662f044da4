"""J, F and temporal IoU as evaluation reports them; `rewards.metrics` holds them, for rewards and data checks too.

May import ``rewards.metrics`` alone.
"""

from rewards.metrics import *  # noqa: F403
from rewards.metrics import __all__  # noqa: F401
