"""Models of `transformers`: their cross-attention recorded (`capture`) and trained with the constraints
(`constrained`).

    from xattn.integrations.transformers import capture, constrained
"""

from xattn.integrations.transformers.captured import Captured
from xattn.integrations.transformers.capturing import capture
from xattn.integrations.transformers.constraining import Constrained, constrained
from xattn.integrations.transformers.families import Layer
from xattn.integrations.transformers.patches import patch_boxes

__all__ = ["Captured", "Constrained", "Layer", "capture", "constrained", "patch_boxes"]
