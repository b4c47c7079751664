"""Real servers, the proxy, and a small client of our own, for end-to-end tests."""
from .crossfade import Crossfade, CtlResult
from .resp import Client, Push, RespError
from .servers import KINDS, Cluster, Standalone, diff, key_slot

__all__ = ["Client", "Cluster", "Crossfade", "CtlResult", "KINDS", "Push", "RespError",
           "Standalone", "diff", "key_slot"]
