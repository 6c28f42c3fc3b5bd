"""A backbone that stops in the middle, as a process does that is killed or interrupted."""


class BreakingBackbone:
    """Counts its calls and breaks off at number `fail_at`; `vectors(image, boxes)` of a subclass are its features."""

    feature_size = 3

    def __init__(self, fail_at=None):
        self.calls, self.fail_at = 0, fail_at

    def region_features(self, image, boxes):
        self.calls += 1
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        return self.vectors(image, boxes)
