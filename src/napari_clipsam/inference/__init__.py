"""Planes and prompts in, masks out."""

import os

# MPS lacks some operations, which torch can run on the CPU one by one. It reads this when it is
# first imported; where that was earlier, `devices.lacks_operation` steps in.
os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
