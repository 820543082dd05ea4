"""A stand-in for a detector, that knows what it sees by a picture's brightness."""

import numpy as np


class Detector:
    """`predict` gives the detections kept for a picture's brightest value, best first."""

    label_names = detected_names = ("cat", "été")
    rpn_only = False

    def __init__(self, known):
        self.known, self.calls = known, []

    def predict(self, imgs, sizes=None, rois=None):
        self.calls.append((len(imgs), sizes, rois))
        columns = ([], [], [])
        for img in imgs:
            rows = self.known.get(int(img.max()), [])
            columns[0].append(np.array([row[0] for row in rows], dtype=np.float32).reshape(-1, 4))
            columns[1].append(np.array([row[1] for row in rows], dtype=np.int32))
            columns[2].append(np.array([row[2] for row in rows], dtype=np.float32))
        return columns


TWO = [((2.0, 4.0, 20.0, 30.004), 1, 0.9), ((0.0, 0.0, 10.0, 10.0), 0, 0.25)]
