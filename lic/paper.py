"""What Pakdaman and Gabbouj report in 'Channel-wise feature decorrelation for enhanced learned image
compression' (2024, arXiv 2403.10936), to be put beside one's own figures."""

from __future__ import annotations

#: Steps that a model is trained: 100 epochs of 330 batches.
STEPS = 33_000

#: BD-rate on Kodak in percent by PSNR and by MS-SSIM (Tables I and II), by architecture and strategy; of the
#: hyperprior the best.
BD_RATES = {
    "cheng2020-anchor": {"y": (-6.94, -1.62), "z": (-6.76, -1.31), "y+z": (-8.06, -2.74)},
    "bmshj2018-hyperprior": {"best": (-1.17, -0.71)},
}

#: By how many percent the loss lengthens a training, at least and at most (Table III).
TRAINING_TIME = (5.32, 9.97)

#: The channels' summed correlation, tuned over baseline, by image (figure 4).
CORRELATION_RATIOS = {"kodim07": 0.51, "kodim08": 0.42}
